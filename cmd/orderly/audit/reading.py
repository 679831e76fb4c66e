"""Snapshots of databases, over connections that cannot write."""

import json
import sqlite3
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import aiosqlite
import asyncpg

from libs.storage.database import driver_url

PAGE: Final = 2_000
"""Rows fetched at a time: all that is ever in memory of a table."""

CONNECT_WITHIN_S: Final = 5
ORDER: Final = ("notifications", "profiles", "orders", "billing", "auth")
"""In which order snapshots are taken: what follows from something before what it follows from."""


class CannotAudit(Exception):
    """Something cannot be read, so nothing is known. The message says which database or which stream."""


class Snapshot(ABC):
    """A database as it was at one moment. In both kinds ids are 32 hexadecimal digits, and parameters `$1`, `$2`, …"""

    _one_of: str
    bytewise = ""
    """What makes ``order by`` on a text compare bytes, as Python does."""

    def __init__(self, service: str) -> None:
        self.service = service

    async def rows(self, sql: str, *parameters: Any) -> AsyncIterator[Sequence[Any]]:
        """Read rows, a page at a time. Raises `CannotAudit`."""
        try:
            async for row in self._rows(sql, *parameters):
                yield row
        except (sqlite3.Error, asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError) as error:
            raise _unreadable(self.service, error) from error

    async def value(self, sql: str, *parameters: Any) -> Any:
        """Read the first column of the first row; None when there is none."""
        return next(iter([row[0] async for row in self.rows(sql, *parameters)]), None)

    def among(self, sql: str, column: str, ids: Sequence[str], *, kind: str = "uuid") -> AsyncIterator[Sequence[Any]]:
        """Read rows whose `column` is one of `ids`; `{}` in the statement is where that condition goes."""
        return self.rows(sql.format(self._one_of.format(column, kind)), list(ids))

    @abstractmethod
    def _rows(self, sql: str, *parameters: Any) -> AsyncIterator[Sequence[Any]]: ...


class _Sqlite(Snapshot):
    _one_of = "{} in (select value from json_each($1))"

    def __init__(self, service: str, connection: aiosqlite.Connection) -> None:
        super().__init__(service)
        self._connection = connection

    async def _rows(self, sql: str, *parameters: Any) -> AsyncIterator[Sequence[Any]]:
        given = {str(number): _for_sqlite(value) for number, value in enumerate(parameters, 1)}
        async with self._connection.execute(sql, given) as cursor:
            while page := await cursor.fetchmany(PAGE):
                for row in page:
                    yield row


class _Postgres(Snapshot):
    _one_of = "{} = any($1::{}[])"
    bytewise = ' collate "C"'

    def __init__(self, service: str, connection: "asyncpg.Connection[asyncpg.Record]") -> None:
        super().__init__(service)
        self._connection = connection

    async def _rows(self, sql: str, *parameters: Any) -> AsyncIterator[Sequence[Any]]:
        async for row in self._connection.cursor(sql, *parameters, prefetch=PAGE):
            yield row


@asynccontextmanager
async def snapshots(urls: Mapping[str, str]) -> AsyncIterator[dict[str, Snapshot]]:
    """Take a snapshot of each database, one after the other; they are held until the end of the block.

    A snapshot holds no lock that anybody waits for. While it is held PostgreSQL removes no old rows, and SQLite's
    write-ahead log grows. Raises `CannotAudit`.
    """
    async with AsyncExitStack() as stack:
        yield {name: await stack.enter_async_context(snapshot(name, urls[name])) for name in ORDER if name in urls}


@asynccontextmanager
async def snapshot(service: str, url: str) -> AsyncIterator[Snapshot]:
    """Take a snapshot of one database. Raises `CannotAudit`."""
    try:
        sqlite = driver_url(url).get_backend_name() == "sqlite"
    except ValueError as error:
        raise CannotAudit(f"the database of {service}: {error}") from None
    async with AsyncExitStack() as stack:
        try:
            taken = await stack.enter_async_context((_sqlite if sqlite else _postgres)(service, url))
        except (sqlite3.Error, asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError) as error:
            raise _unreadable(service, error) from error
        yield taken


@asynccontextmanager
async def _sqlite(service: str, url: str) -> AsyncIterator[Snapshot]:
    # Without an isolation level the driver begins nothing by itself.
    async with aiosqlite.connect(
        _read_only(service, url), uri=True, timeout=CONNECT_WITHIN_S, isolation_level=None
    ) as connection:
        await connection.execute("pragma query_only=on")
        await connection.execute("begin")
        await connection.execute_fetchall("select count(*) from sqlite_master")  # the first read is the moment
        yield _Sqlite(service, connection)


@asynccontextmanager
async def _postgres(service: str, url: str) -> AsyncIterator[Snapshot]:
    given = driver_url(url)
    connection = await asyncpg.connect(
        **given.translate_connect_args(username="user"),
        **given.query,
        timeout=CONNECT_WITHIN_S,
        server_settings={
            "application_name": "orderly audit",
            "default_transaction_read_only": "on",
            "lock_timeout": "5s",
        },
    )
    try:
        await connection.set_type_codec(
            "uuid", schema="pg_catalog", format="binary", encoder=bytes.fromhex, decoder=_hexadecimal
        )
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            await connection.execute("select 1")  # the first query is the moment
            yield _Postgres(service, connection)
    finally:
        await connection.close(timeout=CONNECT_WITHIN_S)


def _read_only(service: str, url: str) -> str:
    file = Path(driver_url(url).database or "")
    if not file.exists():
        raise CannotAudit(f"the database of {service} is not there: {file}")
    return f"file:{quote(str(file.resolve()))}?mode=ro"


def _hexadecimal(value: bytes) -> str:
    return bytes(value).hex()


def _for_sqlite(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S.%f")
    return json.dumps(value) if isinstance(value, list) else value


def _unreadable(service: str, error: BaseException) -> CannotAudit:
    reason = (str(error) or repr(error)).splitlines()[0]
    return CannotAudit(f"the database of {service} cannot be read: {reason}")


async def together(*sources: AsyncIterator[Sequence[Any]]) -> AsyncIterator[tuple[Any, list[list[Sequence[Any]]]]]:
    """Merge sources that are sorted by their first column: each key, with its rows in every source."""
    heads = [await anext(source, None) for source in sources]
    while present := [head[0] for head in heads if head is not None]:
        key = min(present)
        groups: list[list[Sequence[Any]]] = []
        for number, source in enumerate(sources):
            group: list[Sequence[Any]] = []
            while (head := heads[number]) is not None and head[0] == key:
                group.append(head)
                heads[number] = await anext(source, None)
            groups.append(group)
        yield key, groups
