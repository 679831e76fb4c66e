"""Orders: the order path of this system, and what people would pick instead."""

import argparse
from collections.abc import Mapping, Sequence
from typing import Final

from rich.console import Console

from bench import figures, parts, plots, report
from bench.contestants import CONTESTANTS, OURS, THEIRS
from bench.figures import Figure
from bench.report import Result, ratios
from bench.rounds import Disturbed, Round, play, schedule, yardstick

GATE: Final = 12.0
"""`--quick` fails below so many times FastStream's orders a second."""

QUICK_CLIENTS: Final = 64
QUICK_ROUNDS: Final = 3
"""Of `--quick`, at most: one that reaches the gate is enough, and where it does not, the median of three decides."""


def options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this part."""
    everybody = f"all of them: {', '.join(CONTESTANTS)}"
    parser.add_argument("contestants", nargs="*", type=contestant, metavar="CONTESTANT", help=everybody)
    parser.add_argument("--clients", type=int, nargs="+", help="at a time (default: 1, 64 and 256, not for everybody)")
    parser.add_argument(
        "--quick", action="store_true", help=f"64 clients, up to three rounds; fails below {GATE:.0f} times"
    )
    parts.common(parser)


def contestant(name: str) -> str:
    """Read the name of a contestant."""
    if name not in CONTESTANTS:
        raise argparse.ArgumentTypeError(f"nobody is called {name}; there are {', '.join(CONTESTANTS)}")
    return name


async def run(given: argparse.Namespace, out: Console) -> int:
    """Alternate the contestants for some rounds, and say what came of it.

    Exit code 1 when the gate or anybody's books fail. Raises `Disturbed`; what was measured until then is shown.
    """
    if given.quick:
        given.contestants, given.clients = [OURS, THEIRS], [QUICK_CLIENTS]
        given.rounds, given.seconds = QUICK_ROUNDS, 6.0
    rounds: dict[tuple[int, str], list[Round]] = {play: [] for play in chosen(given.contestants, given.clients)}
    yardsticks: list[float] = []
    try:
        await alternate(given, rounds, yardsticks, out)
    except Disturbed:
        report.show(*summed(rounds, yardsticks), out)
        raise
    results, transactions = summed(rounds, yardsticks)
    report.show(results, transactions, out)
    if given.quick:
        return gate(results, out)
    found = figures.document(parts.settings(given), **report.found(results, transactions))
    written = [figures.write(given.out, "orders.json", found)]
    written += [figures.write(given.out, name, svg) for name, svg in plots.of_orders(results).items()]
    out.print("written: " + ", ".join(map(str, written)))
    return int(any(result.wrong for result in results))


async def alternate(
    given: argparse.Namespace, rounds: dict[tuple[int, str], list[Round]], yardsticks: list[float], out: Console
) -> None:
    """Play all rounds, and add what they show; quickly, until the gate is reached. Raises `Disturbed`."""
    for number in range(1, given.rounds + 1):
        if not given.quick:
            yardsticks.append(await yardstick(parts.length(given)))
        for clients, name in schedule(number, list(rounds)):
            played = await play(CONTESTANTS[name], clients, parts.length(given))
            rounds[clients, name].append(played)
            out.print(f"round {number}: {name}, {figures.people(clients)}: {said(played)}")
        results, _ = summed(rounds, ())
        if given.quick and not any(result.wrong for result in results) and times(results) >= GATE:
            break


def summed(
    rounds: Mapping[tuple[int, str], Sequence[Round]], yardsticks: Sequence[float]
) -> tuple[list[Result], Figure | None]:
    """Sum up the rounds that there are."""
    results = [Result(name, clients, played) for (clients, name), played in rounds.items() if played]
    return results, Figure.of_known(yardsticks)


def chosen(names: Sequence[str], clients: Sequence[int] | None) -> list[tuple[int, str]]:
    """Say who plays with how many clients: with as many side by side."""
    some = [one for name, one in CONTESTANTS.items() if not names or name in names]
    numbers = clients or sorted({number for one in some for number in one.clients})
    return [(number, one.name) for number in numbers for one in some if clients or number in one.clients]


def said(played: Round) -> str:
    """Say in a line what a round showed."""
    line = f"{played.per_second:.0f} orders/s"
    if played.failures:
        line += f"; without an outcome: {', '.join(f'{number} {how}' for how, number in played.failures.items())}"
    return line + (f"; books wrong: {'; '.join(played.wrong)}" if played.wrong else "")


def gate(results: Sequence[Result], out: Console) -> int:
    """Compare with the gate; return the exit code."""
    if wrong := [f"{one.name}: {'; '.join(one.wrong)}" for one in results if one.wrong]:
        out.print("no result: " + ", ".join(wrong))
        return 1
    out.print(f"{times(results):.1f} times, at least {GATE:.0f} wanted: {ratios(results, None)[0]}")
    return int(times(results) < GATE)


def times(results: Sequence[Result]) -> float:
    """How many times FastStream's orders a second ours are."""
    by = {result.name: result for result in results}
    return by[OURS].per_second.median / by[THEIRS].per_second.median


PART: Final = parts.Part("orders", "The order path beside what people would pick.", options, run)
