"""Units of work: one transaction, and the facts it states. Both become true at its commit, or neither."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any, Final, Generic, Protocol, TypeVar
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from libs.contracts import Fact
from libs.messaging import outbox
from libs.messaging.awaiting import Awaited, Awaits
from libs.messaging.envelope import Cause, Outgoing, seal
from libs.storage import Database
from libs.telemetry import Telemetry
from libs.telemetry.messaging import created

StoreT = TypeVar("StoreT")

DEADLINE_S: Final = 15.0
"""A unit of work takes no longer. Half of `ack_wait`, so nothing is delivered again while it is still handled."""


class DeadlineExceeded(TimeoutError):
    """A unit of work took too long and was rolled back: a lock was held elsewhere, or it was too much at once."""


class Unit(Generic[StoreT]):
    """What a handler works with. It never commits; whoever began the unit does."""

    def __init__(self, connection: AsyncConnection, store: StoreT, now: datetime) -> None:
        self.connection = connection
        self.store = store
        self.now = now
        self.outgoing: list[Outgoing] = []
        self.stated: dict[str, list[str]] = {}
        self.told: dict[UUID, Any] = {}
        self.woken: list[UUID] = []

    def publish(self, fact: Fact, *, cause: Cause, restated: bool = False) -> None:
        """State `fact`, because of `cause`. It is published after the commit, at least once."""
        sealed = seal(fact, cause=cause, now=self.now, restated=restated)
        self.outgoing.append(sealed)
        self.stated.setdefault(f"{fact.key_field}s", []).append(sealed.key)

    def tell(self, key: UUID, value: Any) -> None:
        """After the commit, let requests that wait for `key` know that this is its value."""
        self.told[key] = value

    def wake(self, key: UUID) -> None:
        """After the commit, let requests that wait for `key` look again."""
        self.woken.append(key)


class Outlet(Protocol):
    """What units need of the relay."""

    def offer(self, messages: Sequence[Outgoing]) -> None:
        """Take over messages whose transaction has just been committed."""
        ...


class Units(Generic[StoreT]):
    """Begins units of work on one database and hands their facts to the relay once they are committed."""

    def __init__(
        self,
        database: Database,
        store: Callable[[AsyncConnection], StoreT],
        relay: Outlet,
        awaits: Awaits[StoreT] | None = None,
        telemetry: Telemetry | None = None,
    ) -> None:
        self.telemetry = telemetry or Telemetry()
        self._database = database
        self._store = store
        self._relay = relay
        self.awaited = Awaited(self._values_of(awaits), awaits.done if awaits else bool)

    @asynccontextmanager
    async def begin(self) -> AsyncIterator[Unit[StoreT]]:
        """Open a unit of work; commit at the end, roll back on any exception or after `DEADLINE_S` seconds."""
        try:
            async with asyncio.timeout(DEADLINE_S) as deadline, self._database.writing() as connection:
                unit = Unit(connection, self._store(connection), datetime.now(UTC))
                yield unit
                await outbox.write(connection, unit.outgoing)
        except TimeoutError as error:
            if deadline.expired():
                raise DeadlineExceeded(f"a unit of work took longer than {DEADLINE_S:.0f} s") from error
            raise
        created(self.telemetry.spans, unit.outgoing)
        self._relay.offer(unit.outgoing)
        for key, value in unit.told.items():
            self.awaited.tell(key, value)
        self.awaited.hint(unit.woken)

    def _values_of(self, awaits: Awaits[StoreT] | None) -> Callable[[Collection[UUID]], Awaitable[Mapping[UUID, Any]]]:
        async def read(keys: Collection[UUID]) -> Mapping[UUID, Any]:
            if awaits is None:
                return {}
            async with self.read() as store:
                return await awaits.read(store, keys)

        return read

    @asynccontextmanager
    async def read(self) -> AsyncIterator[StoreT]:
        """Open the store for reading what is committed."""
        async with self._database.reading() as connection:
            yield self._store(connection)
