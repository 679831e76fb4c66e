"""Faults of the network: what lies between the services and NATS, or PostgreSQL, is cut, half-open, or slow."""

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from enum import Enum
from typing import Final
from urllib.parse import urlsplit

from orderly.faults import Fault
from orderly.system import Plan, System

LATENCY_S: Final = 0.1
BYTES_PER_S: Final = 256 * 1024
CUT_EVERY_S: Final = 0.5

_CHUNK: Final = 16 * 1024
_AHEAD: Final = 64
"""Chunks that are under way on one side of a slow line."""

_RESET: Final = struct.pack("ii", 1, 0)
"""For SO_LINGER: closing sends a reset."""

Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Manner(Enum):
    """What a wire does with what is sent over it."""

    PASSING = "passing"
    SLOW = "slow"
    SWALLOWING = "swallowing"


class Wire:
    """A TCP proxy on loopback, in front of a server on loopback."""

    def __init__(self, server_port: int) -> None:
        self.server_port = server_port
        self.manner = Manner.PASSING
        self._listening: asyncio.Server | None = None
        self._lines: set[_Line] = set()

    @property
    def port(self) -> int:
        """Where it listens."""
        assert self._listening is not None
        port: int = self._listening.sockets[0].getsockname()[1]
        return port

    async def open(self) -> None:
        """Listen."""
        self._listening = await asyncio.start_server(self._accept, "127.0.0.1", 0)

    async def close(self) -> None:
        """Stop listening, and cut everything."""
        if self._listening is not None:
            self._listening.close()
        await self.cut()

    async def cut(self) -> None:
        """Reset every connection, on both sides."""
        await asyncio.gather(*(line.cut() for line in tuple(self._lines)))

    def swallow(self) -> None:
        """Let no byte through any more, on connections that are there and on new ones.

        As where a firewall has forgotten a connection: what one side closes, the other does not hear of, and those
        connections stay dead when new ones live again.
        """
        self.manner = Manner.SWALLOWING
        for line in self._lines:
            line.dead = True

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line = _Line(self, (reader, writer))
        self._lines.add(line)
        try:
            await line.run()
        finally:
            self._lines.discard(line)


class _Line:
    """One connection over a wire."""

    def __init__(self, wire: Wire, client: Stream) -> None:
        self.dead = wire.manner is Manner.SWALLOWING
        self._wire = wire
        self._ends = [client]
        self._carrying: list[asyncio.Task[None]] = []

    async def run(self) -> None:
        """Carry bytes both ways until both sides have ended."""
        client = self._ends[0]
        if self.dead:
            self._carrying.append(asyncio.create_task(self._carry(client, client)))
        else:
            try:
                server = await asyncio.open_connection("127.0.0.1", self._wire.server_port)
            except OSError:
                _reset(client[1])  # nobody listens there
                return
            self._ends.append(server)
            self._carrying.append(asyncio.create_task(self._carry(client, server)))
            self._carrying.append(asyncio.create_task(self._carry(server, client)))
        await asyncio.wait(self._carrying)

    async def cut(self) -> None:
        """Reset both sides."""
        for _, writer in self._ends:
            _reset(writer)
        for task in self._carrying:
            task.cancel()
        await asyncio.gather(*self._carrying, return_exceptions=True)

    async def _carry(self, source: Stream, target: Stream) -> None:
        """Carry what one side says; end the other when it has ended, unless that is not to hear of it."""
        loop = asyncio.get_running_loop()
        queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(_AHEAD)
        saying = asyncio.create_task(self._say(queue, target[1]))
        try:
            with contextlib.suppress(OSError):
                while data := await source[0].read(_CHUNK):
                    if not self.dead:
                        await queue.put((loop.time(), data))
            if self.dead:
                _reset(source[1])
                return
            await queue.put((loop.time(), b""))
            await saying
        finally:
            saying.cancel()

    async def _say(self, queue: "asyncio.Queue[tuple[float, bytes]]", writer: asyncio.StreamWriter) -> None:
        loop = asyncio.get_running_loop()
        with contextlib.suppress(OSError):
            while True:
                heard_at, data = await queue.get()
                if self._wire.manner is Manner.SLOW:
                    await asyncio.sleep(max(0.0, heard_at + LATENCY_S - loop.time()) + len(data) / BYTES_PER_S)
                if self.dead:
                    continue
                if not data:
                    break
                writer.write(data)
                await writer.drain()
            writer.close()


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close a connection with a reset instead of an orderly end."""
    sock: socket.socket | None = writer.get_extra_info("socket")
    if sock is not None and not writer.is_closing():
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    writer.transport.abort()


class WiredSystem(System):
    """A system whose services reach NATS, and PostgreSQL, over wires that can be cut."""

    def __init__(self, plan: Plan, say: Callable[[str], None]) -> None:
        super().__init__(plan, say)
        self.wires: dict[str, Wire] = {}

    def reached_at(self, url: str) -> str:
        """Say under which address services reach a server that listens at `url`."""
        port = urlsplit(url).port
        for wire in self.wires.values():
            if wire.server_port == port:
                return url.replace(f":{port}", f":{wire.port}")
        return url

    async def migrate(self) -> None:
        """Start the databases, bring them up to date, and lay the wires."""
        await super().migrate()
        await self._lay("nats", self.plan.nats_port)
        if self.plan.database == "postgres":
            port = urlsplit(self.database_url("orders")).port
            assert port is not None
            await self._lay("postgres", port)

    async def stop(self) -> None:
        """Stop everything, the wires last."""
        await super().stop()
        await asyncio.gather(*(wire.close() for wire in self.wires.values()))

    async def _lay(self, server: str, port: int) -> None:
        self.wires[server] = Wire(port)
        await self.wires[server].open()


def _wire(system: System, server: str) -> Wire:
    assert isinstance(system, WiredSystem), "faults of the network need a system with wires"
    return system.wires[server]


def _cause(
    server: str, fault: Callable[[Wire], AbstractAsyncContextManager[None]]
) -> Callable[[System], AbstractAsyncContextManager[None]]:
    return lambda system: fault(_wire(system, server))


@asynccontextmanager
async def _cut(wire: Wire) -> AsyncIterator[None]:
    async def cutting() -> None:
        while True:
            await wire.cut()
            await asyncio.sleep(CUT_EVERY_S)

    task = asyncio.create_task(cutting())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@asynccontextmanager
async def _half_open(wire: Wire) -> AsyncIterator[None]:
    wire.swallow()
    try:
        yield
    finally:
        wire.manner = Manner.PASSING


@asynccontextmanager
async def _slow(wire: Wire) -> AsyncIterator[None]:
    wire.manner = Manner.SLOW
    try:
        yield
    finally:
        wire.manner = Manner.PASSING


NATS: Final = (
    Fault("nats-cut", "connections to NATS are reset again and again", _cause("nats", _cut)),
    Fault("nats-half-open", "no byte passes between services and NATS, nobody is told", _cause("nats", _half_open)),
    Fault("nats-slow", "the way to NATS is long and narrow", _cause("nats", _slow)),
)

_ON_POSTGRES: Final = frozenset({"postgres"})

POSTGRES: Final = (
    Fault(
        "postgres-half-open",
        "no byte passes between services and PostgreSQL, nobody is told",
        _cause("postgres", _half_open),
        _ON_POSTGRES,
    ),
    Fault("postgres-slow", "the way to PostgreSQL is long and narrow", _cause("postgres", _slow), _ON_POSTGRES),
)

FAULTS: Final = (*NATS, *POSTGRES)
"""All need a `WiredSystem`."""
