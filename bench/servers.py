"""The servers behind the contestants: their own, from wheels, or those that ``BENCH_*_URL`` names."""

import os
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final
from urllib.parse import urlsplit

import asyncpg
from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.js.errors import NotFoundError

from bench.processes import listener
from libs.local.servers import CannotStart

POSTGRES: Final = "BENCH_POSTGRES_URL"
NATS: Final = "BENCH_NATS_URL"
_AT_ONCE: Final[dict[str, Any]] = {"connect_timeout": 5, "max_reconnect_attempts": 1, "reconnect_time_wait": 0.1}
"""By default a server that is away is tried for two minutes."""

LOOPBACK: Final = ("127.0.0.1", "localhost", "::1")


def given(setting: str) -> str:
    """Read where a server is that runs already; nothing: the contestants start their own. Raises `CannotStart`."""
    url = os.environ.get(setting, "").strip()
    schemes, example = {
        POSTGRES: (("postgresql", "postgres"), "postgresql://user:password@host:5432/postgres"),
        NATS: (("nats",), "nats://user:password@host:4222"),
    }[setting]
    if url and (urlsplit(url).scheme not in schemes or not urlsplit(url).hostname):
        raise CannotStart(f"{setting} must be like {example}")
    return url


def pid_of(url: str) -> int | None:
    """Find the process of a server that we have not started, if it is one of this machine and we may look."""
    at = urlsplit(url)
    return listener(at.port or {"nats": 4222}.get(at.scheme, 5432)) if at.hostname in LOOPBACK else None


def given_pids() -> dict[str, int]:
    """Name the processes of the servers that we have not started, as far as they can be found."""
    found = {name: pid_of(url) for name, setting in (("postgres", POSTGRES), ("nats", NATS)) if (url := given(setting))}
    return {name: pid for name, pid in found.items() if pid is not None}


@asynccontextmanager
async def fresh_databases(server: str, names: Sequence[str]) -> AsyncIterator[Mapping[str, str]]:
    """Make a database of our own for each name on a server, and drop them at the end. Raises `CannotStart`.

    Gives their URLs; the user is the server's URL's.
    """
    stamp = f"bench_{time.time_ns():x}"
    connection = await _connected(server)
    try:
        for name in names:
            await connection.execute(f'create database "{stamp}_{name}"')
    except asyncpg.PostgresError as error:
        raise CannotStart(f"{POSTGRES}: cannot create databases there: {error}") from None
    finally:
        await connection.close()
    try:
        yield {name: urlsplit(server)._replace(path=f"/{stamp}_{name}").geturl() for name in names}
    finally:
        connection = await _connected(server)
        for name in names:
            await connection.execute(f'drop database if exists "{stamp}_{name}" with (force)')
        await connection.close()


async def _connected(server: str) -> Any:
    try:
        return await asyncpg.connect(server, timeout=5)
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError) as error:
        raise CannotStart(f"{POSTGRES}: cannot connect: {str(error) or type(error).__name__}") from None


@asynccontextmanager
async def fresh_streams(server: str, streams: Sequence[str]) -> AsyncIterator[None]:
    """See that none of the streams is on a server, and delete those that are there at the end. Raises `CannotStart`."""
    if there := sorted(set(streams) & set(await _streams(server))):
        said = f"{NATS}: there are streams {', '.join(there)}, which the benchmark would use and delete"
        raise CannotStart(f"{said}; delete them, or name a server without")
    try:
        yield
    finally:
        client = await _client(server)
        for name in streams:
            try:
                await client.jetstream().delete_stream(name)
            except NotFoundError:
                continue
        await client.close()


async def _streams(server: str) -> list[str]:
    client = await _client(server)
    try:
        return [info.config.name or "" for info in await client.jetstream().streams_info()]
    except (NatsError, TimeoutError) as error:
        raise CannotStart(f"{NATS}: no JetStream there: {str(error) or type(error).__name__}") from None
    finally:
        await client.close()


async def _client(server: str) -> Client:
    client = Client()
    try:
        await client.connect(server, **_AT_ONCE, error_cb=_ignore)
    except (NatsError, OSError, TimeoutError) as error:
        raise CannotStart(f"{NATS}: cannot connect: {str(error) or type(error).__name__}") from None
    return client


async def _ignore(_error: Exception) -> None:
    """Say nothing: what fails is raised, too."""
