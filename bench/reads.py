"""Reads: an account, one order, a page of letters; the same answers from this system and from the usual stack."""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, get_args

from rich.console import Console
from rich.table import Table

from bench import figures, parts
from bench.clients import What, paths
from bench.connection import Connection
from bench.contestants import CONTESTANTS, OURS, THEIRS
from bench.figures import Figure, as_json, medians
from bench.people import Account, bearer
from bench.rounds import Length, Round, measure, opened, schedule, undisturbed
from bench.running import Contestant, started

WHAT: Final[tuple[What, ...]] = get_args(What)
READERS: Final = 16
ORDERS: Final = 50
"""Of each account that is read: a page of letters is full, and there are more."""

WANTED: Final = 5.0
"""How many times the usual stack's reads a second ours are to be."""

Rounds = Mapping[tuple[str, What], list[Round]]


def options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this part."""
    names = [OURS, THEIRS, f"{THEIRS}-tuned"]
    parser.add_argument("--contestants", nargs="+", choices=names, default=names, help="all of them")
    parser.add_argument("--clients", type=int, default=64, help="at a time (default 64)")
    parser.add_argument("--orders", type=int, default=ORDERS, help=f"of each account that is read (default {ORDERS})")
    parts.common(parser, seconds=4.0)


async def run(given: argparse.Namespace, out: Console) -> int:
    """Alternate the contestants for some rounds; exit code 1 when anybody's books fail."""
    rounds: dict[tuple[str, What], list[Round]] = {(name, what): [] for what in WHAT for name in given.contestants}
    shapes: dict[str, Mapping[What, Any]] = {}
    for number in range(1, given.rounds + 1):
        for name in schedule(number, given.contestants):
            played, shapes[name] = await play(CONTESTANTS[name], given.clients, given.orders, parts.length(given))
            for what, one in played.items():
                rounds[name, what].append(one)
            said = ", ".join(f"{what} {one.per_second:.0f}/s" for what, one in played.items())
            out.print(f"round {number}: {name}: {said}")
    results = [Reads(name, what, some, unlike(shapes, name, what)) for (name, what), some in rounds.items()]
    show(results, out)
    found = figures.document(parts.settings(given), results=[one.as_json() for one in results], ratios=ratios(results))
    out.print(f"written: {figures.write(given.out, 'reads.json', found)}")
    return int(any(one.wrong for one in results))


Played = tuple[dict[What, Round], dict[What, Any]]
"""A round of each kind of answer, and the shape of each."""


async def play(contestant: Contestant, clients: int, orders: int, length: Length) -> Played:
    """Have a contestant read to everybody, one kind of answer after the other. Raises `Disturbed`."""

    async def attempt() -> Played:
        async with started(contestant) as running:
            accounts = await opened(running, min(READERS, clients), orders=orders)
            asked = {"do": "read", "accounts": accounts, "clients": clients}
            played = {what: await measure(running, {**asked, "what": what}, length) for what in WHAT}
            wrong = await running.examine()
            shapes = await looked_at(running.url, Account(**accounts[0]))
            return {what: replace(one, wrong=wrong) for what, one in played.items()}, shapes

    def foreign(played: Played) -> float:
        return max(one.foreign for one in played[0].values())

    return await undisturbed(attempt, foreign, length.foreign_at_most)


async def looked_at(base: str, account: Account) -> dict[What, Any]:
    """Look at one answer of each kind: which fields it has."""
    connection = await Connection.to(base)
    found: dict[What, Any] = {}
    for what in WHAT:
        _, answer = await connection.ask("GET", paths(account, what)[0], **bearer(account))
        found[what] = shape(answer)
    connection.close()
    return found


def shape(answer: Any) -> Any:
    """Tell the fields of an answer from what they say."""
    if isinstance(answer, dict):
        return {name: shape(value) for name, value in sorted(answer.items())}
    if isinstance(answer, list):
        return [shape(one) for one in answer[:1]]
    return "value"


def unlike(shapes: Mapping[str, Mapping[What, Any]], name: str, what: What) -> list[str]:
    """Say whether somebody's answers have other fields than ours: then there is nothing to compare."""
    ours, theirs = shapes.get(OURS, shapes[name])[what], shapes[name][what]
    return [] if ours == theirs else [f"another answer: {theirs}"]


@dataclass(frozen=True, slots=True)
class Reads:
    """What a contestant showed with one kind of answer."""

    name: str
    what: What
    rounds: Sequence[Round]
    unlike: Sequence[str] = ()

    @property
    def wrong(self) -> list[str]:
        """Why there is no result: wrong books, reads that failed, or an answer that is not the same."""
        found = [*self.unlike, *(problem for one in self.rounds for problem in one.wrong)]
        return found + [f"{number} reads failed ({how})" for one in self.rounds for how, number in one.failures.items()]

    @property
    def per_second(self) -> Figure:
        """Answers a second."""
        return Figure.of([one.per_second for one in self.rounds])

    def percentile(self, share: float) -> Figure:
        """Milliseconds to the answer."""
        return Figure.of([one.percentile(share) for one in self.rounds])

    @property
    def cpu_us(self) -> Figure:
        """Microseconds of CPU for an answer, of all processes."""
        return Figure.of([sum(one.cpu_us.values()) for one in self.rounds])

    def as_json(self) -> dict[str, Any]:
        """Write it down."""
        return {
            "contestant": self.name,
            "what": self.what,
            "wrong": self.wrong,
            "reads_per_second": as_json(self.per_second),
            "p50_ms": as_json(self.percentile(0.5)),
            "p99_ms": as_json(self.percentile(0.99)),
            "cpu_us": as_json(self.cpu_us),
            "cpu_us_by_process": medians([one.cpu_us for one in self.rounds]),
        }


def show(results: Sequence[Reads], out: Console) -> None:
    """Print what came of it."""
    table = Table(title="One read after the other, from each client: median (least to most)")
    for heading in ("answer", "contestant", "reads/s", "p50 ms", "p99 ms", "CPU µs/read"):
        table.add_column(heading, justify="left" if heading in ("answer", "contestant") else "right")
    for one in results:
        if one.wrong:
            table.add_row(one.what, one.name, "no result: " + "; ".join(one.wrong[:2]))
        else:
            cells = (one.per_second, one.percentile(0.5), one.percentile(0.99), one.cpu_us)
            table.add_row(one.what, one.name, *map(str, cells))
    out.print(table)
    for sentence in ratios(results):
        out.print(sentence)


def ratios(results: Sequence[Reads]) -> list[str]:
    """Say how we compare."""
    by = {(one.name, one.what): one for one in results if not one.wrong}
    said = []
    for (name, what), theirs in by.items():
        ours = by.get((OURS, what))
        if ours is not None and name != OURS and theirs.per_second.median:
            times = ours.per_second.median / theirs.per_second.median
            said.append(f"{what}: {times:.1f} times the reads/s of {name}, {WANTED:.0f} wanted")
    return said


PART: Final = parts.Part("reads", "An account, one order, letters: the same answers, read.", options, run)
