"""Fixtures for the tests of messaging: buses of both kinds, a server that can be stopped, a service's database."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from libs.local.servers import Postgres, free_port, listening, nats_nodes, nats_program
from libs.local.supervisor import Supervisor
from libs.messaging import durable
from libs.messaging.bus import Bus
from libs.messaging.jetstream import JetStream, JetStreamSettings
from libs.messaging.memory import MemoryBroker, MemoryBus
from libs.messaging.tests.stage import opened, random_service
from libs.storage import Database

Connect = Callable[[], Awaitable[Bus]]

MAX_BYTES_OF_NODES = 64 << 20  # somebody publishes to them for as long as it takes
MAX_BYTES = 1 << 24
"""Little, because the server sets it aside."""


@pytest.fixture(autouse=True)
def plain_logs() -> Iterator[None]:
    """Write tracebacks plainly: structlog's default shows every local variable, and takes its time for it."""
    renderer = structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback)
    structlog.configure(processors=[structlog.processors.add_log_level, renderer])
    yield
    structlog.reset_defaults()


@pytest.fixture
def service() -> str:
    return random_service()


@pytest.fixture
def ack_wait_s() -> float:
    """As long as in production, unless a test asks for less: nothing comes again while a slow machine thinks."""
    return 30.0


@pytest.fixture(params=["memory", "jetstream"])
def connect_once(request: pytest.FixtureRequest, ack_wait_s: float, monkeypatch: pytest.MonkeyPatch) -> Connect:
    """Each call is another process at the same broker."""
    if request.param == "memory":
        broker = MemoryBroker(ack_wait_s=ack_wait_s)

        async def connect_to_memory() -> Bus:
            return MemoryBus(broker)

        return connect_to_memory
    monkeypatch.setattr(durable, "ACK_WAIT_S", ack_wait_s)
    url: str = request.getfixturevalue("nats_url")
    return lambda: JetStream.connect(JetStreamSettings(url, "test", max_bytes=MAX_BYTES))


@pytest.fixture
async def connect(connect_once: Connect) -> AsyncIterator[Connect]:
    opened: list[Bus] = []

    async def connect_and_remember() -> Bus:
        opened.append(await connect_once())
        return opened[-1]

    yield connect_and_remember
    for bus in opened:
        await bus.close()


@pytest.fixture
async def bus(connect: Connect, service: str) -> Bus:
    """A connection, and the stream of `service`."""
    bus = await connect()
    await bus.ensure_stream(service)
    return bus


class Server:
    """A nats-server that a test can stop, and start again on the same store."""

    def __init__(self, folder: Path, access: dict[str, Any] | None = None) -> None:
        self.port = free_port()
        self.store = folder / "nats/store"
        self._program = nats_program(folder / "nats", self.port, folder / "logs", access=access)
        self._supervisor = Supervisor(lambda _sentence: None)
        self._buses: list[JetStream] = []

    async def start(self) -> None:
        await self._supervisor.start(self._program)
        await listening(self.port, within_s=60, what="nats-server", log=self._program.log)

    async def stop(self) -> None:
        await self._supervisor.stop()

    async def connect(
        self, name: str = "test", *, max_bytes: int = MAX_BYTES, password: str | None = None
    ) -> JetStream:
        settings = JetStreamSettings(
            f"nats://127.0.0.1:{self.port}", name, name if password else None, password, max_bytes=max_bytes
        )
        self._buses.append(await JetStream.connect(settings))
        return self._buses[-1]

    async def close(self) -> None:
        for bus in self._buses:
            await bus.close()
        await self.stop()


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    server = Server(tmp_path)
    await server.start()
    yield server
    await server.close()


class Cluster(Server):
    """Three servers, each of which has a copy of the stream."""

    def __init__(self, folder: Path) -> None:
        self.ports = [free_port() for _ in range(3)]
        self.port = self.ports[0]
        self._folder = folder
        self._supervisor = Supervisor(lambda _sentence: None)
        self._programs = nats_nodes(folder, self.ports, "secret", folder / "logs")
        self._buses = []

    def node(self, number: int) -> Path:
        return self._folder / self._programs[number].label

    async def start(self) -> None:
        for program in self._programs:
            await self._supervisor.start(program)
        for port in self.ports:
            await listening(port, within_s=60, what="nats-server", log=self._programs[0].log)

    async def connect(self, name: str = "test", **_options: Any) -> JetStream:
        url = ",".join(f"nats://127.0.0.1:{port}" for port in self.ports)
        settings = JetStreamSettings(url, name, replicas=3, max_bytes=MAX_BYTES_OF_NODES)
        self._buses.append(await JetStream.connect(settings))
        return self._buses[-1]


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    cluster = Cluster(tmp_path)
    await cluster.start()
    yield cluster
    await cluster.close()


@pytest.fixture(scope="session")
def postgres_url(postgres: Postgres) -> str:
    """One database for all tests of this worker, each of which begins by emptying it: that is faster than another."""
    return asyncio.run(postgres.create_database(f"t{secrets.token_hex(6)}", secrets.token_hex(8)))


@pytest.fixture(params=["sqlite", "postgres"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'test.db'}"
    url: str = request.getfixturevalue("postgres_url")
    return url


@pytest.fixture
async def database(database_url: str, tmp_path: Path) -> AsyncIterator[Database]:
    """A service's database, empty, on SQLite and on PostgreSQL."""
    async with opened(database_url, tmp_path / "migrations") as database:
        yield database
