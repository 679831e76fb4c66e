"""More than the gateway can do, with a real process: the rest is refused at once, and those who are in go on."""

import asyncio
import socket
import statistics
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import pytest
from aiohttp import web

from libs.local.servers import free_port, listening
from libs.local.supervisor import Program, Supervisor, environment
from libs.service import _raise_limit_of_files
from libs.tests.eventually import eventually
from libs.web.keys import new_key, public_pem

ROOM: Final = 100
CROWD: Final = 3_000
SERVICES: Final = ("auth", "profiles", "billing", "orders", "notifications")
ASKED: Final = b"GET /client/users HTTP/1.1\r\nHost: x\r\n"


class Busy:
    """A service that lets everybody wait until it may answer."""

    def __init__(self) -> None:
        self.may_answer = asyncio.Event()
        self.asked = 0

    async def answer(self, request: web.Request) -> web.Response:
        if request.path != "/readyz":
            self.asked += 1
            await self.may_answer.wait()
        return web.json_response({"awaits": []})


@asynccontextmanager
async def gateway(busy: Busy, folder: Path) -> AsyncIterator[int]:
    """A gateway's process in front of one service that plays all of them; its port."""
    _raise_limit_of_files()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", busy.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    behind, port = free_port(), free_port()
    await web.TCPSite(runner, "127.0.0.1", behind, backlog=1024).start()
    (folder / "public.pem").write_bytes(public_pem([new_key().public_key()]))
    env = environment(
        **{f"{name.upper()}_URL": f"http://127.0.0.1:{behind}" for name in SERVICES},
        PORT=str(port),
        JWT_PUBLIC_KEYS=str(folder / "public.pem"),
        REQUESTS_AT_MOST=str(ROOM),
        UPSTREAM_TIMEOUT_S="120",
    )
    supervisor = Supervisor(lambda _sentence: None)
    log = folder / "gateway.log"
    try:
        await supervisor.start(Program("gateway", [str(Path(sys.executable).parent / "gateway")], env, log))
        await listening(port, within_s=30, what="the gateway", log=log)
        yield port
    finally:
        busy.may_answer.set()
        await supervisor.stop()
        await runner.cleanup()


async def ask(port: int) -> str:
    """Ask on a connection of one's own; return the status, with the `Retry-After` that came with it."""
    client = socket.socket()
    client.setblocking(False)
    await asyncio.get_running_loop().sock_connect(client, ("127.0.0.1", port))
    # At once: one of thousands who went through asyncio's streams first may seem to have nothing to say for seconds.
    client.sendall(ASKED + b"Connection: close\r\n\r\n")
    reader, writer = await asyncio.open_connection(sock=client)
    try:
        answer = (await reader.read()).decode()
        return answer[9:12] + (" later" if "\r\nRetry-After: 1\r\n" in answer else "")
    finally:
        writer.close()


@pytest.mark.prove
async def test_a_crowd_is_told_at_once_to_come_later_and_those_inside_are_answered(tmp_path: Path) -> None:
    busy = Busy()
    async with gateway(busy, tmp_path) as port:
        inside = [asyncio.create_task(ask(port)) for _ in range(ROOM)]
        await eventually(lambda: busy.asked == ROOM, within_s=60)
        # Nobody behind the gateway answers anybody now: who waits for a place waits for ever.
        async with asyncio.timeout(60):
            told = Counter(await asyncio.gather(*(ask(port) for _ in range(CROWD))))
        assert told == {"503 later": CROWD}
        assert busy.asked == ROOM, "the crowd went on to the services"
        took = []
        for _ in range(50):
            started = time.perf_counter()
            assert await ask(port) == "503 later"
            took.append(time.perf_counter() - started)
        assert statistics.median(took) < 0.5, "a refusal takes as long as work"
        busy.may_answer.set()
        started = time.perf_counter()
        assert set(await asyncio.gather(*inside)) == {"200"}
        assert time.perf_counter() - started < 30
        assert await ask(port) == "200"


@pytest.mark.prove
async def test_those_inside_are_as_fast_as_without_a_crowd(tmp_path: Path) -> None:
    busy = Busy()
    busy.may_answer.set()
    async with gateway(busy, tmp_path) as port:
        alone = await _median_of_admitted(port, ROOM // 2)
        crowded = await _median_of_admitted(port, 4 * ROOM)
    # The crowd is eight times as many, and works in this very process: that is in the time, too, on a slow machine.
    assert crowded < max(40 * alone, 2.0), f"{alone:.3f} s alone, {crowded:.3f} s in a crowd"


async def _median_of_admitted(port: int, clients: int) -> float:
    """Ask with so many clients at a time, each a few times; return how long the answers took that were no refusals."""
    took: list[float] = []

    async def asking() -> None:
        for _ in range(5):
            started = time.perf_counter()
            if await ask(port) == "200":
                took.append(time.perf_counter() - started)

    await asyncio.gather(*(asking() for _ in range(clients)))
    return statistics.median(took)
