"""The databases of a story: SQLite files, spoken to inline, where any step may be the last one before a crash.

A `Disk` outlives the processes that write to it. Between the statements of a transaction, before its commit and after
it others get their turn, and now and then an operation fails as a database that is busy or gone does: also after
the commit, when nobody knows any more whether there was one.
"""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final, Literal

from sqlalchemy import Connection, Engine, Executable, MetaData, create_engine, event
from sqlalchemy.exc import OperationalError

from libs.messaging.tables import METADATA as MESSAGING
from libs.service import Service
from libs.storage import Database
from libs.storage.migrations import migrate
from orderly.simulation.weather import Weather


class Disk:
    """The database of one service. Used for one story after the other: `wipe` makes it new."""

    def __init__(self, path: Path, tables: MetaData) -> None:
        self.path = path
        self.writer = _engine(path, "BEGIN IMMEDIATE")
        self.reader = _engine(path, "BEGIN")
        self.lock = asyncio.Lock()
        self.changes = 0
        """How many transactions have changed something."""
        self._tables = [table.name for table in (*tables.sorted_tables, *MESSAGING.sorted_tables)]
        self._looking = sqlite3.connect(path, isolation_level=None)

    def wipe(self) -> None:
        """Begin anew."""
        self.lock = asyncio.Lock()
        self.changes = 0
        self._looking.execute("begin immediate")
        for table in reversed(self._tables):
            self._looking.execute(f"delete from {table}")  # noqa: S608 - the tables' own names
        self._looking.execute("commit")

    def rows(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        """Look at what is committed, from outside of all services."""
        return self._looking.execute(query, values).fetchall()

    def remember(self, stream: str) -> None:
        """Know a stream as it is after a service's first start."""
        self._looking.execute(
            "insert into streams (name, incarnation, begun_at, sequence) values (?, 1, '2025-12-31 00:00:00', 0)",
            [stream],
        )

    def close(self) -> None:
        """Close every connection."""
        self.writer.dispose()
        self.reader.dispose()
        self._looking.close()


class SimulatedDatabase(Database):
    """One process' way to a disk: `libs.storage.Database` without threads, and with the weather of the story."""

    def __init__(self, disk: Disk, weather: Weather, alive: Callable[[], bool]) -> None:  # its engines are the disk's
        self.is_sqlite = True
        self._disk = disk
        self._weather = weather
        self._alive = alive

    def __str__(self) -> str:
        return self._disk.path.name

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[Any]:
        """See `Database`."""
        await self._weather.step()
        self._perhaps_away(self._weather.busy)
        async with self._disk.lock:
            with self._disk.writer.connect() as connection:
                raw: Any = connection.connection.driver_connection
                before = raw.total_changes
                yield _Inline(connection, self._weather)
                await self._weather.step()
                self._perhaps_away(self._weather.busy)
                connection.commit()
                self._disk.changes += raw.total_changes > before
        await self._weather.step()
        self._perhaps_away(self._weather.lost_commit)

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[Any]:
        """See `Database`."""
        await self._weather.step()
        self._perhaps_away(self._weather.busy)
        with self._disk.reader.connect() as connection:
            yield _Inline(connection, self._weather)

    async def ping(self) -> None:
        """See `Database`."""
        self._perhaps_away(0.0)

    def connections(self, state: Literal["in_use", "idle"]) -> int:
        """See `Database`."""
        del state
        return 0

    async def close(self) -> None:
        """See `Database`; the disk stays."""

    def _perhaps_away(self, likely: float) -> None:
        if not self._alive() or self._weather.happens(likely):
            error = sqlite3.OperationalError("the story has it that the database is away")
            error.sqlite_errorcode = sqlite3.SQLITE_BUSY
            raise OperationalError("away", None, error)


class _Inline:
    """What stores use of an `AsyncConnection`."""

    def __init__(self, connection: Connection, weather: Weather) -> None:
        self._connection = connection
        self._weather = weather
        self.dialect: Final = connection.dialect

    async def execute(self, statement: Executable, parameters: Any = None) -> Any:
        if self._weather.happens(self._weather.between_statements):
            await asyncio.sleep(0)
        return self._connection.execute(statement, parameters)

    async def run_sync(self, work: Callable[..., Any], *positional: Any) -> Any:
        return work(self._connection, *positional)


def _engine(path: Path, begin: str) -> Engine:
    engine = create_engine(f"sqlite:///{path}", pool_size=8, max_overflow=8)

    @event.listens_for(engine, "connect")
    def prepare(connection: sqlite3.Connection, _record: Any) -> None:
        connection.isolation_level = None
        for pragma in ("synchronous=OFF", "foreign_keys=ON", "busy_timeout=0"):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def start(connection: Connection) -> None:
        raw: Any = connection.connection.driver_connection
        raw.execute(begin)

    return engine


async def make_disks(folder: Path, services: Sequence[Service[Any, Any]]) -> dict[str, Disk]:
    """Make an empty, migrated database for each service."""
    disks = {}
    for service in services:
        path = folder / f"{service.name}.db"
        database = Database(f"sqlite:///{path}", name="simulation")
        await migrate(database, service.migrations)
        await database.close()
        disks[service.name] = Disk(path, service.tables)
    return disks
