"""Flames: where the time of a service goes while clients place orders, as flame graphs of its Python code."""

import argparse
import asyncio
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from rich.console import Console

from bench import parts
from bench.clients import have_clients
from bench.contestants import CONTESTANTS, OURS
from bench.rounds import opened
from bench.running import Running, started
from libs.local.servers import CannotStart

SERVICES: Final = ("orders", "billing", "gateway")
SAMPLES_A_SECOND: Final = 250


def options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this part."""
    parser.add_argument("--clients", type=int, default=64, help="at a time (default 64)")
    parser.add_argument("--services", nargs="+", default=list(SERVICES), help=f"default: {' '.join(SERVICES)}")
    parts.common(parser)


async def run(given: argparse.Namespace, out: Console) -> int:
    """Draw a picture for each service into the folder, one round of clients for each. Raises `CannotStart`."""
    sampler = shutil.which("py-spy", path=str(Path(sys.executable).parent))
    if sampler is None:
        raise CannotStart("py-spy is not installed; run `./just setup`")
    given.out.mkdir(parents=True, exist_ok=True)
    async with started(CONTESTANTS[OURS]) as running:
        accounts = await opened(running, min(CONTESTANTS[OURS].accounts, given.clients))
        asked = {"do": "place orders", "accounts": accounts, "clients": given.clients, "price": "1.00"}
        timing = {"warm_up_s": given.warm_up, "seconds": given.seconds}
        for service in given.services:
            picture = given.out / f"flames-{service}.svg"
            recording: asyncio.subprocess.Process | None = None
            async for _ in have_clients(base=running.url, **asked, **timing):
                if recording is None:  # the first that they say is that what counts has begun
                    recording = await _record(sampler, running, service, picture, given.seconds)
            assert recording is not None
            if await recording.wait():
                raise CannotStart(f"py-spy could not look at {service}; it may need to be run as root")
            picture.write_text(without_folders(picture.read_text()))
            out.print(f"written: {picture}")
        wrong = await running.examine()
    return int(bool(wrong))


def without_folders(drawing: str) -> str:
    """Take from a picture where this machine keeps Python and this project."""
    for folder in (sys.prefix, sys.base_prefix, Path(__file__).parents[1]):
        drawing = drawing.replace(f"{folder}/", "")
    return drawing


async def _record(
    sampler: str, running: Running, service: str, picture: Path, seconds: float
) -> asyncio.subprocess.Process:
    """Begin to look at a service: only while it holds Python's lock, or waiting for others would count as work."""
    looked_at: Sequence[str] = ("--pid", str(running.pids[service]), "--duration", f"{max(1, round(seconds))}")
    drawn: Sequence[str] = (
        "--gil",
        "--rate",
        str(SAMPLES_A_SECOND),
        "--format",
        "flamegraph",
        "--output",
        str(picture),
    )
    return await asyncio.create_subprocess_exec(
        sampler, "record", *looked_at, *drawn, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL
    )


PART: Final = parts.Part("flames", "Flame graphs of services while orders are placed.", options, run)
