"""What servers and the kernel count: read at both edges of the time that counts."""

import os
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

import asyncpg
from nats.aio.client import Client

from bench.processes import cpu_s, disk_flushes, machine_cpu_s, snapshot
from bench.running import Running

_BY_IO: Final = 180000
_BY_WAL: Final = 140000


@dataclass(frozen=True, slots=True)
class Moment:
    """Everything that is counted, at one moment; None is what nobody counts here."""

    machine_cpu_s: float
    own_cpu_s: float
    """Of the contestant, its servers, its clients, and the benchmark itself."""

    cpu_s: Mapping[str, float]
    flushes: int | None
    """Of PostgreSQL's log."""

    stored: int | None
    """Messages in NATS' streams."""

    disk_flushes: int | None


class Counters:
    """Connections to whoever counts."""

    def __init__(self, running: Running, postgres: Any, nats: Client) -> None:
        self._running = running
        self._postgres = postgres
        self._nats = nats

    @classmethod
    @asynccontextmanager
    async def of(cls, running: Running) -> AsyncIterator["Counters"]:
        """Connect to the servers behind a contestant."""
        async with AsyncExitStack() as stack:
            postgres = None
            if running.postgres:
                postgres = await asyncpg.connect(running.postgres)
                stack.push_async_callback(postgres.close)
            nats = Client()
            await nats.connect(running.nats)
            stack.push_async_callback(nats.close)
            yield cls(running, postgres, nats)

    async def now(self) -> Moment:
        """Read everything."""
        seen, machine = snapshot(), machine_cpu_s()
        outside = sum(cpu_s(pid, seen) for pid in self._running.outside)
        return Moment(
            machine_cpu_s=machine,
            own_cpu_s=cpu_s(os.getpid(), seen) + outside,
            cpu_s={name: cpu_s(pid, seen) for name, pid in self._running.pids.items()},
            flushes=await self._flushes(),
            stored=sum(info.state.last_seq for info in await self._nats.jetstream().streams_info()),
            disk_flushes=disk_flushes(self._running.folder) if not self._running.outside else None,
        )

    async def _flushes(self) -> int | None:
        if self._postgres is None:
            return None
        version = int(await self._postgres.fetchval("select current_setting('server_version_num')"))
        if version < _BY_WAL:
            return None
        query = "select coalesce(sum(fsyncs), 0) from pg_stat_io where object = 'wal'"
        return int(await self._postgres.fetchval(query if version >= _BY_IO else "select wal_sync from pg_stat_wal"))


def each(before: int | None, after: int | None, count: int) -> float | None:
    """How many of something for each order; None when nobody counts."""
    return None if before is None or after is None else (after - before) / count
