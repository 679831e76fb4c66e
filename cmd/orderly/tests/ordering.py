"""A load of orders that goes on whatever happens, and for how long nobody's order was confirmed meanwhile."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

import aiohttp

from libs.ids import uuid7
from libs.tests.eventually import eventually
from orderly.tests.systems import Customer

BETWEEN_S: Final = 0.05
"""How long a customer thinks before the next order, or before asking again."""


@dataclass(slots=True)
class Ordering:
    """What customers were told: when orders were confirmed, and how many were left pending or refused for now."""

    confirmed_at: list[float] = field(default_factory=list)
    pending: int = 0
    refused: int = 0
    over: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def longest_pause_s(self) -> float:
        """The longest time between two orders that were confirmed one after the other."""
        return max((later - earlier for earlier, later in zip(self.confirmed_at, self.confirmed_at[1:], strict=False)))

    async def confirms(self, count: int, *, within_s: float) -> None:
        """Wait until `count` more orders are confirmed."""
        wanted = len(self.confirmed_at) + count
        await eventually(lambda: len(self.confirmed_at) >= wanted, within_s=within_s)

    async def shop(self, person: Customer) -> None:
        """Place one order after the other. One that is not taken is sent again, under its key."""
        while not self.over.is_set():
            key = str(uuid7())
            while not await self._taken(person, key):
                await self._think()
            await self._think()

    async def _taken(self, person: Customer, key: str) -> bool:
        try:
            status, order = await person.order("1", **{"Idempotency-Key": key})
        except (aiohttp.ClientError, TimeoutError):
            return False  # it is not known whether it was taken
        if status == 503:
            self.refused += 1
            return False
        assert status in (201, 202), order
        if order["status"] == "pending":
            self.pending += 1
        else:
            assert order["status"] == "confirmed", order
            self.confirmed_at.append(time.monotonic())
        return True

    async def _think(self) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.over.wait(), BETWEEN_S)


@asynccontextmanager
async def ordering(people: Sequence[Customer]) -> AsyncIterator[Ordering]:
    """Let customers place orders until the end of the block; each of them is then taken, or was refused."""
    orders = Ordering()
    tasks = [asyncio.create_task(orders.shop(person)) for person in people]
    try:
        yield orders
    finally:
        orders.over.set()
        await asyncio.gather(*tasks)
