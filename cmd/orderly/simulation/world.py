"""The world of a story: the broker, the disks, and processes of the real services that start, crash and stop."""

import asyncio
import contextvars
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any, Final, cast
from uuid import UUID

from argon2 import PasswordHasher
from pydantic import ValidationError

import auth.api
import auth.credentials
from libs import chores
from libs import service as running
from libs.contracts import stream_of
from libs.errors import Refusal, not_found, unavailable
from libs.messaging import awaiting, participant
from libs.messaging.bus import BusUnavailable
from libs.messaging.memory import MemoryBroker
from libs.messaging.participant import Participant
from libs.messaging.relay import Relay
from libs.service import Running, Service
from libs.settings import ServiceSettings
from libs.storage import is_transient
from libs.telemetry import Telemetry
from libs.telemetry.metrics import Metrics
from libs.tracing import Trace
from libs.web.app import REQUEST_TIMEOUT_S
from libs.web.identity import Caller
from libs.web.problems import STATUSES
from libs.web.routes import Call, Edge, Route
from orderly.services import SERVICES
from orderly.simulation.broker import SimulatedBus
from orderly.simulation.loop import OWNER, Loop
from orderly.simulation.storage import Disk, SimulatedDatabase
from orderly.simulation.weather import Weather

ACK_WAIT_S: Final = 3.0
"""Shorter than in reality, so that more is delivered again while it is still being handled."""


@dataclass(frozen=True, slots=True)
class Answered:
    """What a client was answered."""

    status: int
    body: dict[str, Any]
    replayed: bool = False


class Process(Running[Any, Any]):
    """One process of a service: `libs.service.Running`, whose requests arrive without a socket."""

    def __init__(self, service: Service[Any, Any], world: "World", number: int) -> None:
        self.tasks: list[asyncio.Task[Any]] = []
        self.name = f"{service.name}#{number}"
        self.alive = True
        self.stopping = False
        self.dies_after: int | None = None
        """How many steps it has left."""
        self.dies_at: int | None = None
        """How many boundaries it has left to pass."""
        self.requests: set[asyncio.Task[Answered]] = set()
        self._world = world
        self.disk = world.disks[service.name]
        with _made_of(SimulatedDatabase(self.disk, world.weather, lambda: self.alive)):
            super().__init__(service, _settings(service.name))
        self.bus = SimulatedBus(world.broker, world.weather)
        if world.broker_away:
            self.bus.go_away()
        context = contextvars.copy_context()
        context.run(OWNER.set, self)
        self.context: Final = context
        self.work = world.loop.create_task(self._work(self._connect), context=context)
        self.work.add_done_callback(self._ended)

    def about_to_step(self) -> None:
        """Die here if this is the step before which the story has it so."""
        if self.dies_after is not None and self.alive:
            self.dies_after -= 1
            if self.dies_after < 0:
                self.crash()

    def at_boundary(self) -> None:
        """Die here if the story has it so."""
        if self.dies_at is not None and self.alive:
            self.dies_at -= 1
            if self.dies_at < 0:
                self.crash()

    def crash(self) -> None:
        """End as `kill -9` ends a process: what it still tries reaches neither the broker nor a disk."""
        self.alive = False
        self._world.note(self.name, "crashes")
        self.bus.end()
        for task in self.tasks:
            if not task.done():
                task.cancel()

    async def stop(self) -> None:
        """Stop in good order: requests first, then the batches in hand, then what they stated."""
        self.stopping = True
        self._world.note(self.name, "is told to stop")
        if self.requests:
            await asyncio.wait(self.requests, timeout=5)
        self.work.cancel()
        await asyncio.wait({self.work})
        if self.alive:
            self.alive = False
            self.bus.end()
        for task in self.tasks:
            if not task.done():
                task.cancel()

    def ask(
        self, method: str, path: str, body: bytes, key: str | None, caller: Caller | None
    ) -> "asyncio.Task[Answered]":
        """Let a request arrive; it is answered unless this process dies meanwhile."""
        answering = self._answer(method, path, body, key, caller)
        task = self._world.loop.create_task(answering, context=self.context.copy())
        self.requests.add(task)
        task.add_done_callback(self.requests.discard)
        return task

    async def _answer(self, method: str, path: str, body: bytes, key: str | None, caller: Caller | None) -> Answered:
        """Do what `libs.web.app` does around a route: parse, call, map errors."""
        try:
            async with asyncio.timeout(REQUEST_TIMEOUT_S):
                route, values = _route(self.service.routes, method, path)
                given = route.body.model_validate_json(body) if route.body else None
                given = route.query() if route.query else given
                call: Call[Any] = Call(given, values, Trace.start(), route.name, key, caller)
                answer = await route.handler(call, self._ready_edge())
                return Answered(answer.status, answer.body.model_dump(mode="json"), call.replayed)
        except Refusal as refusal:
            return Answered(STATUSES[refusal.kind], {"slug": refusal.slug}, refusal.replayed)
        except ValidationError as error:
            return Answered(422, {"slug": "invalid_request", "error": str(error)})
        except Exception as error:  # noqa: BLE001 - as `libs.web.app.answer_problems`
            passing = is_transient(error) or isinstance(error, BusUnavailable)
            return Answered(503 if passing else 500, {"slug": "unavailable", "error": repr(error)})

    def _ready_edge(self) -> Edge[Any, Any]:
        edge = self.edge()
        if edge is None:
            raise unavailable("this service")
        return edge

    async def _connect(self) -> SimulatedBus:
        if not self.bus.connected:
            raise BusUnavailable("the broker is away")
        return self.bus

    def _ended(self, work: "asyncio.Task[None]") -> None:
        if self.alive and not self.stopping:
            error = None if work.cancelled() else work.exception()
            self._world.complain(f"{self.name} ended by itself: {error!r}")
            self.alive = False

    async def _check_schema(self) -> None:
        self._schema_current = True  # `make_disks` has migrated

    def _watch_memory(self) -> None:
        """Show nothing: nobody looks."""

    def _gauges(self, relay: Relay, bus: Any) -> Any:
        del relay, bus
        return _Unwatched()

    async def _watch_database(self) -> None:
        """Be ready always: a story's clients ask in any case."""

    async def _finish(self, part: Participant[Any]) -> None:
        if self.alive:
            await super()._finish(part)


class World:
    """Everything there is in a story, but the people."""

    def __init__(
        self,
        loop: Loop,
        disks: Mapping[str, Disk],
        weather: Weather,
        replicas: Mapping[str, int],
        *,
        first_start: bool,
    ) -> None:
        self.loop = loop
        self.disks = disks
        self.weather = weather
        self.broker = MemoryBroker(ack_wait_s=ACK_WAIT_S)
        self.broker_away = False
        self.complaints: list[str] = []
        self.trace: list[str] | None = None
        self.processes: dict[str, list[Process]] = {}
        self._started = 0
        if not first_start:
            self._has_run_before()
        for service in services():
            self.processes[service.name] = []
            for _ in range(replicas[service.name]):
                self.start(service.name)

    def _has_run_before(self) -> None:
        """Have what the first start of a service leaves: its stream, known to its database."""
        for name, disk in self.disks.items():
            stream = stream_of(name)
            disk.remember(stream)
            self.broker.make(stream)

    def start(self, name: str) -> Process:
        """Start a process of a service."""
        self._started += 1
        (service,) = (one for one in services() if one.name == name)
        process = Process(service, self, self._started)
        self.processes[name].append(process)
        return process

    def bury(self, process: Process) -> None:
        """Take a process that has ended from the list of those there are."""
        self.processes[process.service.name].remove(process)

    def everybody(self) -> Iterator[Process]:
        """Name every process that is there."""
        for processes in self.processes.values():
            yield from processes

    def end(self) -> None:
        """End everything at once."""
        for process in self.everybody():
            if process.alive:
                process.crash()

    def note(self, who: str, what: str) -> None:
        """Write a line into the trace, if there is one."""
        if self.trace is not None:
            self.trace.append(f"{self.loop.time():9.4f}  {who:<16} {what}")

    def complain(self, what: str) -> None:
        """Note what must never happen, whatever the weather."""
        self.note("!", what)
        self.complaints.append(what)


class _Relay(Relay):
    """The relay, without looks at the outbox that would find what the last one found: nothing, and none is written."""

    disk: Disk
    _looked_at = -1

    async def _sweep(self) -> bool:
        changes, connected = self.disk.changes, self._bus.connected
        if connected and changes == self._looked_at:
            return False
        more = await super()._sweep()
        nothing_left = not self.disk.rows("select 1 from outbox where published_at is null limit 1")
        self._looked_at = changes if connected and nothing_left and self.disk.changes == changes else -1
        return more


class _Unwatched:
    async def run(self) -> None:
        """Measure nothing."""


class _Unmeasured(Metrics):
    """Metrics cost more than everything they measure here, and nobody asks for them."""

    def __init__(self) -> None:
        self.in_flight = 0

    def committed(self, work: str, size: int, seconds: float) -> None:
        """See `Metrics`."""

    def consumed(self, stream: str, outcome: str, count: int = 1) -> None:
        """See `Metrics`."""

    def published(self, outcome: str, count: int) -> None:
        """See `Metrics`."""


class _QuickPasswords(auth.credentials.Passwords):
    """Passwords whose hashing takes no time worth mentioning."""

    def __init__(self) -> None:
        super().__init__()
        self._hasher = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)


@contextmanager
def _made_of(database: SimulatedDatabase) -> Iterator[None]:
    """Let a `Running` find this database, and no metrics, where it looks for its own."""
    given: Any = running
    real = given.Database, given.Telemetry
    given.Database = lambda *_positional, **_named: database
    given.Telemetry = _Silent
    try:
        yield
    finally:
        given.Database, given.Telemetry = real


class _Silent:
    @staticmethod
    def of(*_positional: Any, **_named: Any) -> Telemetry:
        return Telemetry(_Unmeasured())


@contextmanager
def stretched() -> Iterator[None]:
    """Have everybody look less often whether there is something to do. What they find is the same, and they find it
    in a third of the time: most of a story's imagined seconds nothing happens in."""
    waiting: Any = awaiting
    asking: Any = chores
    given: Any = participant
    real = waiting.INTERVAL_S, asking.EVERY_S, given.Relay
    waiting.INTERVAL_S, asking.EVERY_S, given.Relay = 3 * waiting.INTERVAL_S, 3 * asking.EVERY_S, _relay
    try:
        yield
    finally:
        waiting.INTERVAL_S, asking.EVERY_S, given.Relay = real


def _relay(*given: Any, **options: Any) -> Relay:
    relay = _Relay(*given, **options)
    owner = OWNER.get()
    assert isinstance(owner, Process)
    relay.disk = owner.disk
    return relay


@cache
def services() -> Sequence[Service[Any, Any]]:
    """List the services, auth with quick passwords and without keys: nobody logs in here."""
    return tuple(dataclasses.replace(one, **_changes(one)) for one in SERVICES)


def _changes(service: Service[Any, Any]) -> dict[str, Any]:
    if service.name != "auth":
        return {}
    return {"tools": lambda settings: auth.api.Tools(settings, _QuickPasswords(), cast("Any", None))}


@cache
def _settings(name: str) -> ServiceSettings:
    (service,) = (one for one in services() if one.name == name)
    return service.settings(
        database_url=f"sqlite:///{name}.db",
        fingerprint_key="0123456789abcdef",
        patience_s=2.0,
    )


def _route(routes: Sequence[Route], method: str, path: str) -> tuple[Route, dict[str, str]]:
    """Find the route of a request, and what stands in its braces. Raises `Refusal`."""
    parts = path.split("/")
    for route in routes:
        wanted = route.path.split("/")
        if route.method == method and len(wanted) == len(parts):
            values = {want[1:-1]: part for want, part in zip(wanted, parts, strict=True) if want.startswith("{")}
            if all(want == part or want.startswith("{") for want, part in zip(wanted, parts, strict=True)):
                return route, values
    raise not_found("route")


def caller(user_id: str, login: str) -> Caller:
    """Make who a token would have been issued to."""
    return Caller(UUID(user_id), login)
