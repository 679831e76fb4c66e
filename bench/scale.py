"""Scale: one, two and four processes of each service share the work, and no order is handled twice."""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import aiohttp
import asyncpg
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console
from rich.table import Table

from bench import figures, parts
from bench.figures import Figure, as_json, by_service, medians
from bench.ours import orderly
from bench.rounds import Length, Round, examined, measure, opened, schedule, undisturbed
from bench.running import Contestant, Running, started
from libs.contracts.orders import OrderConfirmed, OrderPlaced

REPLICAS: Final = (1, 2, 4)
HANDLED: Final = {"billing": OrderPlaced.type, "notifications": OrderConfirmed.type}
"""By service: of which fact each order has one, that it has to handle once."""


def options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this part."""
    parser.add_argument("--replicas", type=int, nargs="+", default=list(REPLICAS), help="of each service")
    parser.add_argument("--clients", type=int, default=256, help="at a time (default 256)")
    parts.common(parser)


async def run(given: argparse.Namespace, out: Console) -> int:
    """Alternate the numbers of replicas for some rounds; exit code 1 when books fail, or something was done twice."""
    rounds: dict[int, list[Scaled]] = {number: [] for number in given.replicas}
    for number in range(1, given.rounds + 1):
        for replicas in schedule(number, given.replicas):
            played = await play(contestant(replicas), given.clients, parts.length(given))
            rounds[replicas].append(played)
            out.print(f"round {number}: {replicas} of each: {played.round.per_second:.0f} orders/s")
    results = [Scale(replicas, some) for replicas, some in rounds.items()]
    show(results, out)
    found = figures.document(parts.settings(given), results=[one.as_json() for one in results])
    out.print(f"written: {figures.write(given.out, 'scale.json', found)}")
    return int(any(one.wrong for one in results))


def contestant(replicas: int) -> Contestant:
    """This system, with so many processes of each service."""
    return Contestant(f"orderly x{replicas}", f"{replicas} of each service", partial(orderly, replicas=replicas))


@dataclass(frozen=True, slots=True)
class Scaled:
    """A round, and what each process handled in all of it, warm-up included."""

    round: Round
    handled: Mapping[str, Sequence[int]]
    """By service: how many of its facts (`HANDLED`) each process has handled."""

    expected: Mapping[str, int]
    """By service: how many there were."""

    @property
    def twice(self) -> int:
        """How many facts were handled more than once."""
        return sum(max(0, sum(some) - self.expected[service]) for service, some in self.handled.items())

    @property
    def missing(self) -> int:
        """How many facts nobody says to have handled."""
        return sum(max(0, self.expected[service] - sum(some)) for service, some in self.handled.items())


async def play(one: Contestant, clients: int, length: Length) -> Scaled:
    """Have the replicas take orders, and ask each what it has done. Raises `Disturbed`."""

    async def attempt() -> Scaled:
        async with started(one) as running:
            accounts = await opened(running, min(one.accounts, clients))
            asked = {"do": "place orders", "accounts": accounts, "clients": clients, "price": "1.00"}
            played = await examined(running, await measure(running, asked, length))
            return Scaled(played, await handled(running), await expected(running))

    return await undisturbed(attempt, lambda done: done.round.foreign, length.foreign_at_most)


async def handled(running: Running) -> dict[str, list[int]]:
    """Ask the processes themselves how many facts they have handled."""
    found: dict[str, list[int]] = {}
    async with aiohttp.ClientSession() as session:
        for service, kind in HANDLED.items():
            found[service] = []
            for url in running.replicas[service]:
                async with session.get(f"{url}/metrics") as answer:
                    found[service].append(handled_in(await answer.text(), kind))
    return found


def handled_in(metrics: str, kind: str) -> int:
    """Read from a process' metrics how many facts of a kind it has handled."""
    samples = (one for family in text_string_to_metric_families(metrics) for one in family.samples)
    return round(sum(one.value for one in samples if one.name == "batch_size_sum" and one.labels["work"] == kind))


async def expected(running: Running) -> dict[str, int]:
    """Count in the orders' database what there was to handle; what was asked again is a fact of its own."""
    connection = await asyncpg.connect(running.postgres)
    try:
        placed = await connection.fetchval("select coalesce(sum(1 + restated), 0) from orders")
        confirmed = await connection.fetchval("select count(*) from orders where status = 'confirmed'")
    finally:
        await connection.close()
    return {"billing": placed, "notifications": confirmed}


@dataclass(frozen=True, slots=True)
class Scale:
    """What so many replicas showed."""

    replicas: int
    rounds: Sequence[Scaled]

    @property
    def wrong(self) -> list[str]:
        """Why it does not count: wrong books, facts handled twice, or orders without an outcome."""
        found = [problem for one in self.rounds for problem in one.round.wrong]
        found += [f"{one.twice} facts were handled twice" for one in self.rounds if one.twice]
        found += [f"{one.missing} facts were handled by nobody" for one in self.rounds if one.missing]
        failures = [(how, number) for one in self.rounds for how, number in one.round.failures.items()]
        return found + [f"{number} orders without an outcome ({how})" for how, number in failures]

    @property
    def per_second(self) -> Figure:
        """Orders a second."""
        return Figure.of([one.round.per_second for one in self.rounds])

    @property
    def cpu_us(self) -> dict[str, float]:
        """Median microseconds of CPU for an order, by service and server: all its processes together."""
        return medians([by_service(one.round.cpu_us) for one in self.rounds])

    @property
    def not_awaited(self) -> int:
        """How many orders were answered before their outcome was there."""
        return sum(one.round.pending for one in self.rounds)

    def shares(self, service: str) -> list[float]:
        """Of all that a service has handled, the share of each of its processes, in all rounds."""
        sums = [sum(some) for some in zip(*(one.handled[service] for one in self.rounds), strict=True)]
        return [number / max(sum(sums), 1) for number in sums]

    def as_json(self) -> dict[str, Any]:
        """Write it down."""
        return {
            "replicas": self.replicas,
            "wrong": self.wrong,
            "orders_per_second": as_json(self.per_second),
            "p50_ms": as_json(Figure.of([one.round.percentile(0.5) for one in self.rounds])),
            "p99_ms": as_json(Figure.of([one.round.percentile(0.99) for one in self.rounds])),
            "answers_not_awaited": self.not_awaited,
            "handled_twice": sum(one.twice for one in self.rounds),
            "shares": {service: self.shares(service) for service in HANDLED},
            "cpu_us_by_service": self.cpu_us,
            "memory_by_service": medians([by_service(one.round.memory) for one in self.rounds]),
        }


def show(results: Sequence[Scale], out: Console) -> None:
    """Print what came of it."""
    table = Table(title="Orders with several processes of each service: median (least to most)")
    for heading in ("of each", "orders/s", "not awaited", "twice", *(f"shares of {service}" for service in HANDLED)):
        table.add_column(heading, justify="right")
    for one in results:
        twice = sum(each.twice for each in one.rounds)
        shares = [" ".join(f"{share:.0%}" for share in one.shares(service)) for service in HANDLED]
        table.add_row(f"{one.replicas}", str(one.per_second), f"{one.not_awaited}", f"{twice}", *shares)
    out.print(table)
    costs = Table(title="CPU µs an order, by service and server (median)")
    names = list(dict.fromkeys(name for one in results for name in one.cpu_us))
    for heading in ("of each", *names, "all"):
        costs.add_column(heading, justify="right")
    for one in results:
        cells = [f"{one.cpu_us.get(name, 0):.0f}" for name in names]
        costs.add_row(f"{one.replicas}", *cells, f"{sum(one.cpu_us.values()):.0f}")
    out.print(costs)
    for one in results:
        if one.wrong:
            out.print(f"{one.replicas} of each: no result: {'; '.join(one.wrong[:3])}")


PART: Final = parts.Part("scale", "One, two and four processes of each service.", options, run)
