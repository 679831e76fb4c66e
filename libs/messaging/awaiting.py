"""Awaited answers: a request waits for an outcome that another unit of work, or another replica, commits."""

import asyncio
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar
from uuid import UUID

T = TypeVar("T")


class Awaited:
    """Who waits for what, in memory. A wake-up is a hint to read again, never a proof; the truth is the row.

    Hints get lost (another replica, a restart), so a waiter also reads at growing intervals.
    """

    def __init__(self) -> None:
        self._waiting: dict[UUID, set[asyncio.Event]] = defaultdict(set)

    def wake(self, keys: Iterable[UUID]) -> None:
        """Let everyone who waits for one of `keys` read again."""
        for key in keys:
            for waiter in self._waiting.get(key, ()):
                waiter.set()

    def hear(self, subject: str) -> None:
        """Wake whoever waits for the id at the end of `subject`: the hint of another replica."""
        try:
            key = UUID(subject.rsplit(".", 1)[-1])
        except ValueError:
            return
        self.wake((key,))

    async def settled(
        self,
        key: UUID,
        read: Callable[[], Awaitable[T]],
        done: Callable[[T], bool],
        *,
        patience_s: float,
        interval_s: float = 0.1,
    ) -> T:
        """Read until the value is `done`, or until `patience_s` seconds are over; return the last value read.

        Reads at once, after each hint, at intervals that grow from `interval_s`, and a last time at the end.
        """
        hint = asyncio.Event()
        self._waiting[key].add(hint)
        deadline = time.monotonic() + patience_s
        try:
            while True:
                hint.clear()
                value = await read()
                left_s = deadline - time.monotonic()
                if done(value) or left_s <= 0:
                    return value
                try:
                    async with asyncio.timeout(min(left_s, interval_s)):
                        await hint.wait()
                except TimeoutError:
                    interval_s *= 2
        finally:
            self._waiting[key].discard(hint)
            if not self._waiting[key]:
                del self._waiting[key]
