"""Wires: what passes over them, and what does not, in each of their manners."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest

from orderly.faults.network import LATENCY_S, Manner, Wire

Client = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@pytest.fixture
async def wire() -> AsyncIterator[Wire]:
    """A wire to a server that says again what it is told."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(1024):
                writer.write(data)
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    wire = Wire(server.sockets[0].getsockname()[1])
    await wire.open()
    yield wire
    await wire.close()
    server.close()


@asynccontextmanager
async def dialled(wire: Wire) -> AsyncIterator[Client]:
    reader, writer = await asyncio.open_connection("127.0.0.1", wire.port)
    yield reader, writer
    writer.transport.abort()


async def echo_of(client: Client, word: bytes, *, within_s: float = 10) -> bytes:
    reader, writer = client
    writer.write(word)
    async with asyncio.timeout(within_s):
        return await reader.readexactly(len(word))


async def test_what_is_said_passes_and_so_does_the_end(wire: Wire) -> None:
    async with dialled(wire) as client:
        assert await echo_of(client, b"hello") == b"hello"
        client[1].write_eof()
        async with asyncio.timeout(10):
            assert await client[0].read() == b""


async def test_a_cut_resets_who_is_there_and_nobody_else(wire: Wire) -> None:
    async with dialled(wire) as client:
        await echo_of(client, b"hello")
        await wire.cut()
        with pytest.raises(ConnectionResetError):
            await client[0].read()
    async with dialled(wire) as another:
        assert await echo_of(another, b"hello") == b"hello"


async def test_nothing_passes_where_it_is_swallowed_and_who_was_there_stays_dead(wire: Wire) -> None:
    async with dialled(wire) as before:
        await echo_of(before, b"hello")
        wire.swallow()
        async with dialled(wire) as meanwhile:
            for client in (before, meanwhile):
                with pytest.raises(TimeoutError):
                    await echo_of(client, b"hello", within_s=0.2)
            wire.manner = Manner.PASSING
            async with dialled(wire) as after:
                assert await echo_of(after, b"hello") == b"hello"
            for client in (before, meanwhile):
                with pytest.raises(TimeoutError):
                    await echo_of(client, b"hello", within_s=0.2)


async def test_a_slow_wire_takes_its_time_each_way(wire: Wire) -> None:
    clock = asyncio.get_running_loop().time
    async with dialled(wire) as client:
        wire.manner = Manner.SLOW
        began = clock()
        assert await echo_of(client, b"hello") == b"hello"
        assert clock() - began >= 2 * LATENCY_S


async def test_a_server_that_is_not_there_takes_no_connection() -> None:
    nowhere = Wire(1)
    await nowhere.open()
    async with dialled(nowhere) as (reader, _):
        with pytest.raises(ConnectionResetError):
            await reader.read()
    await nowhere.close()
