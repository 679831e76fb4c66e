"""A service: its table, and the process that runs it.

A table says what a service states, what it listens to, and what it answers over HTTP. Everything else
(streams, durable consumers, relay, idempotency keys, problems, readiness, graceful stop) comes with standing
in it.
"""

import argparse
import asyncio
import gc
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Generic, cast

import structlog
from sqlalchemy import MetaData
from sqlalchemy.ext.asyncio import AsyncConnection
from typing_extensions import TypeVar

from libs import logs
from libs.chores import PRUNING, Restating
from libs.contracts import Fact
from libs.messaging.awaiting import Awaits
from libs.messaging.bus import Bus
from libs.messaging.consumer import Listens, durables
from libs.messaging.jetstream import JetStream, JetStreamSettings
from libs.messaging.participant import Participant, joined
from libs.messaging.relay import Relay
from libs.settings import HttpSettings, ServiceSettings
from libs.storage import Database
from libs.storage.migrations import migrate_when_there, pending
from libs.tasks import going_on, heed
from libs.telemetry import Telemetry
from libs.telemetry.gauges import Gauge, Gauges
from libs.web.app import make_app
from libs.web.commands import Commands
from libs.web.identity import Verifier
from libs.web.routes import Edge, Route
from libs.web.server import serving

StoreT = TypeVar("StoreT")
ToolsT = TypeVar("ToolsT", default=None)

STOP_WITHIN_S: Final = 15.0
RETRY_EVERY_S: Final = 0.5

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Service(Generic[StoreT, ToolsT]):
    """The table of one service.

    `awaits` is what its requests wait for. `hears` are plain subjects of its own facts, stated by this or another
    replica; whoever waits for the id at their end looks again. `gauges` are numbers in its tables worth watching.
    `pace_s` is for a service nobody waits for: what follows from a batch of facts comes at once, the next batch so much
    later, unless it was full. When much happens, batches are larger, and cost less.
    """

    name: str
    folder: Path
    settings: type[ServiceSettings]
    store: Callable[[AsyncConnection], StoreT]
    tables: MetaData
    routes: Sequence[Route]
    publishes: Sequence[type[Fact]] = ()
    listens: Sequence[Listens[StoreT]] = ()
    awaits: Awaits[StoreT] | None = None
    hears: Sequence[str] = ()
    restating: Restating[StoreT] | None = None
    gauges: Sequence[Gauge[StoreT]] = ()
    pace_s: float = 0.0
    tools: Callable[[Any], ToolsT] = field(default=lambda _settings: cast("ToolsT", None))

    @property
    def migrations(self) -> Path:
        """Where the service's migrations lie."""
        return self.folder / "migrations"


class Running(Generic[StoreT, ToolsT]):
    """One process of a service: waits for what it needs, works, and stops in good order."""

    def __init__(self, service: Service[StoreT, ToolsT], settings: ServiceSettings) -> None:
        self.service = service
        self._settings = settings
        self._database = Database(
            settings.database_url.get_secret_value(), name=service.name, pool_size=settings.pool_size
        )
        self.telemetry = Telemetry.of(service.name, settings)
        self._bus: Bus | None = None
        self._edge: Edge[StoreT, ToolsT] | None = None
        self._schema_current = False
        self._database_away = False
        self._failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def awaits(self) -> Sequence[str]:
        """Name what is not there; also the broker, while it stores so little that new work is refused."""
        missing = []
        if not self._schema_current or self._database_away:
            missing.append("database")
        if self._bus is None or not self._bus.connected or self._edge is None or self._edge.refusing:
            missing.append("nats")
        return missing

    def answers(self) -> bool:
        """Whether requests get answers: once everything was there, only the database can take that away.

        Without the broker orders are taken and answered 202; a cluster that sent nobody here would refuse them.
        """
        return self._edge is not None and not self._database_away

    def edge(self) -> Edge[StoreT, ToolsT] | None:
        """What routes work with, once it is there."""
        return self._edge

    @asynccontextmanager
    async def started(self, connect: Callable[[], Awaitable[Bus]]) -> AsyncIterator[None]:
        """Serve until the end of the block. Waits for the database and the bus in the background."""
        verifier = Verifier(
            self._settings.jwt_public_keys,
            issuer=self._settings.jwt_issuer,
            audience=self._settings.jwt_audience,
        )
        self._watch_memory()
        app = make_app(
            self.service.routes,
            self,
            verifier,
            self.telemetry,
            requests_at_most=self._settings.requests_at_most,
        )
        work = asyncio.create_task(self._work(connect), name=self.service.name)
        work.add_done_callback(self._report)
        try:
            async with serving(app, self._settings):
                yield
        finally:
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)
            await self.telemetry.close()

    async def failed(self) -> None:
        """Return never; raise what ended the work."""
        await self._failed

    def _report(self, work: "asyncio.Task[None]") -> None:
        if not work.cancelled() and (error := work.exception()) and not self._failed.done():
            self._failed.set_exception(error)

    async def _work(self, connect: Callable[[], Awaitable[Bus]]) -> None:
        await self._await("database", self._check_schema)
        bus = await self._await("nats", connect)
        self._bus = bus
        part = self._participant(bus)
        relay, units = part.relay, part.units
        try:
            await self._await("nats", relay.stream.assured)
            for subject in self.service.hears:
                await bus.listen(subject, units.awaited.hear)
            heed()
            self._edge = Edge(
                units,
                Commands(units, batch_limit=self._settings.batch_limit),
                relay,
                tools=self.service.tools(self._settings),
                patience_s=self._settings.patience_s,
                fingerprint_key=self._settings.fingerprint_key.get_secret_value().encode(),
            )
            log.info("ready", database=str(self._database))
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(relay.run())
                tasks.create_task(units.awaited.run())
                tasks.create_task(self._watch_database())
                tasks.create_task(self._gauges(relay, bus).run(), name="gauges")
                for chore in PRUNING:
                    tasks.create_task(chore.run(units))
                if self.service.restating:
                    tasks.create_task(self.service.restating.run(self.service.name, units, bus))
                for consuming in part.consume():
                    tasks.create_task(joined(consuming))
        finally:
            await asyncio.shield(asyncio.wait_for(self._finish(part), STOP_WITHIN_S))

    def _participant(self, bus: Bus) -> Participant[StoreT]:
        return Participant(
            self.service.name,
            self._database,
            bus,
            self.service.store,
            self.service.listens,
            awaits=self.service.awaits,
            telemetry=self.telemetry,
            batch_limit=self._settings.batch_limit,
            pace_s=self.service.pace_s,
        )

    def _watch_memory(self) -> None:
        """Show what this process knows without asking anybody."""
        metrics, database = self.telemetry.metrics, self._database
        metrics.watch("nats_connected", "1 while connected to NATS", lambda: bool(self._bus and self._bus.connected))
        pool = metrics.gauge("database_pool_connections", "Open connections to the database", "state")
        pool.labels("in_use").set_function(lambda: database.connections("in_use"))
        pool.labels("idle").set_function(lambda: database.connections("idle"))

    def _gauges(self, relay: Relay, bus: Bus) -> Gauges:
        metrics, service = self.telemetry.metrics, self.service
        metrics.watch("outbox_oldest_unpublished_seconds", "Age of the oldest unpublished row", lambda: relay.lag_s)
        gauges = Gauges(metrics, service.name, self._database, bus)
        gauges.add_lag(durables(service.name, service.listens))
        for gauge in service.gauges:
            gauges.add(gauge, service.store)
        return gauges

    async def _finish(self, part: Participant[StoreT]) -> None:
        """Finish what is under way, and leave. HTTP has stopped before."""
        await part.finish()
        await self._database.close()
        log.info("stopped")

    async def _await(self, what: str, attempt: Callable[[], Awaitable[Any]]) -> Any:
        """Try until it succeeds, saying once what is awaited, and again every ten seconds."""
        tries = 0
        while True:
            heed()
            try:
                answer = await attempt()
            except Exception as error:  # noqa: BLE001 - whatever is wrong, it is said, and tried again
                if tries % int(10 / RETRY_EVERY_S) == 0:
                    log.warning(
                        "waiting",
                        awaits=what,
                        error=str(error).splitlines()[0] if str(error) else repr(error),
                    )
                tries += 1
                await asyncio.sleep(RETRY_EVERY_S)
            else:
                heed()
                return answer

    async def _check_schema(self) -> None:
        missing = await pending(self._database, self.service.migrations)
        if missing:
            raise RuntimeError(f"the database lacks {', '.join(missing)}; run `{self.service.name} migrate`")
        self._schema_current = True

    async def _watch_database(self) -> None:
        while going_on():
            try:
                async with asyncio.timeout(3):
                    await self._database.ping()
                self._database_away = False
            except Exception as error:  # noqa: BLE001 - any failure means that it is away
                if not self._database_away:
                    log.warning("database is away", error=str(error) or repr(error))
                self._database_away = True
            await asyncio.sleep(1)


def run_process(name: str, settings: HttpSettings, work: Callable[[asyncio.Event], Coroutine[Any, Any, None]]) -> None:
    """Run `work` as the process `name` until SIGTERM or SIGINT sets the event it is given."""
    logs.configure(name, level=settings.log_level)
    _raise_limit_of_files()
    _collect_garbage_seldom()

    async def main() -> None:
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        await work(stop)

    if sys.platform == "win32":
        asyncio.run(main())
    else:
        import uvloop  # noqa: PLC0415 - not on Windows

        uvloop.run(main())


def _collect_garbage_seldom() -> None:
    """Leave what was imported out of every collection, and wait for more than 700 new objects until the next one."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


def _raise_limit_of_files() -> None:
    """Allow as many open files, and so connections, as the process may allow itself; 65,536 are plenty."""
    if sys.platform != "win32":
        import resource  # noqa: PLC0415 - not on Windows

        now, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(now, min(most, 65_536)), most))


def main_of(service: Service[Any, Any], others: Mapping[str, Callable[[Sequence[str]], None]] | None = None) -> None:
    """The program of a service: ``billing`` runs it, ``billing migrate`` brings its database up to date.

    `others` are its own commands; each gets the arguments that follow its name.
    """
    others = others or {}
    if len(sys.argv) > 1 and sys.argv[1] in others:
        others[sys.argv[1]](sys.argv[2:])
        return
    parser = argparse.ArgumentParser(prog=service.name, description=f"The {service.name} service of Orderly.")
    parser.add_argument("command", nargs="?", choices=["run", "migrate", *others], default="run")
    waiting = "with migrate: how long to wait for a database that is not there yet, or busy"
    parser.add_argument("--wait", type=float, default=0.0, metavar="SECONDS", help=waiting)
    given = parser.parse_args()
    settings = service.settings.from_environment()
    if given.command == "migrate":
        logs.configure(service.name, level=settings.log_level)
        asyncio.run(_migrate(service, settings, wait_s=given.wait))
    else:
        run_process(service.name, settings, lambda stop: _run(service, settings, stop))


async def _migrate(service: Service[Any, Any], settings: ServiceSettings, *, wait_s: float) -> None:
    url = settings.database_url.get_secret_value()
    database = Database(url, name=f"{service.name} migrate", statement_timeout_s=None)
    try:
        applied = await migrate_when_there(database, service.migrations, within_s=wait_s)
        log.info("migrated", database=str(database), applied=applied)
    finally:
        await database.close()


async def _run(service: Service[Any, Any], settings: ServiceSettings, stop: asyncio.Event) -> None:
    running = Running(service, settings)
    bus_settings = JetStreamSettings(
        url=settings.nats_url,
        name=service.name,
        user=settings.nats_user,
        password=settings.nats_password.get_secret_value() if settings.nats_password else None,
        replicas=settings.stream_replicas,
        max_bytes=settings.stream_max_bytes,
    )

    def give_up() -> None:
        if not stop.is_set():  # the client closed for good: end, and be restarted
            log.error("nats connection closed")
            os.kill(os.getpid(), signal.SIGTERM)

    async with running.started(lambda: JetStream.connect(bus_settings, on_closed=give_up)):
        failed = asyncio.create_task(running.failed())
        await asyncio.wait({failed, asyncio.create_task(stop.wait())}, return_when=asyncio.FIRST_COMPLETED)
        stop.set()
        if failed.done() and (error := failed.exception()):
            log.critical("ended", error=str(error), exc_info=error)
            raise SystemExit(1)
        failed.cancel()
        log.info("stopping")
