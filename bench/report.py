"""What came of all rounds with orders: medians and spreads, ratios, tables for people and JSON for everybody else."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.contestants import CONTESTANTS, OURS, THEIRS
from bench.figures import Figure, as_json, medians, people
from bench.rounds import Round

SHARES = (0.5, 0.99, 0.999)


@dataclass(frozen=True, slots=True)
class Result:
    """What a contestant showed with so many clients."""

    name: str
    clients: int
    rounds: Sequence[Round]

    @property
    def wrong(self) -> list[str]:
        """What was wrong with the books in any round, or that nothing was done: then there is no result."""
        found = [problem for one in self.rounds for problem in one.wrong]
        return found or ["no order had its outcome" for one in self.rounds if not one.seconds]

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
        return medians([one.cpu_us for one in self.rounds])

    def memory_by_process(self) -> Mapping[str, float]:
        """Median bytes at the end, by process."""
        return medians([one.memory for one in self.rounds])

    def per_order(self, what: str) -> Figure | None:
        """How many `flushes`, `stored` or `disk_flushes` an order takes; None when nobody counts them."""
        return Figure.of_known([getattr(one, what) for one in self.rounds])

    @property
    def failures(self) -> Counter[str]:
        """What had no outcome, in all rounds."""
        return sum((Counter(one.failures) for one in self.rounds), Counter[str]())


def show(results: Sequence[Result], yardstick: Figure | None, out: Console) -> None:
    """Print what came of it."""
    out.print(_speeds(results))
    out.print(_costs(results))
    out.print(_by_process("CPU µs an order, by process (median)", results, Result.cpu_us_by_process, 1))
    out.print(_by_process("MB of memory at the end, by process (median)", results, Result.memory_by_process, 1e6))
    for one in results:
        if one.failures:
            said = ", ".join(f"{number} {how}" for how, number in one.failures.most_common())
            out.print(f"{one.name}, {people(one.clients)}: without an outcome: {said}", highlight=False)
    if yardstick:
        out.print(f"pgbench, 32 clients: {yardstick} transactions/s", highlight=False)
    for sentence in ratios(results, yardstick):
        out.print(sentence, highlight=False)


def _table(title: str, *headings: str) -> Table:
    table = Table(title=title)
    table.add_column("contestant")
    for heading in ("clients", *headings):
        table.add_column(heading, justify="right")
    return table


def _speeds(results: Sequence[Result]) -> Table:
    title = "One order after the other, from each client: median (least to most)"
    table = _table(title, "orders/s", "p50 ms", "p99 ms", "p99.9 ms", "CPU µs/order")
    for one in results:
        if one.wrong:
            table.add_row(one.name, f"{one.clients}", "no result: " + "; ".join(one.wrong[:2]))
        else:
            cells = (one.per_second, *(one.percentile(share) for share in SHARES), one.cpu_us)
            table.add_row(one.name, f"{one.clients}", *map(str, cells))
    return table


def _costs(results: Sequence[Result]) -> Table:
    title = "What an order takes: median (least to most)"
    table = _table(title, "flushes of PostgreSQL's log", "messages stored by NATS", "flushes of the disk")
    for one in results:
        if not one.wrong:
            figures = [one.per_order(what) for what in ("flushes", "stored", "disk_flushes")]
            table.add_row(one.name, f"{one.clients}", *(str(figure or "-") for figure in figures))
    return table


def _by_process(title: str, results: Sequence[Result], read: Any, unit: float) -> Table:
    sound = [one for one in results if not one.wrong]
    found = {(one.name, one.clients): read(one) for one in sound}
    names = list(dict.fromkeys(name for by_process in found.values() for name in by_process))
    table = _table(title, *names, "all")
    for (name, clients), by_process in found.items():
        cells = [f"{by_process[each] / unit:.0f}" if each in by_process else "-" for each in names]
        table.add_row(name, f"{clients}", *cells, f"{sum(by_process.values()) / unit:.0f}")
    return table


def ratios(results: Sequence[Result], yardstick: Figure | None) -> list[str]:
    """Say how we compare."""
    by = {(one.name, one.clients): one for one in results if not one.wrong}
    said = []
    for (name, clients), other in by.items():
        ours = by.get((OURS, clients))
        if ours is None or name == OURS:
            continue
        times = ours.per_second.median / other.per_second.median
        p50, p99 = (other.percentile(share).median / ours.percentile(share).median for share in (0.5, 0.99))
        if name.startswith(THEIRS):
            said.append(
                f"{people(clients)}: {times:.1f} times the orders/s of {name},"
                f" p50 {p50:.1f} and p99 {p99:.1f} times shorter"
            )
        else:
            said.append(f"{people(clients)}: {name} has {1 / times:.0%} of our orders/s")
    if yardstick:
        for (name, clients), ours in by.items():
            if name == OURS:
                share = ours.per_second.median / yardstick.median
                said.append(f"{people(clients)}: {share:.1%} of pgbench's transactions/s")
    return said


def found(results: Sequence[Result], yardstick: Figure | None) -> dict[str, Any]:
    """Write everything down."""
    return {
        "yardstick": as_json(yardstick),
        "results": [result_as_json(one) for one in results],
        "ratios": ratios(results, yardstick),
    }


def result_as_json(one: Result) -> dict[str, Any]:
    """Write a result down."""
    return {
        "contestant": one.name,
        "says": CONTESTANTS[one.name].says if one.name in CONTESTANTS else "",
        "clients": one.clients,
        "rounds": len(one.rounds),
        "wrong": one.wrong,
        "orders_per_second": as_json(one.per_second),
        **{f"p{share * 100:g}_ms": as_json(one.percentile(share)) for share in SHARES},
        "cpu_us": as_json(one.cpu_us),
        "cpu_us_by_process": dict(one.cpu_us_by_process()),
        "memory_by_process": dict(one.memory_by_process()),
        "flushes_of_postgresql": as_json(one.per_order("flushes")),
        "messages_stored_by_nats": as_json(one.per_order("stored")),
        "flushes_of_the_disk": as_json(one.per_order("disk_flushes")),
        "outcomes": dict(sum((Counter(each.outcomes) for each in one.rounds), Counter[str]())),
        "pending_at_first": sum(each.pending for each in one.rounds),
        "without_an_outcome": dict(one.failures),
        "foreign": max(each.foreign for each in one.rounds),
    }
