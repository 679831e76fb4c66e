"""Log files: shown while they grow. Processes write files, never our terminal, so a reader that stops reading
(a full pipe, a paused terminal) stops nobody."""

import asyncio
import contextlib
import json
import os
import queue
import sys
import threading
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.text import Text

from orderly.services import NAMES

EVERY_S: Final = 0.1
WAITING_AT_MOST: Final = 10_000
_STYLES: Final = {"warning": "yellow", "error": "bold red", "critical": "bold red"}


class Output:
    """Lines for standard output, written by a thread of their own: whoever prints never waits for the reader."""

    def __init__(self) -> None:
        self.readable = sys.stdout.isatty()
        self._console = Console(highlight=False, soft_wrap=True)
        self._lines: queue.Queue[str | None] = queue.Queue(WAITING_AT_MOST)
        self._thread = threading.Thread(target=self._write, name="output", daemon=True)
        self._thread.start()

    def line(self, text: str) -> None:
        """Print a line; dropped when nobody has been reading for long."""
        with contextlib.suppress(queue.Full):
            self._lines.put_nowait(text)

    def log_line(self, text: str) -> None:
        """Print a line of a log: as it is, or readable in a terminal."""
        self.line(_readable(text, self._console) if self.readable else text)

    def close(self) -> None:
        """Give what was printed a moment to be read."""
        with contextlib.suppress(queue.Full):
            self._lines.put_nowait(None)
        self._thread.join(timeout=1)

    def _write(self) -> None:
        while (line := self._lines.get()) is not None:
            with contextlib.suppress(OSError):
                os.write(sys.stdout.fileno(), f"{line}\n".encode())


async def follow(folder: Path, output: Output) -> None:
    """Print every line that is added to the services' logs in `folder` from now on."""
    places = {path: path.stat().st_size for path in _logs(folder)}
    rests: dict[Path, bytes] = {}
    while True:
        for path in _logs(folder):
            for line in _added(path, places, rests):
                output.log_line(line)
        await asyncio.sleep(EVERY_S)


def _logs(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.glob("*.log")) if path.stem.split("-")[0] in NAMES or path.stem == "gateway"]


def _added(path: Path, places: dict[Path, int], rests: dict[Path, bytes]) -> Iterator[str]:
    size = path.stat().st_size
    if size < places.get(path, 0):
        places[path] = 0  # another file under the same name
    if size == places.get(path, 0):
        return
    with path.open("rb") as file:
        file.seek(places.get(path, 0))
        data = rests.pop(path, b"") + file.read()
        places[path] = file.tell()
    *lines, rest = data.split(b"\n")
    if rest:
        rests[path] = rest
    for line in lines:
        yield line.decode(errors="replace")


def _readable(line: str, console: Console) -> str:
    """Write a JSON log line for people: time, service, event, then what else it says; long lists by their length."""
    try:
        event = json.loads(line)
        moment = datetime.fromisoformat(event.pop("timestamp")).astimezone().strftime("%H:%M:%S.%f")[:-3]
    except (ValueError, KeyError, AttributeError, TypeError):
        return line
    level = event.pop("level", "info")
    text = Text.assemble(
        (moment, "dim"),
        " ",
        (f"{event.pop('service', ''):<13}", "cyan"),
        " ",
        (f"{event.pop('event', ''):<12}", _STYLES.get(level, "bold")),
    )
    for name, value in event.items():
        shown = value[0] if isinstance(value, list) and len(value) == 1 else value
        shown = f"{len(shown)} of them" if isinstance(shown, list) else shown
        text.append(f"  {name}=", "dim").append(str(shown))
    with console.capture() as capture:
        console.print(text)
    return capture.get().rstrip("\n")
