"""``just bench``: alternate the contestants for some rounds, and say what came of it."""

import argparse
import asyncio
import sys
from pathlib import Path
from typing import Final

from rich.console import Console

from bench.contestants import CONTESTANTS
from bench.report import OURS, THEIRS, Figure, Result, as_json, dump, ratios, show
from bench.rounds import Disturbed, Round, play
from bench.yardstick import transactions_per_second
from libs.files import write_whole

GATE: Final = 12.0
"""`--quick` fails below so many times FastStream's orders a second."""


def main() -> None:
    """Run the benchmark; exit code 1 when the gate or anybody's books fail, 2 when the machine was never quiet."""
    parser = argparse.ArgumentParser(prog="just bench", description="The order path beside what people would pick.")
    parser.add_argument("contestants", nargs="*", metavar="CONTESTANT", help=f"all of them: {', '.join(CONTESTANTS)}")
    parser.add_argument("--rounds", type=int, default=3, help="of each, alternating")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each round")
    parser.add_argument("--warm-up", type=float, default=5.0, metavar="SECONDS", help="before what counts")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 64, 256], help="at a time")
    parser.add_argument("--out", type=Path, default=Path("docs/benchmarks"), help="folder for the JSON")
    parser.add_argument("--quick", action="store_true", help=f"64 clients, one round; fails below {GATE:.0f} times")
    given = parser.parse_args()
    if unknown := set(given.contestants) - CONTESTANTS.keys():
        parser.error(f"nobody is called {', '.join(sorted(unknown))}; there are {', '.join(CONTESTANTS)}")
    if given.quick:
        given.contestants, given.clients, given.rounds, given.seconds = [OURS, THEIRS], [64], 1, 6.0
    sys.exit(asyncio.run(_bench(given)))


async def _bench(given: argparse.Namespace) -> int:
    out = Console(width=None if sys.stdout.isatty() else 160)
    names = given.contestants or list(CONTESTANTS)
    rounds: dict[tuple[str, int], list[Round]] = {}
    yardsticks: list[float] = []
    try:
        for number in range(1, given.rounds + 1):
            if not given.quick:
                yardsticks.append(await transactions_per_second(given.seconds))
            for clients in given.clients:
                for name in names:
                    played = await play(
                        CONTESTANTS[name], clients=clients, warm_up_s=given.warm_up, seconds=given.seconds
                    )
                    rounds.setdefault((name, clients), []).append(played)
                    said = f"round {number}: {name}, {clients} clients: {played.per_second:.0f} orders/s"
                    out.print(said + (f"; books wrong: {played.wrong}" if played.wrong else ""), highlight=False)
    except Disturbed as error:
        out.print(f"{error}", highlight=False)
        return 2
    results = [Result(name, clients, played) for (name, clients), played in rounds.items()]
    yardstick = Figure.of(yardsticks) if yardsticks else None
    show(results, yardstick, out)
    if given.quick:
        return _gate(results, out)
    settings = {"seconds": given.seconds, "warm_up_s": given.warm_up, "rounds": given.rounds}
    path = given.out / "orders.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, dump(as_json(results, yardstick, settings)).encode())
    out.print(f"written: {path}", highlight=False)
    return int(any(result.wrong for result in results))


def _gate(results: list[Result], out: Console) -> int:
    by = {result.name: result for result in results}
    if any(result.wrong for result in results):
        return 1
    times = by[OURS].per_second.median / by[THEIRS].per_second.median
    out.print(f"{times:.1f} times, at least {GATE:.0f} wanted: {ratios(results, None)[0]}", highlight=False)
    return int(times < GATE)


if __name__ == "__main__":
    main()
