"""The operator's program as people start it: from a shell, with a terminal or a pipe behind it."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from libs.local.servers import CannotStart, free_port
from libs.local.supervisor import environment
from libs.tests.eventually import eventually
from orderly.services import NAMES
from orderly.tail import pattern_of

PROGRAM = str(Path(sys.executable).parent / "orderly")


class Started:
    """A running ``orderly …`` and the ports it was given."""

    def __init__(self, process: asyncio.subprocess.Process, folder: Path, gateway_port: str) -> None:
        self.process = process
        self.folder = folder
        self.url = f"http://127.0.0.1:{gateway_port}"
        self.printed = ""

    async def line(self, beginning: str) -> str:
        """Read on until a line that begins so; return it."""
        assert self.process.stdout is not None
        async with asyncio.timeout(60):
            while text := (await self.process.stdout.readline()).decode():
                self.printed += text
                if text.startswith(beginning):
                    return text.strip()
        raise AssertionError(f"no line begins with {beginning!r}:\n{self.printed}")

    def pids(self) -> dict[int, str]:
        """The processes that belong to it: those that name its folder or have it in their environment."""
        found = {}
        for entry in Path("/proc").iterdir():
            try:
                command = (entry / "cmdline").read_text().split("\0")
                variables = (entry / "environ").read_text()
            except (OSError, UnicodeDecodeError):
                continue
            if str(self.folder) in variables or any(str(self.folder) in part for part in command):
                found[int(entry.name)] = " ".join(command)
        return {pid: command for pid, command in found.items() if pid not in (os.getpid(), self.process.pid)}


@asynccontextmanager
async def started(folder: Path, *arguments: str, **extra: str) -> AsyncIterator[Started]:
    """Start the program with free ports and data in `folder`; kill it at the end if it still runs."""
    ports = {"GATEWAY_PORT": str(free_port()), "NATS_PORT": str(free_port())} | extra
    env = environment(DATA_DIR=str(folder), **ports)
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        PROGRAM, *arguments, env=env, stdout=pipe, stderr=asyncio.subprocess.STDOUT
    )
    try:
        yield Started(process, folder, ports["GATEWAY_PORT"])
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        process._transport.close()  # type: ignore[attr-defined] # else its pipe is closed after the loop


@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
async def test_run_says_when_it_is_ready_restarts_what_dies_and_leaves_nothing_behind(tmp_path: Path) -> None:
    async with started(tmp_path, "run") as run:
        assert await run.line("metrics ") == f"metrics {run.url}/metrics  gateway"
        assert await run.line("ready ") == f"ready {run.url}"
        billing = next(pid for pid, command in run.pids().items() if command.rstrip().endswith("/billing"))
        os.kill(billing, signal.SIGKILL)
        assert "starting it again" in await run.line("billing was ended by SIGKILL")
        async with aiohttp.ClientSession() as session:

            async def healthy() -> bool:
                async with session.get(f"{run.url}/client/health/") as response:
                    return response.status == 200

            await eventually(healthy, within_s=20)
        assert len(run.pids()) == len(NAMES) + 2  # the services, the gateway, nats-server
        run.process.send_signal(signal.SIGTERM)
        await run.line("stopped")
        assert await run.process.wait() == 0
        assert run.pids() == {}


@pytest.mark.prove
@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
async def test_three_nodes_are_started_restarted_and_stopped_like_one(tmp_path: Path) -> None:
    async with started(tmp_path, "run", "--cluster") as run:
        assert len((await run.line("nats ")).split(",")) == 3
        await run.line("ready ")
        nodes = {pid for pid, command in run.pids().items() if "nats-server" in command}
        assert len(nodes) == 3
        os.kill(min(nodes), signal.SIGKILL)
        assert "starting it again" in await run.line("nats")
        await eventually(lambda: len(run.pids()) == len(NAMES) + 4, within_s=20)
        run.process.send_signal(signal.SIGINT)
        await run.line("stopped")
        assert await run.process.wait() == 0
        assert run.pids() == {}


def test_printing_never_waits_for_a_reader() -> None:
    """A pipe holds 64 KiB; this prints some 20 times as much into one that nobody reads."""
    program = (
        "from orderly.logfiles import Output\n"
        "output = Output()\n"
        "for _ in range(20_000): output.log_line('x' * 64)\n"
        "output.close()\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as process:
        assert process.wait(timeout=30) == 0


async def test_a_collector_that_is_no_address_stops_the_start(tmp_path: Path) -> None:
    async with started(tmp_path, "run", OTEL_EXPORTER_OTLP_ENDPOINT="127.0.0.1:4318") as run:
        assert await run.process.wait() == 2
        assert run.process.stdout is not None
        said = (await run.process.stdout.read()).decode()
        assert said.startswith("setting OTEL_EXPORTER_OTLP_ENDPOINT: ")
        assert len(said.splitlines()) == 1


async def test_a_port_in_use_is_one_clear_sentence(tmp_path: Path) -> None:
    taken = await asyncio.start_server(lambda _reader, _writer: None, "127.0.0.1", 0)
    port = taken.sockets[0].getsockname()[1]
    for setting in ("GATEWAY_PORT", "NATS_PORT"):
        async with started(tmp_path, "run", **{setting: str(port)}) as run:
            assert await run.process.wait() == 1
            assert run.process.stdout is not None
            said = (await run.process.stdout.read()).decode()
            assert said == f"port {port} is in use; stop what listens there, or set {setting} to another\n"
    taken.close()
    await taken.wait_closed()


async def test_a_wrong_setting_is_named(tmp_path: Path) -> None:
    async with started(tmp_path, "run", GATEWAY_PORT="many") as run:
        assert await run.process.wait() == 2
        assert run.process.stdout is not None
        assert b"setting GATEWAY_PORT" in await run.process.stdout.read()


async def test_the_demo_shows_every_step_and_the_events_it_caused(tmp_path: Path) -> None:
    async with started(tmp_path, "demo") as demo:
        assert demo.process.stdout is not None
        said = (await demo.process.stdout.read()).decode()
        assert await demo.process.wait() == 0, said
    for number in range(1, 9):
        assert f"\n {number} " in said
    for kind in ("orders.order.placed", "billing.payment.declined", "notifications.letter.stored"):
        assert kind in said
    assert "all eight steps are as they must be" in said
    assert "access_token" not in said or '"access_token": "…"' in said
    assert "\x1b[" not in said, "colours in a pipe"
    lines = (tmp_path / "demo" / "logs" / "billing.log").read_text().splitlines()
    handled = [event for event in map(json.loads, lines) if event.get("type") == "orders.order.placed"]
    assert handled, "logs are JSON lines"
    for event in handled:
        assert event["batch"] == len(event["order_ids"]) == len(event["message_ids"]) == len(event["trace_ids"])
        assert {"service", "timestamp", "level"} <= set(event)


@pytest.mark.parametrize(
    ("wanted", "pattern"),
    [
        (None, "*.*.*.*"),
        ("", "*.*.*.*"),
        ("orders.>", "orders.>"),
        ("billing.payment.*.*", "billing.payment.*.*"),
        ("01a204e3-b74c-7ab0-a192-0bf55e0cc69c", "*.*.*.01a204e3-b74c-7ab0-a192-0bf55e0cc69c"),
    ],
)
def test_tail_takes_a_subject_or_an_id(wanted: str | None, pattern: str) -> None:
    assert pattern_of(wanted) == pattern


@pytest.mark.parametrize("wanted", ["orders..placed", "a b", ".x", "x.", "o.>.x"])
def test_tail_refuses_what_is_neither(wanted: str) -> None:
    with pytest.raises(CannotStart, match="neither a subject"):
        pattern_of(wanted)


async def test_tail_shows_events_one_line_each(tmp_path: Path) -> None:
    async with started(tmp_path, "run") as run:
        await run.line("ready ")
        nats = next(command for command in run.pids().values() if "nats-server" in command)
        port = json.loads(Path(nats.split()[-1]).read_text())["port"]
        async with started(tmp_path, "tail", "auth.>", NATS_PORT=str(port)) as tail:
            async with aiohttp.ClientSession() as session:

                async def registers(number: int) -> None:
                    given = {"login": f"u{number}", "password": "secret", "email": "a@example.org"}
                    await (await session.post(f"{run.url}/client/users", json=given)).read()

                assert tail.process.stdout is not None
                reading = asyncio.create_task(tail.process.stdout.readline())
                number = 0
                while not reading.done():
                    number += 1
                    await registers(number)
                line = (await reading).decode()
            assert " auth.user.registered." in line
            assert '"login"' in line
            tail.process.send_signal(signal.SIGINT)
            assert await tail.process.wait() == 0
        run.process.send_signal(signal.SIGINT)
        assert await run.process.wait() == 0
