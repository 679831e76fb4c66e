"""Stories: what people do, and what happens to the machines meanwhile. Drawn from a seed, before anything runs."""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import Final

from libs.money import format_minor
from libs.web.identity import Caller
from orderly.simulation.world import Answered, Process, World, caller

NAMES: Final = ("ann", "bob", "eve", "joe")
SERVICES: Final = ("auth", "profiles", "billing", "orders", "notifications")
TRIES: Final = 8


@dataclass(slots=True)
class Deed:
    """Something somebody does, once: one idempotency key, however often it is sent. `number` makes it recognisable."""

    number: int
    who: str
    what: str
    amount_minor: int = 0
    of: int | None = None
    """The number of the deed that it is about: the order to cancel, the request to send again."""
    waits: bool = True
    """Whether whoever does it waits for the answer before they go on."""
    pause_s: float = 0.0
    answers: list[Answered] = field(default_factory=list)
    unanswered: bool = False
    """Whether it was sent and some sending got no answer: it may have had its effect, or not."""
    sent: bool = False

    @property
    def key(self) -> str:
        """Its idempotency key."""
        return f"key {self.number}"

    @property
    def answer(self) -> Answered | None:
        """The first answer that is more than "try again"."""
        return next((one for one in self.answers if one.status != 503), None)

    def __str__(self) -> str:
        about = f" {format_minor(self.amount_minor)}" if self.amount_minor else ""
        return f"[{self.number}] {self.what}{about}{f' of [{self.of}]' if self.of is not None else ''}"


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happens to a machine."""

    at_s: float
    kind: str
    target: str = ""
    number: int = 0
    lasts_s: float = 0.0


@dataclass(slots=True)
class Story:
    """What happens. Deeds of one person are done one after the other; acts end with a quiet point."""

    seed: int
    replicas: dict[str, int]
    first_start: bool
    acts: list[tuple[list[Deed], list[Event]]]

    def deeds(self) -> list[Deed]:
        """List what everybody does."""
        return [deed for deeds, _ in self.acts for deed in deeds]

    @classmethod
    def of(cls, seed: int) -> "Story":
        """Draw the story of a seed."""
        chance = Random(f"story {seed}")  # noqa: S311 - chance here is to be the same again
        replicas = {name: 2 if chance.random() < 0.25 else 1 for name in SERVICES}
        people = list(NAMES[: chance.choice((1, 1, 2, 3))])
        acts: list[tuple[list[Deed], list[Event]]] = []
        count = 0
        for act in range(chance.choice((1, 1, 2))):
            deeds = _deeds(chance, people, first=act == 0, count=count)
            count += len(deeds)
            acts.append((deeds, _events(chance)))
        return cls(seed, replicas, chance.random() < 0.2, acts)


_DEEDS: Final = ("deposit",) * 3 + ("withdraw",) * 2 + ("order",) * 5 + ("cancel",) * 3 + ("profile",) * 3 + ("note",)


def _deeds(chance: Random, people: Sequence[str], *, first: bool, count: int) -> list[Deed]:
    deeds: list[Deed] = []

    def add(who: str, what: str, amount_minor: int = 0, of: int | None = None) -> Deed:
        waits = chance.random() < 0.6
        pause_s = 0.4 * chance.random() ** 3
        deed = Deed(count + len(deeds), who, what, amount_minor, of, waits, pause_s)
        deeds.append(deed)
        return deed

    for who in people if first else ():
        add(who, "register")
        if chance.random() < 0.8:
            add(who, "deposit", 100 * chance.randint(20, 90) + len(deeds))
    for _ in range(chance.randint(3, 7)):
        who, what = chance.choice(people), chance.choice(_DEEDS)
        earlier = [
            deed.number for deed in deeds if deed.who == who and deed.what not in ("register", "again", "profile")
        ]
        if earlier and chance.random() < 0.15:
            add(who, chance.choice(("again", "other")), of=chance.choice(earlier))
        elif what == "cancel":
            orders = [deed.number for deed in deeds if deed.who == who and deed.what == "order"]
            if orders:
                add(who, "cancel", of=chance.choice(orders))
        else:
            # The last two digits are the number of the deed, by which its effect is told from others.
            amount = 100 * chance.randint(1, 60) + (count + len(deeds)) % 100
            add(who, what, amount if what in ("deposit", "withdraw", "order") else 0)
    return deeds


_EVENTS: Final = (
    ("crash",) * 8 + ("stop",) * 2 + ("broker away",) * 2 + ("cut off",) * 2 + ("restored", "wiped", "deleted")
)


def _events(chance: Random) -> list[Event]:
    events = []
    for _ in range(chance.choice((0, 0, 1, 1, 2, 3))):
        at_s = 2.5 * chance.random() ** 2
        lasts_s = 12 + 4 * chance.random() if chance.random() < 0.06 else chance.random()
        events.append(Event(at_s, chance.choice(_EVENTS), chance.choice(SERVICES), chance.randint(0, 150), lasts_s))
    return sorted(events, key=lambda event: event.at_s)


class Telling:
    """A story that is being told in a world."""

    def __init__(self, story: Story, world: World) -> None:
        self.story = story
        self.world = world
        self.callers: dict[str, Caller] = {}
        self._turn = 0

    async def act(self, number: int) -> None:
        """Let everybody do what they do in an act, under its events; return when all have their answers."""
        deeds, events = self.story.acts[number]
        happening = [asyncio.create_task(self._happen(event)) for event in events]
        people = {deed.who: [one for one in deeds if one.who == deed.who] for deed in deeds}
        await asyncio.gather(*(self._live(some) for some in people.values()), *happening)

    async def _live(self, deeds: Sequence[Deed]) -> None:
        under_way = []
        for deed in deeds:
            await asyncio.sleep(deed.pause_s)
            doing = asyncio.create_task(self._do(deed))
            under_way.append(doing)
            if deed.waits or deed.what == "register":
                await doing
        await asyncio.gather(*under_way)

    async def _do(self, deed: Deed) -> None:
        who = self.callers.get(deed.who)
        if who is None and deed.what != "register":
            return
        if deed.what in ("again", "other"):
            (earlier,) = (one for one in self.story.deeds() if one.number == deed.of)
            if earlier.sent and earlier.what != "cancel":
                await self._send(earlier if deed.what == "again" else deed, who, like=earlier)
        elif deed.what == "cancel":
            (order,) = (one for one in self.story.deeds() if one.number == deed.of)
            order_id = await self._find(order, who)
            if order_id is not None:
                await self._send(deed, who, order_id=order_id)
        else:
            await self._send(deed, who)
        if deed.what == "register" and deed.answer is not None and deed.answer.status in (201, 202):
            self.callers[deed.who] = caller(deed.answer.body["id"], deed.who)

    async def _find(self, order: Deed, who: Caller | None) -> str | None:
        """Find an order in the list, for whoever does not wait until its placing is answered."""
        for _ in range(6):
            if order.answer is not None:
                break
            listed = await self._once(order, Asked("orders", "GET", "/orders"), None, who)
            for item in listed.body["items"] if listed and listed.status == 200 else ():
                if item["description"] == f"thing {order.number}":
                    return str(item["id"])
            await asyncio.sleep(0.05)
        return order.answer.body.get("id") if order.answer else None

    async def _send(
        self, deed: Deed, who: Caller | None, *, like: Deed | None = None, order_id: str | None = None
    ) -> None:
        """Send a request until it is answered, as a client does that does not know what became of it."""
        asked = _asked(like or deed, order_id)
        key = (like or deed).key if asked.method == "POST" else None
        if like is not None and like is not deed:
            asked = _with_another_body(asked, like)
        for _ in range(TRIES):
            deed.sent = True
            answer = await self._once(deed, asked, key, who)
            if answer is None:
                deed.unanswered = True
            else:
                deed.answers.append(answer)
                if answer.status == 500:
                    self.world.complain(f"{deed} is answered 500: {answer.body}")
                if answer.status != 503:
                    return
            await asyncio.sleep(0.5)

    async def _once(self, deed: Deed, asked: "Asked", key: str | None, who: Caller | None) -> Answered | None:
        """Ask one of the processes that are there; None when there is no answer."""
        ready = [one for one in self.world.processes[asked.service] if one.alive and not one.stopping]
        if not ready:
            return Answered(503, {"slug": "unavailable"})
        self._turn += 1
        process = ready[self._turn % len(ready)]
        self.world.note(deed.who, f"{deed}: {asked} at {process.name}")
        task = process.ask(asked.method, asked.path, json.dumps(asked.body).encode(), key, who)
        await asyncio.wait({task})
        if task.cancelled() or self.world.weather.happens(self.world.weather.lost_answer):
            self.world.note(deed.who, f"{deed}: gets no answer")
            return None
        answer = task.result()
        if asked.method != "GET":
            self.world.note(deed.who, f"{deed}: {answer.status} {json.dumps(answer.body)}")
        return answer

    async def _happen(self, event: Event) -> None:
        await asyncio.sleep(event.at_s)
        processes = self.world.processes[event.target]
        process = processes[event.number % len(processes)]
        self.world.note("story", f"{event.kind} {process.name} ({event.lasts_s:.2f} s)")
        match event.kind:
            case "crash":
                await self._crash(process, event)
            case "stop":
                await self._stop(process)
            case "cut off":
                process.bus.go_away()
                await asyncio.sleep(event.lasts_s)
                process.bus.come_back()
            case "deleted":
                self.world.broker.streams.pop(event.target.upper(), None)
                self.world.broker.changed()
            case _:
                await self._lose_broker(event)

    async def _crash(self, process: Process, event: Event) -> None:
        if event.number % 2:
            process.dies_at = event.number // 6
        else:
            process.dies_after = event.number
        await asyncio.sleep(0.5)
        if process.alive and not process.stopping:
            process.crash()
        await asyncio.sleep(event.lasts_s)
        if process in self.world.processes[event.target]:
            self.world.bury(process)
            self.world.start(event.target)

    async def _stop(self, process: Process) -> None:
        if process.alive and not process.stopping:
            await process.stop()
            if process in self.world.processes[process.service.name]:
                self.world.bury(process)
                self.world.start(process.service.name)

    async def _lose_broker(self, event: Event) -> None:
        """Take the broker away for a while; it may come back without what it kept, or with what it once kept."""
        broker = self.world.broker
        store = broker.copy() if event.kind == "restored" else {}
        await asyncio.sleep(event.lasts_s / 2)
        self.world.broker_away = True
        for process in self.world.everybody():
            process.bus.go_away()
        if event.kind != "broker away":
            broker.restore(store)
        await asyncio.sleep(event.lasts_s / 2)
        self.world.broker_away = False
        for process in self.world.everybody():
            process.bus.come_back()


@dataclass(frozen=True, slots=True)
class Asked:
    """A request."""

    service: str
    method: str
    path: str
    body: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.method} {self.path}{f' {json.dumps(self.body)}' if self.body else ''}"


def _asked(deed: Deed, order_id: str | None) -> Asked:
    number, who = deed.number, deed.who
    money = {"amount": format_minor(deed.amount_minor)}
    match deed.what:
        case "register":
            body = {"login": who, "password": "secret", "email": f"{who}@example.org"}
            asked = Asked("auth", "POST", "/users", body)
        case "deposit":
            asked = Asked("billing", "POST", "/billing/deposits", money)
        case "withdraw":
            asked = Asked("billing", "POST", "/billing/withdrawals", money)
        case "order":
            body = {"price": money["amount"], "description": f"thing {number}"}
            asked = Asked("orders", "POST", "/orders", body)
        case "cancel":
            asked = Asked("orders", "POST", f"/orders/{order_id}/cancel")
        case "profile":
            body = {"email": f"{who}.{number}@example.org", "first_name": f"{who} {number}"}
            asked = Asked("profiles", "PUT", f"/profiles/{who}", body)
        case _:
            body = {"subject": f"note {number}", "body": "to myself"}
            asked = Asked("notifications", "POST", "/notifications", body)
    return asked


def _with_another_body(asked: Asked, deed: Deed) -> Asked:
    """Change what a request says, but not the number by which its effect is known."""
    if "amount" in asked.body:
        return replace(asked, body={"amount": format_minor(deed.amount_minor + 100)})
    other = "description" if "price" in asked.body else "body"
    return replace(asked, body={**asked.body, other: "something else"})
