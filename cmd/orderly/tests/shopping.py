"""Customers who go on shopping whatever happens, and hold every answer against what was promised."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from http import HTTPStatus
from typing import Any, Final

import aiohttp

from libs.ids import uuid7
from orderly.tests.systems import Customer

HONEST: Final = {HTTPStatus.OK, HTTPStatus.CREATED, HTTPStatus.ACCEPTED, HTTPStatus.CONFLICT}
AGAIN_AFTER_S: Final = 1.0
"""What `Retry-After` says, at most."""


@dataclass(slots=True)
class Answers:
    """What customers were answered."""

    statuses: Counter[int] = field(default_factory=Counter)
    slowest: tuple[float, str] = (0.0, "")
    dishonest: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Shopper:
    """A customer who does one thing after the other, each until it is done, under one idempotency key."""

    customer: Customer
    answers: Answers
    calm: asyncio.Event
    """Set once nothing is wrong any more: then nobody waits before asking again."""

    async def shop(self, stop: asyncio.Event) -> None:
        """Order, cancel, pay in, and look, until told to stop."""
        while not stop.is_set():
            _, order = await self.done("POST", "/orders", {"price": "1"})
            self.customer.orders[order["id"]] = Decimal(1)
            await self.done("GET", f"/orders/{order['id']}")
            if len(self.customer.orders) % 3 == 0:
                await self.done("POST", f"/orders/{order['id']}/cancel")
            status, _ = await self.done("POST", "/billing/deposits", {"amount": "2"})
            assert status == HTTPStatus.CREATED
            self.customer.deposited += 2
            await self.done("GET", "/billing/account")
            await self.done("GET", "/notifications?limit=5")

    async def done(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """Ask until it is done, as a client does that was told to try again."""
        headers = {"Idempotency-Key": str(uuid7())} if method == "POST" else {}
        while True:
            status, answer = await self._ask(method, path, body, headers)
            if status in HONEST:
                return status, answer
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(AGAIN_AFTER_S):
                    await self.calm.wait()

    async def _ask(self, method: str, path: str, body: Any, headers: dict[str, str]) -> tuple[int, Any]:
        customer, clock = self.customer, asyncio.get_running_loop().time
        sent = {**headers, "Authorization": f"Bearer {customer.token}"}
        began = clock()
        try:
            async with customer.session.request(
                method, f"{customer.base}/client{path}", json=body, headers=sent
            ) as response:
                status, answer = response.status, await response.json(content_type=None)
                honest = status in HONEST or (
                    status == HTTPStatus.SERVICE_UNAVAILABLE and float(response.headers["Retry-After"]) <= AGAIN_AFTER_S
                )
        except (aiohttp.ClientError, TimeoutError, KeyError, ValueError) as error:
            status, answer, honest = 0, repr(error), False
        self.answers.statuses[status] += 1
        self.answers.slowest = max(self.answers.slowest, (clock() - began, f"{method} {path}: {status}"))
        if not honest:
            self.answers.dishonest.append(f"{method} {path}: {status} {answer}")
        return status, answer


@asynccontextmanager
async def shopping(people: Sequence[Customer]) -> AsyncIterator[Answers]:
    """Have people shop until the end of the block, and finish what they have begun; give what they were answered."""
    answers, calm, stop = Answers(), asyncio.Event(), asyncio.Event()
    tasks = [asyncio.create_task(Shopper(person, answers, calm).shop(stop)) for person in people]
    try:
        yield answers
        calm.set()
        stop.set()
        async with asyncio.timeout(60):
            await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
