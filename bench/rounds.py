"""One round: a contestant started from nothing, warmed up, measured, examined, and gone."""

import asyncio
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import asyncpg
import orjson

from bench.contestants import Contestant, Running, started
from bench.processes import Usage, machine_cpu_s, usage

ACCOUNTS: Final = 32
DEPOSIT: Final = "1000000"
FOREIGN_AT_MOST: Final = 0.05
"""Share of the machine that others may take during a round that counts."""

TRIES: Final = 5


@dataclass(frozen=True, slots=True)
class Round:
    """What one round showed. `cpu_us` and `memory` are by process, `seconds` one number for each order."""

    clients: int
    lasted_s: float
    seconds: Sequence[float]
    outcomes: Mapping[str, int]
    cpu_us: Mapping[str, float]
    memory: Mapping[str, int]
    flushes: float
    """Of PostgreSQL's log, for each order."""

    foreign: float
    """Share of the machine that neither the contestant nor its clients took."""

    wrong: Sequence[str]
    """What is wrong with the books. A round whose books are wrong has no result."""

    @property
    def per_second(self) -> float:
        """Orders that had their outcome, in a second."""
        return len(self.seconds) / self.lasted_s

    def percentile(self, share: float) -> float:
        """Milliseconds within which this share of the orders had their outcome."""
        ordered = sorted(self.seconds)
        return 1000 * ordered[min(int(len(ordered) * share), len(ordered) - 1)] if ordered else float("nan")


class Disturbed(RuntimeError):
    """The machine had other things to do."""


async def play(contestant: Contestant, *, clients: int, warm_up_s: float, seconds: float) -> Round:
    """Play a round; again when the machine was disturbed. Raises `Disturbed` when it always is."""
    last = 0.0
    for _ in range(TRIES):
        async with started(contestant) as running:
            played = await _measure(running, clients, warm_up_s, seconds)
        last = played.foreign
        if last <= FOREIGN_AT_MOST:
            return played
    raise Disturbed(f"others took {last:.0%} of the machine, {TRIES} times; quiet it and try again")


async def _measure(running: Running, clients: int, warm_up_s: float, seconds: float) -> Round:
    opening = {"do": "open accounts", "base": running.url, "number": ACCOUNTS, "deposit": DEPOSIT}
    (accounts,) = [answer async for answer in _ask(opening)]
    placing = {"do": "place orders", "base": running.url, "accounts": accounts, "clients": clients}
    moments: list[tuple[float, float, dict[str, Usage], int]] = []
    load: dict[str, Any] = {}
    async for said in _ask({**placing, "warm_up_s": warm_up_s, "seconds": seconds}):
        if isinstance(said, dict):
            load = said
        else:
            used = {name: usage(pid) for name, pid in running.pids.items()}
            clock = asyncio.get_running_loop().time()
            moments.append((clock, machine_cpu_s(), used, await _flushes(running.postgres)))
    (began, machine, before, flushes), (over, machine_after, after, flushes_after) = moments
    lasted, count = over - began, max(len(load["seconds"]), 1)
    own = sum(after[name].cpu_s - before[name].cpu_s for name in before)
    client = load["cpu_s"] * seconds / (seconds + warm_up_s)
    cores = len(os.sched_getaffinity(0))
    return Round(
        clients=clients,
        lasted_s=seconds,
        seconds=load["seconds"],
        outcomes=load["outcomes"],
        cpu_us={name: 1e6 * (after[name].cpu_s - before[name].cpu_s) / count for name in before},
        memory={name: after[name].memory for name in after},
        flushes=(flushes_after - flushes) / count,
        foreign=max(0.0, (machine_after - machine - own - client) / (lasted * cores)),
        wrong=await running.examine(),
    )


async def _flushes(postgres: str) -> int:
    """Count how often PostgreSQL has flushed its log."""
    connection = await asyncpg.connect(postgres)
    try:
        return int(await connection.fetchval("select coalesce(sum(fsyncs), 0) from pg_stat_io where object = 'wal'"))
    finally:
        await connection.close()


async def _ask(what: dict[str, Any]) -> Any:
    """Have the clients, a process of their own, do something; give what they say."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bench.clients"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=1 << 28,
        cwd=Path(__file__).parents[1],
    )
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(orjson.dumps(what))
    process.stdin.close()
    async for line in process.stdout:
        yield orjson.loads(line)
    if await process.wait():
        raise RuntimeError(f"the clients could not {what['do']}")
