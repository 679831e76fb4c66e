"""People who use the system over HTTP: they send each request, under its key, until there is an answer, and note it."""

import asyncio
import secrets
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from decimal import Decimal
from random import Random
from typing import Any, Final

import aiohttp

ANSWERED_WITHIN_S: Final = 10.0
AGAIN_AFTER_S: Final = 0.3
LOOK_EVERY_S: Final = 1.0
THINK_S: Final = 0.25
"""How long somebody thinks between two deeds, on average."""

DEEDS: Final = 40
"""Afterwards, and once nothing is pending any more, somebody leaves, and somebody else comes."""

BRINGS: Final = Decimal(10_000)
"""More than all that anybody orders and takes out again, so that an order is rejected only when it is to be."""

TOO_DEAR: Final = Decimal(100_000)
UNAVAILABLE: Final = 503
SERVER_ERROR: Final = 500


class Contradiction(Exception):
    """An answer that the contract does not have, or that is not what was said before."""


@dataclass(slots=True)
class Notes:
    """What all people together have seen. `on_confirmed` is called for each order as soon as somebody knows."""

    on_confirmed: Callable[[], None]
    statuses: Counter[int] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    sent_again: int = 0
    replayed: int = 0
    contradictions: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Ordered:
    """An order that was taken, and what was said of it last. `dear` ones must be rejected."""

    price: Decimal
    dear: bool
    status: str
    cancelled: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """What somebody was told."""

    status: int
    body: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Sent:
    """A request that may be sent again under its key, and the first answer."""

    path: str
    body: Any
    key: str
    answer: Answer


class Person:
    """Registers, brings money, orders, cancels, takes money out."""

    def __init__(self, session: aiohttp.ClientSession, base: str, chance: Random, notes: Notes) -> None:
        self.login = f"u{secrets.token_hex(6)}"
        self.orders: dict[str, Ordered] = {}
        self.moved: dict[str, Decimal] = {}
        self.sent: list[Sent] = []
        self._password = secrets.token_hex(8)
        self._token = ""
        self._session = session
        self._base = base
        self._chance = chance
        self._notes = notes
        self._deeds = {
            self._order: 62,
            self._order_too_much: 8,
            self._cancel: 10,
            self._deposit: 8,
            self._withdraw: 8,
            self._ask_again: 4,
        }

    @property
    def pending(self) -> set[str]:
        """The orders whose outcome is not known yet."""
        return {one for one, order in self.orders.items() if order.status == "pending"}

    async def live(self, stop: asyncio.Event) -> None:
        """Come, do this and that, and leave, or be stopped after some deed."""
        await self._arrive()
        done, looked_at = 0, 0.0
        clock = asyncio.get_running_loop().time
        while not stop.is_set() and (done < DEEDS or self.pending):
            await asyncio.sleep(self._chance.expovariate(1 / THINK_S))
            if self.pending and clock() - looked_at > LOOK_EVERY_S:
                await self.look()
                looked_at = clock()
            (deed,) = self._chance.choices(list(self._deeds), list(self._deeds.values()))
            await deed()
            done += 1

    async def look(self) -> None:
        """See what became of orders that were pending."""
        waiting = self.pending
        async for order in self.pages("/orders"):
            if not waiting:
                return
            if order["id"] in waiting:
                waiting.discard(order["id"])
                self._learn(order)

    async def pages(self, path: str) -> AsyncIterator[dict[str, Any]]:
        """Read a list, newest first, page by page."""
        cursor = ""
        while True:
            page = (await self.ask("GET", f"{path}?limit=100{cursor}", expects=(200,))).body
            for item in page["items"]:
                yield item
            if page["next"] is None:
                return
            cursor = f"&cursor={page['next']}"

    async def ask(
        self, method: str, path: str, body: Any = None, *, key: str = "", expects: tuple[int, ...], until: Any = None
    ) -> Answer:
        """Send a request until there is an answer other than "not now" (or `until`); raises `Contradiction`."""
        while True:
            answer = await self._once(method, path, body, key)
            if answer is not None and answer.status in expects:
                return answer
            if answer is not None and answer.status != until and answer.status < SERVER_ERROR:
                raise Contradiction(f"{method} {path} was answered {answer.status}: {answer.body}")
            self._notes.sent_again += 1
            await asyncio.sleep(AGAIN_AFTER_S)

    async def _once(self, method: str, path: str, body: Any, key: str) -> Answer | None:
        headers = {"Authorization": f"Bearer {self._token}"} if self._token else {}
        if key:
            headers["Idempotency-Key"] = key
        try:
            async with self._session.request(
                method, f"{self._base}/client{path}", json=body, headers=headers
            ) as response:
                said = await response.json(content_type=None)
        except (aiohttp.ClientError, TimeoutError, OSError):
            return None
        self._notes.statuses[response.status] += 1
        self._notes.replayed += "Idempotent-Replayed" in response.headers
        if response.status >= SERVER_ERROR and response.status != UNAVAILABLE:
            self._notes.contradictions.append(f"{method} {path} was answered {response.status}: {said}")
        return Answer(response.status, said)

    async def _change(self, path: str, body: Any, *, expects: tuple[int, ...], until: Any = None) -> Answer:
        """Do something under a key of its own, and keep it in mind."""
        key = secrets.token_hex(16)
        answer = await self.ask("POST", path, body, key=key, expects=expects, until=until)
        self.sent.append(Sent(path, body, key, answer))
        return answer

    async def _arrive(self) -> None:
        known = {"login": self.login, "password": self._password}
        await self.ask(
            "POST",
            "/users",
            {**known, "email": f"{self.login}@example.org"},
            key=secrets.token_hex(16),
            expects=(201, 202),
        )
        self._token = (await self.ask("POST", "/login", known, expects=(200,))).body["access_token"]
        await self._move("deposits", BRINGS)

    async def _order(self) -> None:
        await self._place(Decimal(self._chance.randint(100, 1200)) / 100, dear=False)

    async def _order_too_much(self) -> None:
        await self._place(TOO_DEAR, dear=True)

    async def _place(self, price: Decimal, *, dear: bool) -> None:
        answer = await self._change("/orders", {"price": f"{price:.2f}"}, expects=(201, 202))
        self.orders[answer.body["id"]] = Ordered(price, dear, "pending")
        self._learn(answer.body)

    async def _cancel(self) -> None:
        open_ones = [one for one, order in self.orders.items() if not order.dear and not order.cancelled]
        if not open_ones:
            return
        chosen = self._chance.choice(open_ones)
        answer = await self._change(f"/orders/{chosen}/cancel", None, expects=(200,))
        self.orders[chosen].cancelled = True
        self._learn(answer.body)

    async def _deposit(self) -> None:
        await self._move("deposits", Decimal(self._chance.randint(1, 500)) / 100)

    async def _withdraw(self) -> None:
        await self._move("withdrawals", Decimal(self._chance.randint(1, 500)) / 100)

    async def _move(self, what: str, amount: Decimal) -> None:
        # 404: the account of somebody who has come just now is not open yet.
        answer = await self._change(f"/billing/{what}", {"amount": f"{amount:.2f}"}, expects=(201,), until=404)
        self.moved[answer.body["id"]] = amount if what == "deposits" else -amount

    async def _ask_again(self) -> None:
        await self.repeat(self._chance.choice(self.sent))

    async def repeat(self, sent: Sent) -> None:
        """Send a request again under its key; the answer must be the first one, of an order as it stands now."""
        answer = await self.ask("POST", sent.path, sent.body, key=sent.key, expects=(200, 201, 202))
        about = ("id",) if sent.path.startswith("/orders") else tuple(sent.answer.body)
        if any(answer.body[name] != sent.answer.body[name] for name in about):
            raise Contradiction(f"{sent.path} was answered {sent.answer.body}, and the same key now {answer.body}")

    def _learn(self, said: dict[str, Any]) -> None:
        """Take over what was said of an order. What was decided before may only be cancelled."""
        known = self.orders[said["id"]]
        if known.status == said["status"]:
            return
        if known.status != "pending" and not (known.status == "confirmed" and said["status"] == "cancelled"):
            raise Contradiction(f"order {said['id']} was {known.status}, and is now said to be {said['status']}")
        known.status = said["status"]
        self._notes.outcomes[known.status] += 1
        if known.status == "confirmed":
            self._notes.on_confirmed()
