"""One database, SQLite or PostgreSQL: transactions that write, connections that only read."""

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final, Literal, cast

from sqlalchemy import URL, Connection, Engine, ExceptionContext, event, make_url, text
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from libs.storage import greenlets
from libs.storage.connections import TURN_WITHIN_S, Connections
from libs.storage.gathering import GatheringConnection

BUSY_TIMEOUT_MS: Final = 5_000
STATEMENT_TIMEOUT_S: Final = 15.0
"""How long a statement on PostgreSQL may take; migrations may take as long as they need."""

ABANDONED_AFTER_S: Final = 5.0
"""How much longer PostgreSQL itself lets a statement take, or a transaction do nothing. It ends them then, and their
locks with them; nobody else would where the way to the client is dead and neither side was told."""

SQLITE_READERS: Final = 4

_WRITABLE: Final = """
    do $$ begin
        if current_setting('transaction_read_only')::bool then raise read_only_sql_transaction; end if;
    end $$"""
_READ_ONLY: Final = "25006"

_LOST_SQLSTATE: Final = "40"
"""Serialization failure or deadlock."""

_TRANSIENT_SQLSTATES: Final = ("08", "40", "53", "55P03", "57")
"""Connection lost, serialization or deadlock, out of resources, lock not available, shutting down."""

_TRANSIENT_SQLITE_CODES: Final = {
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_CANTOPEN,
}


greenlets.reuse()


class _SqliteConnection(sqlite3.Connection):
    """A connection that is closed in the middle of a statement (its unit of work was cut off) would keep the lock."""

    def close(self) -> None:
        with contextlib.suppress(sqlite3.Error):
            self.rollback()
        super().close()


class Database:
    """Engines for one service's own database.

    SQLite writes go through a single connection (the file has one writer anyway, and a queue inside the
    process is fairer than its busy timeout) whose transactions are ``BEGIN IMMEDIATE``: a deferred one that
    reads before it writes fails at once with "locked" whatever the timeout. Reads have connections of their
    own, which WAL lets run beside the writer.
    """

    def __init__(
        self, url: str, *, name: str, pool_size: int = 8, statement_timeout_s: float | None = STATEMENT_TIMEOUT_S
    ) -> None:
        self._url = driver_url(url)
        self.is_sqlite = self._url.get_backend_name() == "sqlite"
        self._single: AsyncEngine | None = None
        if self.is_sqlite:
            if self._url.database:
                Path(self._url.database).parent.mkdir(parents=True, exist_ok=True)
            self._writer = self._sqlite_engine("BEGIN IMMEDIATE", pool_size=1)
            self._reader = self._sqlite_engine("BEGIN", pool_size=SQLITE_READERS)
            self._writing = Connections(1, self._writer)
            self._reading = Connections(SQLITE_READERS, self._reader)
        else:
            self._writer = create_async_engine(
                self._url,
                pool_size=pool_size,
                max_overflow=0,
                pool_timeout=TURN_WITHIN_S,
                pool_pre_ping=False,
                connect_args={
                    "timeout": 5,
                    "command_timeout": statement_timeout_s,
                    "server_settings": {"application_name": name, **_for_services(statement_timeout_s)},
                },
            )
            # Each statement sees what is committed when it begins, in a transaction or not; without, it travels alone.
            self._reader = self._single = self._writer.execution_options(isolation_level="AUTOCOMMIT")
            self._writing = self._reading = Connections(pool_size, self._writer, self._reader)
            _distrust_what_fails(self._writer.sync_engine, self._writing)

    def __str__(self) -> str:
        return self._url.render_as_string(hide_password=True)

    def _sqlite_engine(self, begin: str, *, pool_size: int) -> AsyncEngine:
        engine = create_async_engine(
            self._url,
            pool_size=pool_size,
            max_overflow=0,
            pool_timeout=TURN_WITHIN_S,
            connect_args={"timeout": BUSY_TIMEOUT_MS / 1000, "factory": _SqliteConnection},
        )
        _let_us_begin(engine.sync_engine, begin)
        return engine

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[AsyncConnection]:
        """Open a transaction that may write; commit at the end, roll back on any exception.

        On PostgreSQL it begins with its first statement. Statements about sets of rows are sent when something is
        read, or at the end (`libs.storage.gathering`).
        """
        connection = GatheringConnection(self._writing, self._writer, self._single)
        async with connection.unit():
            yield cast("AsyncConnection", connection)

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[AsyncConnection]:
        """Open a connection for reading what is committed."""
        async with self._reading.taken(self._reader) as connection:
            yield connection
            if self.is_sqlite:
                await connection.rollback()  # or it would go on seeing what is committed now

    async def ping(self) -> None:
        """Raise unless the database answers, and lets itself be written."""
        async with self.reading() as connection:
            await connection.execute(text("select 1" if self.is_sqlite else _WRITABLE))

    def connections(self, state: Literal["in_use", "idle"]) -> int:
        """Count the connections that are open, and in that state."""
        kept = {self._writing, self._reading}
        return sum(one.in_use if state == "in_use" else one.idle for one in kept)

    async def close(self) -> None:
        """Close every connection."""
        await self._writing.close()
        await self._reading.close()
        await self._writer.dispose()
        await self._reader.dispose()


def driver_url(text_url: str) -> URL:
    """Read where a database is, and which driver talks to it. Raises ValueError, which does not quote the URL."""
    drivers = {
        "sqlite": "sqlite+aiosqlite",
        "postgresql": "postgresql+asyncpg",
        "postgres": "postgresql+asyncpg",
    }
    try:
        url = make_url(text_url)
        return url.set(drivername=drivers[url.drivername.split("+", 1)[0]])
    except (ArgumentError, KeyError, ValueError):
        raise ValueError("must be sqlite:///path or postgresql://user:password@host/database") from None


def _let_us_begin(engine: Engine, begin: str) -> None:
    @event.listens_for(engine, "connect")
    def prepare(dbapi_connection: Any, _record: Any) -> None:
        dbapi_connection.isolation_level = None  # the driver's own BEGIN is deferred and late
        cursor = dbapi_connection.cursor()
        for pragma in (
            "journal_mode=WAL",
            "synchronous=FULL",
            "foreign_keys=ON",
            f"busy_timeout={BUSY_TIMEOUT_MS}",
        ):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @event.listens_for(engine, "begin")
    def start(connection: Connection) -> None:
        connection.exec_driver_sql(begin)


def _for_services(statement_timeout_s: float | None) -> dict[str, str]:
    """What the server is to end by itself, in milliseconds; and how it is to find rows.

    A plan is kept for as long as its connection. Made while a table was small, it may read all of it, and go on doing
    so until PostgreSQL has counted again, however many there are by then. Every statement of a service has an index.
    """
    if statement_timeout_s is None:
        return {}  # whoever may take as long as they need, may read everything
    limit = str(int((statement_timeout_s + ABANDONED_AFTER_S) * 1000))
    limits = {"statement_timeout": limit, "idle_in_transaction_session_timeout": limit}
    return {**limits, "enable_seqscan": "off"}


def _distrust_what_fails(engine: Engine, connections: Connections) -> None:
    """Make every connection anew before it is used again, after one that gave no answer, or a standby's answer.

    What is pooled leads to the same server over the same way: a primary that was demoted refuses to write for as long
    as somebody stays connected, and a connection that is half-open costs a whole timeout to find out.
    """

    @event.listens_for(engine, "handle_error")
    def look(context: ExceptionContext) -> None:
        error = context.original_exception
        unanswered = isinstance(error, TimeoutError | asyncio.CancelledError)
        if unanswered or getattr(error, "sqlstate", None) == _READ_ONLY:
            context.is_disconnect = context.invalidate_pool_on_disconnect = True
        if context.is_disconnect:
            connections.distrust()


def is_lost_race(error: BaseException) -> bool:
    """Whether a transaction met another one that was quicker: begun anew, it sees what that one has written."""
    if isinstance(error, IntegrityError):
        return True
    return isinstance(error, DBAPIError) and str(getattr(error.orig, "sqlstate", "")).startswith(_LOST_SQLSTATE)


def is_transient(error: BaseException) -> bool:
    """Whether the database may accept the same unit of work when it is tried again, unchanged."""
    if isinstance(error, PoolTimeoutError | OSError | TimeoutError):
        return True
    if not isinstance(error, DBAPIError):
        return False
    if error.connection_invalidated:
        return True
    sqlstate = getattr(error.orig, "sqlstate", None)
    if sqlstate is not None:
        return str(sqlstate).startswith(_TRANSIENT_SQLSTATES)
    code = getattr(error.orig, "sqlite_errorcode", None)
    if code is not None:
        return code & 0xFF in _TRANSIENT_SQLITE_CODES
    return isinstance(error, OperationalError | InterfaceError)
