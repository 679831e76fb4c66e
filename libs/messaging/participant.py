"""Taking part in the exchange of facts: the relay, the units of work and the consumers of one process."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Final, Generic, TypeVar

from sqlalchemy import MetaData
from sqlalchemy.ext.asyncio import AsyncConnection

from libs.messaging.awaiting import Awaits
from libs.messaging.bus import Bus
from libs.messaging.consumer import Consumer, Listens, durables
from libs.messaging.jetstream import JetStream, JetStreamSettings
from libs.messaging.relay import Relay
from libs.messaging.unit import Units
from libs.storage import Database
from libs.storage.migrations import migrate
from libs.telemetry import Telemetry

StoreT = TypeVar("StoreT")

BATCH_LIMIT: Final = 256
FINISH_BATCH_S: Final = 8.0
FLUSH_S: Final = 4.0


class Participant(Generic[StoreT]):
    """One process on the bus, with its database. Whoever has it runs the relay, and begins to consume."""

    def __init__(
        self,
        name: str,
        database: Database,
        bus: Bus,
        store: Callable[[AsyncConnection], StoreT],
        listens: Sequence[Listens[StoreT]] = (),
        *,
        awaits: Awaits[StoreT] | None = None,
        telemetry: Telemetry | None = None,
        batch_limit: int = BATCH_LIMIT,
        pace_s: float = 0.0,
    ) -> None:
        self.relay = Relay(database, bus, name, telemetry, pace_s=pace_s)
        self.units: Units[StoreT] = Units(database, store, self.relay, awaits, telemetry)
        self._name = name
        self._bus = bus
        self._listens = listens
        self._batch_limit = batch_limit
        self._pace_s = pace_s
        self._consumers: list[Consumer[StoreT]] = []
        self._consuming: list[asyncio.Task[None]] = []

    def consume(self) -> Sequence["asyncio.Task[None]"]:
        """Begin to consume, one durable consumer a stream. `finish` ends these tasks; to cancel them loses time."""
        for durable in durables(self._name, self._listens):
            lines = [line for line in self._listens if f"{line.fact.type}.*" in durable.subjects]
            consumer = Consumer(
                self._name, durable, lines, self.units, batch_limit=self._batch_limit, pace_s=self._pace_s
            )
            self._consumers.append(consumer)
            self._consuming.append(asyncio.create_task(consumer.run(self._bus), name=f"consumer {durable.stream}"))
        return self._consuming

    async def finish(self) -> None:
        """Finish the batches in hand, publish what they stated, leave the bus."""
        for consumer in self._consumers:
            consumer.stop()
        if self._consuming:
            _, stuck = await asyncio.wait(self._consuming, timeout=FINISH_BATCH_S)
            for task in stuck:
                task.cancel()
        draining = asyncio.create_task(self.relay.run())
        await self.relay.flush(FLUSH_S)
        draining.cancel()
        await asyncio.gather(draining, return_exceptions=True)
        await self._bus.close()


@asynccontextmanager
async def taking_part(
    name: str,
    *,
    tables: MetaData,
    listens: Sequence[Listens[AsyncConnection]] = (),
    database_url: str | None = None,
    nats_url: str | None = None,
) -> AsyncIterator[Units[AsyncConnection]]:
    """State facts, and handle those of others, until the end of the block: all of a service but HTTP and migrations.

    Creates the `tables` that are not there, and the stream of `name`. The units it gives, and those that handlers get,
    have the connection for a store. Without `database_url` and `nats_url` the variables DATABASE_URL and NATS_URL
    count, else an SQLite file in this folder, and this machine. Raises `BusUnavailable` when NATS is not there at the
    start, and awaits it when it goes away later.
    """
    nats = nats_url or os.environ.get("NATS_URL") or "nats://127.0.0.1:4222"
    database = Database(database_url or os.environ.get("DATABASE_URL") or f"sqlite:///{name}.db", name=name)
    try:
        await migrate(database)
        async with database.writing() as connection:
            await connection.run_sync(tables.create_all)
        bus = await JetStream.connect(JetStreamSettings(nats, name))
        part = Participant(name, database, bus, lambda connection: connection, listens)
        try:
            await part.relay.stream.assured()
            async with asyncio.TaskGroup() as tasks:
                working = [tasks.create_task(part.relay.run()), tasks.create_task(part.units.awaited.run())]
                working += [tasks.create_task(joined(consuming)) for consuming in part.consume()]
                yield part.units
                for task in working:
                    task.cancel()
        finally:
            await part.finish()
    finally:
        await database.close()


async def joined(task: "asyncio.Task[None]") -> None:
    """Wait for a task without cancelling it: consumers finish their batch before they stop."""
    await asyncio.shield(task)
