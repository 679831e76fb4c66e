"""Faults of PostgreSQL: it is restarted, fails over, ends its connections, or somebody holds a lock."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Final
from urllib.parse import urlsplit

import asyncpg

from orderly.credentials import ensure_credentials
from orderly.faults import Fault
from orderly.system import System

END_EVERY_S: Final = 0.5
FAST: Final = signal.SIGINT
"""Sessions are ended, what is committed is written down."""

IMMEDIATE: Final = signal.SIGQUIT
"""Nothing is written down: the next start recovers from the log, as a standby that takes over does."""


@asynccontextmanager
async def _connected(url: str) -> AsyncIterator[Any]:
    connection = await asyncpg.connect(url, timeout=10)
    try:
        yield connection
    finally:
        await connection.close(timeout=10)


def _administering(system: System) -> AbstractAsyncContextManager[Any]:
    """Connect as the one who may do everything."""
    port = urlsplit(system.database_url("orders")).port
    password = ensure_credentials(system.plan.data_dir / "keys").postgres_admin
    return _connected(f"postgresql://postgres:{password}@127.0.0.1:{port}/postgres")


@asynccontextmanager
async def _restarted(system: System) -> AsyncIterator[None]:
    await system.supervisor.restart("postgres", number=FAST)
    yield


@asynccontextmanager
async def _failing_over(system: System) -> AsyncIterator[None]:
    """Have the server gone without a word, and nobody in its place until the end of the block."""
    pid = system.supervisor.pid("postgres")
    assert pid is not None
    os.kill(pid, IMMEDIATE)
    await system.supervisor.stop(["postgres"])
    try:
        yield
    finally:
        await system.start_postgres()


@asynccontextmanager
async def _demoted(system: System) -> AsyncIterator[None]:
    """Let nothing be written until the end of the block, as a server that has become a standby."""
    await _let_write(system, "off")
    try:
        yield
    finally:
        await _let_write(system, "on")


async def _let_write(system: System, allowed: str) -> None:
    read_only = "off" if allowed == "on" else "on"
    async with _administering(system) as server:
        await server.execute("set session characteristics as transaction read write")
        await server.execute(f"alter system set default_transaction_read_only = {read_only}")
        await server.execute("select pg_reload_conf()")


@asynccontextmanager
async def _connections_ended(system: System) -> AsyncIterator[None]:
    """End every connection to the services' databases, again and again."""

    async def ending() -> None:
        async with _administering(system) as server:
            while True:
                await server.execute(
                    "select pg_terminate_backend(pid) from pg_stat_activity"
                    " where pid <> pg_backend_pid() and backend_type = 'client backend'"
                )
                await asyncio.sleep(END_EVERY_S)

    task = asyncio.create_task(ending())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def _locked(service: str, statement: str) -> Callable[[System], AbstractAsyncContextManager[None]]:
    @asynccontextmanager
    async def cause(system: System) -> AsyncIterator[None]:
        async with _connected(system.database_url(service)) as owner, owner.transaction():
            await owner.execute(statement)
            yield

    return cause


_ON_POSTGRES: Final = frozenset({"postgres"})
_CAUSES: Final[dict[str, tuple[str, Callable[[System], AbstractAsyncContextManager[None]]]]] = {
    "postgres-restarted": ("PostgreSQL is restarted", _restarted),
    "postgres-failing-over": ("PostgreSQL dies, and nobody takes its place for a while", _failing_over),
    "postgres-demoted": ("PostgreSQL answers, but lets nobody write", _demoted),
    "postgres-connections-ended": ("PostgreSQL ends its connections again and again", _connections_ended),
    "table-locked": ("somebody locks the table of orders", _locked("orders", "lock table orders")),
    "rows-locked": ("somebody locks every wallet", _locked("billing", "select from wallets for update")),
}

FAULTS: Final = tuple(Fault(name, says, cause, _ON_POSTGRES) for name, (says, cause) in _CAUSES.items())
