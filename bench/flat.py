"""Whether cost stays flat: an empty system beside one that has taken a million orders, on one machine.

The full system is made once and kept; each round starts it again, and makes the empty one anew. Other rounds have every
order placed from one account, and place orders while rows whose time is over are pruned.
"""

import argparse
import asyncio
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final

from rich.console import Console

from bench import figures, parts, report
from bench.filling import Amounts
from bench.folders import fresh_folder
from bench.report import Result, result_as_json
from bench.rounds import Round, schedule, undisturbed
from bench.situations import PrunedTooSoon, Situation, books_of, play, prepare

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


def options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this part."""
    parser.add_argument("--clients", type=int, nargs="+", default=[64, 256], help="at a time (default: 64 and 256)")
    parser.add_argument("--accounts", type=int, default=1_000_000, help="there are in the full system")
    parser.add_argument("--orders", type=int, default=1_000_000, help="it has taken, with letters and ledger")
    parser.add_argument("--outbox", type=int, default=3_000_000, help="rows that its outboxes keep, together")
    parser.add_argument("--keys", type=int, default=1_250_000, help="idempotency keys that it keeps")
    parser.add_argument("--due", type=int, default=400_000, help="outbox rows, and keys, to prune during a round")
    parser.add_argument("--used", type=int, default=4_096, help="accounts that place the orders")
    parts.common(parser)


async def run(given: argparse.Namespace, out: Console) -> int:
    """Play all rounds, print and write what came of them.

    Exit code 1: the books are wrong, or a share is beyond its limit; 2: too little was to be pruned.
    Raises `Disturbed`.
    """
    try:
        results = await _results(given, out)
    except PrunedTooSoon as error:
        out.print(f"{error}")
        return 2
    shares = shares_of(results)
    report.show(results, None, out)
    for share in shares:
        out.print(f"{share}")
    found = [result_as_json(one) for one in results]
    said = [asdict(share) | {"reached": share.reached} for share in shares]
    path = figures.write(given.out, "flat.json", figures.document(parts.settings(given), results=found, shares=said))
    out.print(f"written: {path}")
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
        out.print(f"filled in {asyncio.get_running_loop().time() - began:.0f} s")
        for number in range(1, given.rounds + 1):
            for clients in given.clients:
                for situation in schedule(number, situations):
                    played = await _quietly(kept, situation, clients, given)
                    rounds.setdefault((situation.name, clients), []).append(played)
                    said = f"round {number}: {situation.name}, {clients} clients: {played.per_second:.0f} orders/s"
                    out.print(f"{said}, p99 {played.percentile(0.99):.0f} ms")
        wrong = await books_of(kept)
    return [
        Result(name, clients, played if name == EMPTY else [replace(one, wrong=wrong) for one in played])
        for (name, clients), played in rounds.items()
    ]


async def _quietly(kept: Path, situation: Situation, clients: int, given: argparse.Namespace) -> Round:
    """Play a round; again when the machine was disturbed. Raises `Disturbed` when it always is."""
    length, used = parts.length(given), given.used

    async def attempt() -> Round:
        if situation.filled:
            return await play(kept, situation, clients=clients, used=used, length=length)
        with fresh_folder() as folder:
            await prepare(folder, Amounts(accounts=used * 2))
            played = await play(folder, situation, clients=clients, used=used, length=length)
            return replace(played, wrong=await books_of(folder))

    return await undisturbed(attempt, lambda one: one.foreign, length.foreign_at_most)


PART: Final = parts.Part("flat", "An empty system beside one that has taken a million orders.", options, run)
