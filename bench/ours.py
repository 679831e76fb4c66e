"""This system, started from nothing."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Final

from bench.collector import collecting
from bench.running import Running
from bench.servers import NATS, POSTGRES, fresh_databases, fresh_streams, given, given_pids
from libs.contracts import stream_of
from libs.local.servers import ALWAYS, CannotStart, free_port
from orderly.audit import audit
from orderly.services import NAMES
from orderly.system import DatabaseKind, Plan, System

SETTLED_WITHIN_S: Final = 60.0


@asynccontextmanager
async def orderly(
    folder: Path,
    *,
    database: DatabaseKind = "postgres",
    replicas: int = 1,
    sync_interval: str = ALWAYS,
    **settings: str,
) -> AsyncIterator[Running]:
    """Run this system as it is shipped, but for what is given; its traces go to a collector. Raises `CannotStart`."""
    nats_url, server = given(NATS), given(POSTGRES) if database == "postgres" else ""
    if nats_url and sync_interval != ALWAYS:
        raise CannotStart(f"{NATS} is set: how that server flushes is not ours to choose")
    async with AsyncExitStack() as stack:
        collector = await stack.enter_async_context(collecting())
        urls = dict(await stack.enter_async_context(fresh_databases(server, NAMES))) if server else {}
        if nats_url:
            await stack.enter_async_context(fresh_streams(nats_url, [stream_of(name) for name in NAMES]))
        plan = Plan(
            folder,
            free_port(),
            free_port(),
            database,
            replicas,
            urls,
            {**collector, **settings},
            sync_interval=sync_interval,
            nats_url=nats_url,
        )
        system = System(plan, lambda _sentence: None)
        await system.start()
        stack.push_async_callback(system.stop)
        yield _running(system)


def _running(system: System) -> Running:
    urls = {name: system.database_url(name) for name in NAMES}
    on_postgres = system.plan.database == "postgres"

    async def examine() -> list[str]:
        report = await audit(urls, system.nats_url, patience_s=SETTLED_WITHIN_S)
        return [f"{rule}: {found}" for rule, found in report.offenders().items()]

    outside = {name: pid for name, pid in given_pids().items() if on_postgres or name != "postgres"}
    labels = system.supervisor.labels
    pids = {label: pid for label in labels if (pid := system.supervisor.pid(label)) is not None}
    return Running(
        url=system.url,
        folder=system.plan.data_dir,
        pids={**pids, **outside},
        nats=system.nats_url,
        postgres=urls["orders"] if on_postgres else "",
        examine=examine,
        outside=list(outside.values()),
        replicas={name: system.service_urls(name) for name in NAMES},
    )
