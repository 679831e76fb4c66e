"""What tests of messaging play on: messages, a migrated database with a table of effects, a relay, units of work."""

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

from sqlalchemy import Column, ForeignKey, Integer, MetaData, Table, Uuid, delete, insert, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from libs.contracts import Fact, stream_of
from libs.contracts.orders import OrderPlaced
from libs.ids import uuid7
from libs.messaging.awaiting import Awaits
from libs.messaging.bus import Bus, Delivery, Durable, Subscription
from libs.messaging.envelope import Origin, Outgoing, headers_of
from libs.messaging.relay import Relay
from libs.messaging.tables import METADATA as MESSAGING
from libs.messaging.tables import outbox
from libs.messaging.unit import Unit, Units
from libs.storage import Database
from libs.storage.migrations import migrate
from libs.tracing import Trace

METADATA = MetaData()
effects = Table("effects", METADATA, Column("id", Uuid, primary_key=True), Column("times", Integer, nullable=False))
followers = Table(
    "followers",
    METADATA,
    Column("id", Uuid, primary_key=True),
    Column("effect", ForeignKey("effects.id", deferrable=True, initially="DEFERRED"), nullable=False),
    comment="A row whose effect is missing is refused by the commit, and not before",
)

_migrated: set[str] = set()
"""Databases that need no second look at their migrations, which takes longer than most tests."""


def order_placed() -> OrderPlaced:
    return OrderPlaced(order_id=uuid7(), user_id=uuid7(), price=15_000)


def random_service() -> str:
    return f"s{secrets.token_hex(4)}"


def message(
    service: str, kind: str = "order.placed", *, payload: bytes = b"{}", at: datetime | None = None
) -> Outgoing:
    """A message of `service` that carries nothing in particular, stated now or at another time."""
    message_id, now = uuid7(), at or datetime.now(UTC)
    headers = headers_of(message_id, f"{service}.{kind}", trace=Trace.start(), now=now)
    return Outgoing(message_id, f"{service}.{kind}.{message_id}", payload, headers, now)


def messages(service: str, count: int, kind: str = "order.placed") -> list[Outgoing]:
    return [message(service, kind) for _ in range(count)]


def everything(service: str) -> Durable:
    """A durable consumer of all that `service` states."""
    return Durable(stream_of(service), "reader", (f"{service}.>",))


async def take(subscription: Subscription, count: int, *, within_s: float = 10.0) -> list[Delivery]:
    """Take exactly `count` messages, without acknowledging them."""
    taken: list[Delivery] = []
    async with asyncio.timeout(within_s):
        while len(taken) < count:
            taken.extend(await subscription.next_batch(count - len(taken)))
    return taken


async def acknowledge(deliveries: Sequence[Delivery]) -> None:
    for delivery in deliveries:
        await delivery.ack()


def subjects_of(those: Sequence[Delivery] | Sequence[Outgoing]) -> list[str]:
    return [one.subject for one in those]


@asynccontextmanager
async def opened(url: str, folder: Path) -> AsyncIterator[Database]:
    """An empty database with the shared tables and those of this module.

    `folder` gets the line of migrations of a service that has none.
    """
    database = Database(url, name="test")
    try:
        if url not in _migrated:
            (folder / "versions").mkdir(parents=True)
            await migrate(database, folder)
            async with database.writing() as connection:
                await connection.run_sync(METADATA.create_all)
            _migrated.add(url)
        async with database.writing() as connection:
            for table in (*MESSAGING.sorted_tables, *reversed(METADATA.sorted_tables)):
                await connection.execute(delete(table))
        yield database
    finally:
        await database.close()


class Stage:
    """One process of a service whose store is the bare connection."""

    def __init__(
        self,
        database: Database,
        bus: Bus,
        awaits: Awaits[AsyncConnection] | None = None,
        *,
        service: str = "orders",
        pace_s: float = 0.0,
    ) -> None:
        self.database = database
        self.bus = bus
        self.relay = Relay(database, bus, service, pace_s=pace_s)
        self.units: Units[AsyncConnection] = Units(database, lambda connection: connection, self.relay, awaits)

    def relaying(self) -> AbstractAsyncContextManager[None]:
        """Run the relay until the end of the block."""
        return running(self.relay.run())

    async def state(self, *facts: Fact) -> None:
        """State facts in a unit of their own."""
        async with self.units.begin() as unit:
            for fact in facts:
                unit.publish(fact, cause=Origin(Trace.start()))


@asynccontextmanager
async def running(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Run `work` beside the block, and cancel it at the end; fail if it failed."""
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


@asynccontextmanager
async def mislaid(database: Database, table: Table) -> AsyncIterator[None]:
    """Take a table away until the end of the block."""
    async with database.writing() as connection:
        await connection.execute(text(f"alter table {table.name} rename to mislaid"))
    try:
        yield
    finally:
        async with database.writing() as connection:
            await connection.execute(text(f"alter table mislaid rename to {table.name}"))


async def rows(database: Database, table: Table = outbox) -> Sequence[Any]:
    """All rows of a table, by primary key."""
    async with database.reading() as connection:
        return (await connection.execute(select(table).order_by(*table.primary_key))).all()


async def effects_in(database: Database) -> dict[UUID, int]:
    """How often each effect was had."""
    return {row.id: row.times for row in await rows(database, effects)}


async def have_effect(unit: Unit[AsyncConnection], *ids: UUID) -> None:
    """Count an effect for each id, in the unit's transaction."""
    for effect in ids:
        again = await unit.connection.execute(
            update(effects).where(effects.c.id == effect).values(times=effects.c.times + 1)
        )
        if not again.rowcount:
            await unit.connection.execute(insert(effects).values(id=effect, times=1))


async def spoil_commit(unit: Unit[AsyncConnection]) -> None:
    """Let the unit's commit fail, as late as a transaction can fail."""
    await unit.connection.execute(insert(followers).values(id=uuid7(), effect=uuid7()))


async def somebody_waits(database: Database) -> bool:
    """Whether a transaction waits for a lock. PostgreSQL only."""
    query = "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"
    async with database.reading() as connection:
        return bool((await connection.exec_driver_sql(query)).scalar_one())
