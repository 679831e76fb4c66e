"""``move-database``: the rows of one service copied into an empty database, all of them or none, and compared there."""

import argparse
import hashlib
import sqlite3
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Table, insert, inspect, select, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection

from libs.local.servers import CannotStart
from libs.messaging.tables import METADATA as SHARED
from libs.service import Service
from libs.storage import Database
from libs.storage.database import driver_url
from libs.storage.migrations import migrate
from orderly import databases
from orderly.services import NAMES, SERVICES
from orderly.settings import Settings

AT_ONCE: Final = 1_000
"""Rows in memory at a time."""

_VERSIONS: Final = "alembic_version"


@dataclass(slots=True)
class Contents:
    """What a table holds: how many rows, and a sum over them that does not depend on their order."""

    rows: int = 0
    digest: int = 0

    def add(self, row: Mapping[str, Any]) -> None:
        """Count a row. The drivers have UUID classes of their own, hence the text."""
        values = [value if value is None or isinstance(value, int | bytes) else str(value) for value in row.values()]
        self.rows += 1
        self.digest = (self.digest + int.from_bytes(hashlib.sha256(repr(values).encode()).digest())) % (1 << 256)


async def move(given: argparse.Namespace, settings: Settings) -> int:
    """Copy a service's rows; return the exit code. Raises `CannotStart` where nothing was copied."""
    (service,) = (service for service in SERVICES if service.name == given.service)
    known = {service.name: given.source} if given.source else databases.urls(settings, [service.name])
    source_url = known.get(service.name)
    if source_url:
        _refuse_one_in_use(source_url, service.name)
    target = _target(given.target, source_url)
    try:
        async with databases.opened(settings, [service], known) as (reached, complaints):
            if complaints:
                raise CannotStart("\n".join(complaints))
            ((_, source),) = reached
            await _refuse_sessions(source, service.name)
            await _prepare(target, service)
            copied = await _copy(source, target, tables_of(service))
    except SQLAlchemyError as error:
        reason = str(error).splitlines()[0]
        raise CannotStart(f"the data of {service.name} cannot be copied; nothing was moved ({reason})") from None
    finally:
        await target.close()
    for name, contents in copied.items():
        print(f"{contents.rows:>9,} {name}")
    print(f"the data of {service.name} is in {target}, compared row by row; the old database is as it was")
    return 0


def tables_of(service: Service[Any, Any]) -> list[Table]:
    """List the tables of a service, and those that it has in common with the others; parents before children."""
    return [*SHARED.sorted_tables, *service.tables.sorted_tables]


def _target(url: str, source_url: str | None) -> Database:
    try:
        parsed = driver_url(url)
    except ValueError as error:
        raise CannotStart(f"the new database: {error}") from None
    if source_url and parsed == driver_url(source_url):
        raise CannotStart("the new database is the old one")
    return Database(url, name="orderly", pool_size=1, statement_timeout_s=None)


def _refuse_one_in_use(url: str, service: str) -> None:
    """Raise `CannotStart` when somebody has the SQLite file open: a journal is changed only by who is alone."""
    try:
        parsed = driver_url(url)
    except ValueError:
        return  # said when it is opened
    if parsed.get_backend_name() != "sqlite" or not parsed.database:
        return
    try:
        alone = sqlite3.connect(f"file:{parsed.database}?mode=rw", uri=True, timeout=0)
    except sqlite3.OperationalError:
        return  # not there; said when it is opened
    try:
        alone.execute("pragma journal_mode = delete")
    except sqlite3.OperationalError as error:
        raise CannotStart(f"the database of {service} is in use ({error}); stop the system first") from None
    finally:
        alone.close()


async def _refuse_sessions(source: Database, service: str) -> None:
    """Raise `CannotStart` when the service is connected to its PostgreSQL database."""
    if source.is_sqlite:
        return
    sessions = text(
        "select count(*) from pg_stat_activity where datname = current_database() and application_name = :service"
    )
    async with source.reading() as connection:
        if await connection.scalar(sessions, {"service": service}):
            raise CannotStart(f"the database of {service} is in use; stop the service first")


async def _prepare(target: Database, service: Service[Any, Any]) -> None:
    """Make the tables. Raises `CannotStart` unless the database answers and has nothing in it."""
    ours = {table.name for table in tables_of(service)} | {_VERSIONS}
    try:
        async with target.reading() as connection:
            there = set(await connection.run_sync(lambda sync: inspect(sync).get_table_names()))
    except Exception as error:  # noqa: BLE001 - whatever the driver raises, it is said
        reason = (str(error) or repr(error)).splitlines()[0]
        raise CannotStart(f"the new database cannot be reached: {target} ({reason})") from None
    if foreign := sorted(there - ours):
        raise CannotStart(f"the new database is not empty: it has {', '.join(foreign)}")
    await migrate(target, service.migrations)


async def _copy(source: Database, target: Database, tables: Sequence[Table]) -> dict[str, Contents]:
    """Copy and compare, in one transaction of each database. On SQLite nobody else can write meanwhile."""
    copied = {}
    async with source.writing() as reader, target.writing() as writer:
        if not source.is_sqlite:
            await reader.execute(text("set transaction isolation level repeatable read"))
        await _refuse_rows(writer, tables)
        for table in tables:
            contents = Contents()
            async for rows in _rows(reader, table):
                for row in rows:
                    contents.add(row)
                await writer.execute(insert(table), rows)
            arrived = Contents()
            async for rows in _rows(writer, table):
                for row in rows:
                    arrived.add(row)
            if arrived != contents:
                raise CannotStart(f"{table.name} is not the same in {target}; nothing was moved")
            if not target.is_sqlite:
                await writer.execute(text(f'analyze "{table.name}"'))  # else its first queries know no figures
            copied[table.name] = contents
    return copied


async def _refuse_rows(writer: AsyncConnection, tables: Sequence[Table]) -> None:
    for table in tables:
        if writer.dialect.name == "postgresql":
            await writer.execute(text(f'lock table "{table.name}" in exclusive mode'))
        if (await writer.execute(select(1).select_from(table).limit(1))).first():
            raise CannotStart(f"the new database is not empty: {table.name} has rows")


async def _rows(connection: AsyncConnection, table: Table) -> AsyncIterator[list[dict[str, Any]]]:
    result = await connection.stream(select(table))
    async for some in result.mappings().partitions(AT_ONCE):
        yield [dict(row) for row in some]


def add_parser(commands: Any) -> None:
    """Describe ``orderly move-database`` to argparse."""
    moving = commands.add_parser("move-database", help="copy a stopped service's data into an empty database")
    moving.add_argument("service", choices=NAMES)
    moving.add_argument("target", metavar="URL", help="the empty database: postgresql://… or sqlite:///path")
    moving.add_argument("--from", dest="source", metavar="URL", help="the old one; that of DATA_DIR by default")
