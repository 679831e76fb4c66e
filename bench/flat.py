"""Whether cost stays flat: an empty system beside one that has taken a million orders, on one machine.

The full system is made once and kept; each round starts it again, and makes the empty one anew. Other rounds have every
order placed from one account, and place orders while rows whose time is over are pruned.
"""

import argparse
import asyncio
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

from rich.console import Console

from bench.filling import Amounts
from bench.folders import fresh_folder
from bench.report import Result, as_json, dump, show
from bench.rounds import FOREIGN_AT_MOST, TRIES, Disturbed, Round
from bench.situations import Effort, PrunedTooSoon, Situation, books_of, play, prepare
from libs.files import write_whole

EMPTY: Final = "empty"
FILLED: Final = "filled"
HOT: Final = "one account"
PRUNING: Final = "pruning"


@dataclass(frozen=True, slots=True)
class Share:
    """What of something in one situation is left, or has become of it, in another; and the limit to it."""

    what: str
    clients: int
    share: float
    at_least: float | None = None
    at_most: float | None = None

    @property
    def reached(self) -> bool:
        """Whether it is within its limit."""
        return (self.at_least is None or self.share >= self.at_least) and (
            self.at_most is None or self.share <= self.at_most
        )

    def __str__(self) -> str:
        limit = f"at least {self.at_least:.0%}" if self.at_least is not None else f"at most {self.at_most:.0%}"
        return f"{self.clients} clients: {self.what}: {self.share:.1%} ({limit}{'' if self.reached else ': missed'})"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe what `run` is given."""
    parser.add_argument("--rounds", type=int, default=3, help="of each situation, alternating")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each round")
    parser.add_argument("--warm-up", type=float, default=5.0, metavar="SECONDS", help="before what counts")
    parser.add_argument("--clients", type=int, nargs="+", default=[64, 256], help="at a time")
    parser.add_argument("--accounts", type=int, default=1_000_000, help="there are in the full system")
    parser.add_argument("--orders", type=int, default=1_000_000, help="it has taken, with letters and ledger")
    parser.add_argument("--outbox", type=int, default=3_000_000, help="rows that its outboxes keep, together")
    parser.add_argument("--keys", type=int, default=1_250_000, help="idempotency keys that it keeps")
    parser.add_argument("--due", type=int, default=400_000, help="outbox rows, and keys, to prune during a round")
    parser.add_argument("--used", type=int, default=4_096, help="accounts that place the orders")
    parser.add_argument(
        "--foreign", type=float, default=FOREIGN_AT_MOST, help="share of the machine others may take; to try things out"
    )
    parser.add_argument("--out", type=Path, default=Path("docs/benchmarks"), help="folder for the JSON")


async def run(given: argparse.Namespace, out: Console) -> int:
    """Play all rounds, print and write what came of them.

    Exit code 1: the books are wrong, or a share is beyond its limit; 2: the machine was never quiet, or too little was
    to be pruned.
    """
    try:
        results = await _results(given, out)
    except (Disturbed, PrunedTooSoon) as error:
        out.print(f"{error}", highlight=False)
        return 2
    shares = shares_of(results)
    show(results, None, out)
    for share in shares:
        out.print(f"{share}", highlight=False)
    path = given.out / "flat.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    settings = {name: value for name, value in vars(given).items() if isinstance(value, int | float | list)}
    write_whole(path, dump(document(results, shares, settings)).encode())
    out.print(f"written: {path}", highlight=False)
    return int(any(result.wrong for result in results) or not all(share.reached for share in shares))


def shares_of(results: Sequence[Result]) -> list[Share]:
    """Compare medians of one situation with those of another, with as many clients."""
    by = {(one.name, one.clients): one for one in results if not one.wrong}
    shares = []
    for clients in dict.fromkeys(one.clients for one in results):
        for name, beside, at_least in ((FILLED, EMPTY, 0.9), (HOT, FILLED, 0.8), (PRUNING, FILLED, None)):
            here, there = by.get((name, clients)), by.get((beside, clients))
            if here is None or there is None:
                continue
            if at_least is not None:
                left = here.per_second.median / there.per_second.median
                shares.append(Share(f"orders/s, {name} of {beside}", clients, left, at_least=at_least))
            if name != HOT:
                longer = here.percentile(0.99).median / there.percentile(0.99).median
                shares.append(Share(f"p99, {name} of {beside}", clients, longer, at_most=1.2))
    return shares


def document(results: Sequence[Result], shares: Sequence[Share], settings: dict[str, Any]) -> dict[str, Any]:
    """Write everything down, with the machine and the versions."""
    whole = as_json([], None, settings)
    found = [
        {
            "situation": one.name,
            "clients": one.clients,
            "rounds": len(one.rounds),
            "wrong": one.wrong,
            "orders_per_second": asdict(one.per_second),
            **{f"p{share * 100:g}_ms": asdict(one.percentile(share)) for share in (0.5, 0.99, 0.999)},
            "cpu_us": asdict(one.cpu_us),
            "foreign": max(each.foreign for each in one.rounds),
        }
        for one in results
    ]
    said = [asdict(share) | {"reached": share.reached} for share in shares]
    return {name: whole[name] for name in ("at", "machine", "versions", "settings")} | {
        "results": found,
        "shares": said,
    }


async def _results(given: argparse.Namespace, out: Console) -> list[Result]:
    situations = (
        Situation(EMPTY, filled=False),
        Situation(FILLED),
        Situation(HOT, hot=True),
        Situation(PRUNING, due=given.due),
    )
    amounts = Amounts(given.accounts, given.orders, given.outbox, given.keys, dead_letters=1_000)
    rounds: dict[tuple[str, int], list[Round]] = {}
    with fresh_folder() as kept:
        began = asyncio.get_running_loop().time()
        await prepare(kept, amounts)
        out.print(f"filled in {asyncio.get_running_loop().time() - began:.0f} s", highlight=False)
        for number in range(1, given.rounds + 1):
            for clients in given.clients:
                effort = Effort(clients, given.warm_up, given.seconds, given.used)
                for situation in situations:
                    played = await _quietly(kept, situation, effort, given.foreign)
                    rounds.setdefault((situation.name, clients), []).append(played)
                    said = f"round {number}: {situation.name}, {clients} clients: {played.per_second:.0f} orders/s"
                    out.print(f"{said}, p99 {played.percentile(0.99):.0f} ms", highlight=False)
        wrong = await books_of(kept)
    return [
        Result(name, clients, played if name == EMPTY else [replace(one, wrong=wrong) for one in played])
        for (name, clients), played in rounds.items()
    ]


async def _quietly(kept: Path, situation: Situation, effort: Effort, foreign: float) -> Round:
    """Play a round; again when the machine was disturbed. Raises `Disturbed` when it always is."""
    for _ in range(TRIES):
        if situation.filled:
            played = await play(kept, situation, effort)
        else:
            with fresh_folder() as folder:
                await prepare(folder, Amounts(accounts=effort.accounts * 2))
                played = await play(folder, situation, effort)
                played = replace(played, wrong=await books_of(folder))
        if played.foreign <= foreign:
            return played
    raise Disturbed(f"others took {played.foreign:.0%} of the machine, {TRIES} times; quiet it and try again")


def main() -> None:
    """Run it alone."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.flat", description="Whether cost stays flat as rows pile up."
    )
    add_arguments(parser)
    sys.exit(asyncio.run(run(parser.parse_args(), Console(width=None if sys.stdout.isatty() else 160))))


if __name__ == "__main__":
    main()
