"""Connections of a service to its database: taken in turns, and kept open in between."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

TURN_WITHIN_S: Final = 10.0
"""How long to wait for a connection."""


class Connections:
    """As many at a time as are allowed; whoever has waited longest is next, and gets one that is open already.

    SQLAlchemy's pool lets whoever asks at the right moment overtake those that wait: of 64 readers some waited a second
    for what took the others 16 ms. And to take a connection from it and give it back costs a third of a statement.

    The engines share one limit: connections of another engine make room where there is none.
    """

    def __init__(self, at_most: int, *engines: AsyncEngine) -> None:
        self._at_most = at_most
        self._turns = asyncio.Semaphore(at_most)
        self._idle: dict[AsyncEngine, list[tuple[AsyncConnection, int]]] = {engine: [] for engine in engines}
        self._used: dict[AsyncConnection, tuple[AsyncEngine, int]] = {}
        self._opening = 0
        self._distrusted = 0

    @property
    def in_use(self) -> int:
        """How many are in use."""
        return len(self._used)

    @property
    def idle(self) -> int:
        """How many are open and not in use."""
        return sum(len(some) for some in self._idle.values())

    @property
    def waiting(self) -> int:
        """How many wait for their turn."""
        return len(self._turns._waiters or ())  # noqa: SLF001 - asyncio does not say it otherwise

    def distrust(self) -> None:
        """Use no connection again that was made before now."""
        self._distrusted += 1

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Have a turn until the end of the block. Raises `TimeoutError` after `TURN_WITHIN_S` seconds of waiting."""
        if self._turns.locked():
            async with asyncio.timeout(TURN_WITHIN_S):
                await self._turns.acquire()
        else:
            await self._turns.acquire()  # at once
        try:
            yield
        finally:
            self._turns.release()

    async def take(self, engine: AsyncEngine) -> AsyncConnection:
        """Take a connection, to be given back or dropped before the turn ends. One for each turn."""
        connection, made = await self._open(engine)
        self._used[connection] = (engine, made)
        return connection

    def give_back(self, connection: AsyncConnection) -> None:
        """Let others have a connection that is as it was when it was taken."""
        engine, made = self._used.pop(connection)
        self._idle[engine].append((connection, made))

    async def drop(self, connection: AsyncConnection) -> None:
        """Give up a connection, whatever is the matter with it; what was not committed is rolled back."""
        try:
            await _close(connection)
        finally:
            del self._used[connection]

    @asynccontextmanager
    async def taken(self, engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
        """Have a turn and a connection until the end of the block, after which no transaction must be left on it."""
        async with self.turn():
            connection = await self.take(engine)
            try:
                yield connection
            except BaseException:
                await self.drop(connection)
                raise
            self.give_back(connection)

    async def close(self) -> None:
        """Close what is not in use."""
        for some in self._idle.values():
            while some:
                await _close(some.pop()[0])

    async def _open(self, engine: AsyncEngine) -> tuple[AsyncConnection, int]:
        self._opening += 1
        try:
            while True:
                if self._idle[engine]:
                    connection, made = self._idle[engine].pop()
                    if made == self._distrusted:
                        return connection, made
                    await _close(connection)
                elif self.idle + self.in_use + self._opening > self._at_most:
                    await _close(next(some for some in self._idle.values() if some).pop(0)[0])
                else:
                    made = self._distrusted
                    return await engine.connect(), made
        finally:
            self._opening -= 1


async def _close(connection: AsyncConnection) -> None:
    """Roll back and close, also when whoever closes is cancelled meanwhile."""
    closing = asyncio.create_task(_roll_back_and_close(connection))
    cancelled = False
    while not closing.done():
        try:
            await asyncio.wait({closing})
        except asyncio.CancelledError:
            cancelled = True
    closing.result()
    if cancelled:
        raise asyncio.CancelledError


async def _roll_back_and_close(connection: AsyncConnection) -> None:
    try:
        await connection.rollback()  # close() would not, after a commit that failed
    finally:
        await connection.close()
