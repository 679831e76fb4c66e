"""Units of work over a service's real store, for tests: a migrated database, and what handlers state, collected."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from typing import Any, Generic, Literal, TypeVar

import pytest
from sqlalchemy import Executable, event, select, text

from libs.contracts import Fact
from libs.errors import Refusal
from libs.ids import uuid7
from libs.local.servers import Postgres
from libs.messaging.envelope import Event, Outgoing, open_envelope
from libs.messaging.tables import METADATA as MESSAGING
from libs.messaging.unit import Unit, Units
from libs.service import Service
from libs.storage import Database
from libs.storage.gathering import GatheringConnection
from libs.storage.migrations import migrate
from libs.tracing import Trace
from libs.web.commands import Command

StoreT = TypeVar("StoreT")
FactT = TypeVar("FactT", bound=Fact)
BodyT = TypeVar("BodyT")
ResultT = TypeVar("ResultT")

on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
on_postgres = pytest.mark.parametrize("database_url", ["postgres"], indirect=True)
"""For tests about what only one of the databases does."""

_migrated: set[str] = set()
"""Databases that need no second look at their migrations, which takes longer than most tests."""


@contextmanager
def executed(database: Database) -> Iterator[list[str]]:
    """Collect the texts of the statements that writers of a database execute; on PostgreSQL those of readers, too."""
    seen: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_others: Any) -> None:
        seen.append(statement)

    engine = database._writer.sync_engine
    event.listen(engine, "before_cursor_execute", note)
    try:
        yield seen
    finally:
        event.remove(engine, "before_cursor_execute", note)


def heard(fact: FactT, *, restated: bool = False) -> Event[FactT]:
    """Put a fact into the envelope in which a handler gets it."""
    return Event(fact, str(uuid7()), datetime.now(UTC), Trace.start(), restated)


def asked(body: BodyT) -> Command[BodyT]:
    """Put a command into the shape in which a handler gets it."""
    return Command(body, Trace.start())


def shared_database(*, scope: Literal["module", "function"] = "module") -> Any:
    """Make the fixture ``database_url`` of a module whose tests share one database, of each kind.

    A database of its own for every test takes longer than most tests do; `workbench` hands out an empty one.
    """

    @pytest.fixture(scope=scope, params=["sqlite", "postgres"])
    def database_url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
        if request.param == "sqlite":
            return f"sqlite:///{tmp_path_factory.mktemp('sqlite') / 'test.db'}"
        server: Postgres = request.getfixturevalue("postgres")
        return asyncio.run(server.create_database(f"t{secrets.token_hex(6)}", secrets.token_hex(8)))

    return database_url


@asynccontextmanager
async def workbench(url: str, service: Service[StoreT, Any]) -> AsyncIterator["Workbench[StoreT]"]:
    """Open a database, migrated for `service` and empty; close it at the end of the block."""
    database = Database(url, name=f"{service.name} tests", pool_size=4)
    try:
        if url not in _migrated:
            await migrate(database, service.migrations)
            _migrated.add(url)
        async with database.writing() as connection:
            for table in (*MESSAGING.sorted_tables, *service.tables.sorted_tables):
                await connection.exec_driver_sql(f"delete from {table.name}")
        yield Workbench(database, service)
    finally:
        await database.close()


class Workbench(Generic[StoreT]):
    """The database of one service, and units of work on it.

    `stated` are the facts of the last unit that was committed, in their envelopes, as a consumer reads them.
    """

    def __init__(self, database: Database, service: Service[StoreT, Any]) -> None:
        self.database = database
        self.units = Units(database, service.store, self, service.awaits)  # collects instead of publishing
        self.stated: list[Event[Fact]] = []
        self._service = service

    def offer(self, messages: Sequence[Outgoing]) -> None:
        """Take over what was stated by a unit that has just been committed, as the relay does."""
        known = {fact.type: fact for fact in self._service.publishes}
        self.stated = [
            open_envelope(known[message.headers["ce-type"]], message.payload, message.headers) for message in messages
        ]

    async def hear(
        self,
        handler: Callable[[Sequence[Event[Any]], Unit[StoreT]], Awaitable[None]],
        *facts: Fact | Event[Any],
    ) -> list[Fact]:
        """Hand facts to a handler as one batch, in a unit of their own; return what it stated."""
        events = [fact if isinstance(fact, Event) else heard(fact) for fact in facts]
        async with self.units.begin() as unit:
            await handler(events, unit)
        return [event.fact for event in self.stated]

    async def carry_out(
        self,
        handler: Callable[[Sequence[Command[BodyT]], Unit[StoreT]], Awaitable[Sequence[ResultT | Refusal]]],
        *bodies: BodyT,
    ) -> Sequence[ResultT | Refusal]:
        """Hand commands to a handler as one batch, in a unit of their own; return its answers."""
        async with self.units.begin() as unit:
            return await handler([asked(body) for body in bodies], unit)

    async def do(self, chore: Callable[[Unit[StoreT]], Awaitable[object]]) -> list[Fact]:
        """Do a chore once, in a unit of its own; return what it stated."""
        async with self.units.begin() as unit:
            await chore(unit)
        return [event.fact for event in self.stated]

    async def overlap(
        self,
        first: Callable[[Unit[StoreT]], Awaitable[object]],
        second: Callable[[Unit[StoreT]], Awaitable[object]],
    ) -> BaseException | None:
        """Begin `second` while `first` is done but not committed; return what `second` failed with.

        `first` is committed once `second` has finished or waits for it, so the two really are under way at once.
        SQLite lets only one unit begin; there the second simply follows.
        """

        seconds: list[Outgoing] = []

        async def follow() -> None:
            async with self.units.begin() as unit:
                await second(unit)
            seconds[:] = unit.outgoing

        async with self.units.begin() as unit:
            await first(unit)
            assert isinstance(unit.connection, GatheringConnection)
            await unit.connection.flush()
            following = asyncio.create_task(follow())
            while not following.done() and not await self._somebody_waits():
                pass
        (outcome,) = await asyncio.gather(following, return_exceptions=True)
        self.offer(seconds)  # both commits may be answered at once, and the first one's be offered last
        return outcome

    async def _somebody_waits(self) -> bool:
        if self.database.is_sqlite:
            return True
        query = text(
            "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"
        )
        async with self.database.reading() as connection:
            return bool((await connection.execute(query)).scalar_one())

    async def execute(self, statement: Executable, rows: Sequence[dict[str, Any]] | None = None) -> None:
        """Execute a statement in a transaction of its own, past the store: what the database itself says to it."""
        async with self.database.writing() as connection:
            await connection.execute(statement, rows)

    async def rows(self) -> dict[str, list[str]]:
        """Read every row the service owns, to compare before and after. The outbox is not among them."""
        async with self.database.reading() as connection:
            return {
                table.name: sorted(str(tuple(row)) for row in await connection.execute(select(table)))
                for table in self._service.tables.sorted_tables
            }
