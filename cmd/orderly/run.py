"""``run``: the whole system on this machine, until it is told to stop."""

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from watchfiles import awatch

from orderly.logfiles import Output, follow
from orderly.services import NAMES
from orderly.system import Plan, System


async def run(plan: Plan, *, reload: bool) -> int:
    """Run the system until SIGINT or SIGTERM; return the exit code."""
    output = Output()
    system = System(plan, output.line)
    try:
        async with stopping_on_signals() as stop:
            starting = asyncio.create_task(system.start())
            stopped = asyncio.create_task(stop.wait())
            await asyncio.wait({starting, stopped}, return_when=asyncio.FIRST_COMPLETED)
            if starting.done():
                starting.result()
                await _until(stop, system, output, reload=reload)
            else:
                starting.cancel()
                await asyncio.gather(starting, return_exceptions=True)
            output.line("stopping")
            await system.stop()
            output.line("stopped")
    finally:
        output.close()
    return 0


async def _until(stop: asyncio.Event, system: System, output: Output, *, reload: bool) -> None:
    output.line(f"logs  {system.logs}")
    output.line(f"nats  {system.nats_url}")
    for name, urls in {"gateway": [system.url], **{name: system.service_urls(name) for name in NAMES}}.items():
        for url in urls:
            output.line(f"metrics {url}/metrics  {name}")
    output.line(f"ready {system.url}")
    tasks = [asyncio.create_task(follow(system.logs, output))]
    if reload:
        tasks.append(asyncio.create_task(_reload(system, output)))
    await stop.wait()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _reload(system: System, output: Output) -> None:
    """Restart every service whenever code changes."""
    root = Path(__file__).parents[2]
    async for changes in awatch(root / "cmd", root / "libs"):
        changed = sorted({str(Path(path).relative_to(root)) for _, path in changes if path.endswith(".py")})
        if changed:
            output.line(f"{', '.join(changed)} changed; restarting the services")
            await asyncio.gather(*(system.supervisor.restart(label) for label in system.services))


@asynccontextmanager
async def stopping_on_signals() -> AsyncIterator[asyncio.Event]:
    """Give an event that SIGINT and SIGTERM set."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    numbers = (signal.SIGINT, signal.SIGTERM)
    for number in numbers:
        loop.add_signal_handler(number, stop.set)
    try:
        yield stop
    finally:
        with contextlib.suppress(RuntimeError):
            for number in numbers:
                loop.remove_signal_handler(number)
