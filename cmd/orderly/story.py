"""The story: eight steps through the gateway, with every request, answer and event on the way."""

import asyncio
import json
import secrets
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import aiohttp

from orderly.tail import Seen

EVENTS_WITHIN_S: Final = 5.0
DEPOSIT: Final = "200.00"
PRICE: Final = "150.00"
LEFT: Final = "50.00"


class StoryFailed(Exception):
    """A step did not end as it must; the message says how."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """A request and its answer. Times are seconds of the event loop's clock."""

    method: str
    path: str
    sent: dict[str, Any] | None
    status: int
    got: Any
    started: float
    ended: float


@dataclass(slots=True)
class Step:
    """A step: what was said to the system, what it answered, and the events that flowed because of it."""

    number: int
    title: str
    started: float
    exchanges: list[Exchange] = field(default_factory=list)
    events: list[Seen] = field(default_factory=list)
    finding: str = ""


class Story:
    """Plays the steps against a running system. `seen` grows with every event that passes by."""

    def __init__(self, session: aiohttp.ClientSession, base_url: str, seen: Sequence[Seen]) -> None:
        self._session = session
        self._base = base_url
        self._seen = seen
        self._login = f"ann-{secrets.token_hex(3)}"
        self._token = ""
        self._told = 0
        self._step: Step | None = None
        self._user_id = ""

    async def play(self) -> AsyncIterator[Step]:
        """Play the eight steps; yields each when it is over. Raises `StoryFailed`."""
        acts: tuple[tuple[str, Callable[[], Any]], ...] = (
            ("Create a user; the billing account exists", self._register),
            ("Put money on the account, through billing", self._deposit),
            ("Place an order the money suffices for", self._order),
            ("The money was taken", self._money_was_taken),
            ("The letter of joy is there", self._joy),
            ("Place an order the money does not suffice for", self._order_too_much),
            ("The money did not change", self._money_did_not_change),
            ("The letter of sorrow is there", self._sorrow),
        )
        for number, (title, act) in enumerate(acts, 1):
            step = self._step = Step(number, title, self._now())
            await act()
            step.events.extend(self._seen[self._told :])
            self._told = len(self._seen)
            yield step

    async def _register(self) -> None:
        given = {"login": self._login, "password": secrets.token_urlsafe(12), "email": f"{self._login}@example.org"}
        user = await self._call("POST", "/users", {**given, "first_name": "Ann"}, expect=201)
        self._expect(user["account"] is not None, "the account is not open")
        token = await self._call("POST", "/login", {name: given[name] for name in ("login", "password")}, expect=200)
        self._token = token["access_token"]
        account = await self._call("GET", "/billing/account", expect=200)
        self._expect(account["balance"] == "0.00", f"the balance is {account['balance']}")
        self._user_id = user["id"]
        await self._events(user["id"], "auth.user.registered", "billing.account.opened")
        self._found(f"account {user['account']} is open, with {account['balance']} on it")

    async def _deposit(self) -> None:
        deposit = await self._call("POST", "/billing/deposits", {"amount": DEPOSIT}, expect=201)
        self._expect(deposit["balance"] == DEPOSIT, f"the balance is {deposit['balance']}")
        await self._events(self._user_id, "billing.account.credited", "notifications.letter.stored")
        self._found(f"the balance is {deposit['balance']}")

    async def _order(self) -> None:
        self._joyful = await self._call("POST", "/orders", {"price": PRICE, "description": "a lamp"}, expect=201)
        self._expect(self._joyful["status"] == "confirmed", f"the order is {self._joyful['status']}")
        await self._order_events("billing.payment.accepted", "orders.order.confirmed", self._joyful["id"])
        self._found(f"order {self._joyful['id']} is confirmed")

    async def _money_was_taken(self) -> None:
        await self._balance_is(LEFT)
        self._found(f"{DEPOSIT} - {PRICE} = {LEFT}")

    async def _joy(self) -> None:
        await self._letter(self._joyful["id"], "joy")

    async def _order_too_much(self) -> None:
        self._sad = await self._call("POST", "/orders", {"price": PRICE, "description": "another lamp"}, expect=201)
        self._expect(self._sad["status"] == "rejected", f"the order is {self._sad['status']}")
        await self._order_events("billing.payment.declined", "orders.order.rejected", self._sad["id"])
        self._found(f"order {self._sad['id']} is rejected: {self._sad['reason'].replace('_', ' ')}")

    async def _money_did_not_change(self) -> None:
        await self._balance_is(LEFT)
        self._found(f"still {LEFT}")

    async def _sorrow(self) -> None:
        await self._letter(self._sad["id"], "sorrow")

    async def _balance_is(self, expected: str) -> None:
        account = await self._call("GET", "/billing/account", expect=200)
        self._expect(account["balance"] == expected, f"the balance is {account['balance']}, not {expected}")

    async def _letter(self, order_id: str, kind: str) -> None:
        deadline = self._now() + EVENTS_WITHIN_S
        while True:
            letters = (await self._call("GET", f"/notifications?order_id={order_id}", expect=200))["items"]
            if letters or self._now() > deadline:
                break
        kinds = [letter["kind"] for letter in letters]
        self._expect(kinds == [kind], f"the letters are {kinds}, not {[kind]}")
        self._found(f"to {letters[0]['recipient']}: {letters[0]['subject']}")

    async def _call(self, method: str, path: str, body: dict[str, Any] | None = None, *, expect: int) -> Any:
        assert self._step is not None
        headers = {"Authorization": f"Bearer {self._token}"} if self._token else {}
        started = self._now()
        url = f"{self._base}/client{path}"
        async with self._session.request(method, url, json=body, headers=headers) as response:
            got = json.loads(await response.read())
            exchange = Exchange(method, f"/client{path}", body, response.status, got, started, self._now())
        self._step.exchanges.append(exchange)
        self._expect(exchange.status == expect, f"{method} {path} answered {exchange.status}: {json.dumps(got)}")
        return got

    async def _order_events(self, answer: str, outcome: str, order_id: str) -> None:
        await self._events(order_id, "orders.order.placed", answer, outcome, "notifications.letter.stored")

    async def _events(self, about: str, *types: str) -> None:
        """Wait until events of these types about this id have passed by since the step began."""
        wanted = {f"{kind}.{about}" for kind in types}
        deadline = self._now() + EVENTS_WITHIN_S
        while missing := wanted - {seen.subject for seen in self._seen[self._told :]}:
            self._expect(self._now() < deadline, f"no {', '.join(sorted(missing))} within {EVENTS_WITHIN_S:.0f} s")
            await asyncio.sleep(0.005)

    def _expect(self, true: bool, otherwise: str) -> None:
        assert self._step is not None
        if not true:
            raise StoryFailed(f"step {self._step.number} ({self._step.title}): {otherwise}")

    def _found(self, finding: str) -> None:
        assert self._step is not None
        self._step.finding = finding

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()
