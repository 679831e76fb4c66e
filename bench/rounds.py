"""One round: a contestant started from nothing, warmed up, measured, examined, and gone."""

import os
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any, Final, TypeVar

from bench.clients import have_clients
from bench.counters import Counters, Moment, each
from bench.processes import cpu_s, machine_cpu_s, memory, snapshot
from bench.running import Contestant, Running, started
from bench.servers import given_pids
from bench.yardstick import transactions_per_second

DEPOSIT: Final = "1000000"
FOREIGN_AT_MOST: Final = 0.05
"""Share of the machine that others may take during a round that counts."""

TRIES: Final = 5

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Round:
    """What one round showed. `cpu_us` and `memory` are by process, `seconds` one number for each order."""

    clients: int
    lasted_s: float
    seconds: Sequence[float]
    outcomes: Mapping[str, int]
    failures: Mapping[str, int]
    """What had no outcome, by how it failed: a status, or ``no answer``, or ``pending`` for too long."""

    pending: int
    """How many were not told their outcome at once, and had to ask for it."""

    cpu_us: Mapping[str, float]
    memory: Mapping[str, int]
    flushes: float | None
    """Of PostgreSQL's log, for each order; None without PostgreSQL."""

    stored: float | None
    """Messages in NATS' streams, for each order. A `sync_interval` of `always` flushes each batch of them."""

    disk_flushes: float | None
    """Of the disk, for each order; None where the kernel does not say."""

    foreign: float
    """Share of the machine that neither the contestant nor its clients took."""

    wrong: Sequence[str] = ()
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


@dataclass(frozen=True, slots=True)
class Length:
    """How long is measured, and how much others may disturb it."""

    seconds: float
    warm_up_s: float
    foreign_at_most: float = FOREIGN_AT_MOST


async def undisturbed(attempt: Callable[[], Awaitable[T]], foreign: Callable[[T], float], at_most: float) -> T:
    """Do something again when the machine was disturbed meanwhile. Raises `Disturbed` when it always is."""
    last = 0.0
    for _ in range(TRIES):
        done = await attempt()
        last = foreign(done)
        if last <= at_most:
            return done
    raise Disturbed(f"others took {last:.0%} of the machine, {TRIES} times; quiet it and try again")


async def yardstick(length: Length) -> float:
    """Have pgbench measure transactions a second. Raises `Disturbed` and `CannotStart`."""

    async def attempt() -> tuple[float, float]:
        began, before = time.monotonic(), _machine_and_own_s()
        found = await transactions_per_second(length.seconds)
        (machine, own), lasted = _machine_and_own_s(), time.monotonic() - began
        return found, foreign_share(machine - before[0], own - before[1], lasted)

    return (await undisturbed(attempt, lambda done: done[1], length.foreign_at_most))[0]


def _machine_and_own_s() -> tuple[float, float]:
    seen, machine = snapshot(), machine_cpu_s()
    return machine, sum(cpu_s(pid, seen) for pid in (os.getpid(), *given_pids().values()))


def foreign_share(machine_s: float, own_s: float, lasted_s: float) -> float:
    """Tell which share of the machine others took, by the CPU seconds of everybody and of our own."""
    return max(0.0, (machine_s - own_s) / (lasted_s * len(os.sched_getaffinity(0))))


async def play(contestant: Contestant, clients: int, length: Length) -> Round:
    """Have a contestant take orders. Raises `Disturbed`."""

    async def attempt() -> Round:
        async with started(contestant) as running:
            accounts = await opened(running, min(contestant.accounts, clients))
            asked = {"do": "place orders", "accounts": accounts, "clients": clients, "price": "1.00"}
            return await examined(running, await measure(running, asked, length))

    return await undisturbed(attempt, lambda one: one.foreign, length.foreign_at_most)


async def opened(running: Running, number: int, *, orders: int = 0) -> list[dict[str, Any]]:
    """Open accounts for clients to use, each with some orders."""
    asked = {"do": "open accounts", "number": number, "deposit": DEPOSIT, "orders": orders}
    (accounts,) = [answer async for answer in have_clients(base=running.url, **asked)]
    return list(accounts)


async def measure(running: Running, asked: Mapping[str, Any], length: Length) -> Round:
    """Have clients do something again and again, and count what it takes in the time that counts.

    What is wrong with the books is not known yet.
    """
    moments: list[Moment] = []
    seen: dict[str, Any] = {}
    kept: dict[str, int] = {}
    said = have_clients(base=running.url, warm_up_s=length.warm_up_s, seconds=length.seconds, **asked)
    async with Counters.of(running) as counters, aclosing(said):
        async for one in said:
            if isinstance(one, dict):
                seen = one
                continue
            moments.append(await counters.now())
            processes = snapshot()
            kept = {name: memory(pid, processes) for name, pid in running.pids.items()} if len(moments) > 1 else {}
    before, after = moments
    return counted(before, after, seen=seen, clients=int(asked["clients"]), seconds=length.seconds, kept=kept)


async def examined(running: Running, played: Round) -> Round:
    """Add what is wrong with the books."""
    return replace(played, wrong=await running.examine())


def counted(
    before: Moment, after: Moment, *, seen: Mapping[str, Any], clients: int, seconds: float, kept: Mapping[str, int]
) -> Round:
    """Tell by what was counted at both edges, and by what the clients have seen, what each order takes."""
    count = max(len(seen["seconds"]), 1)
    machine, own = after.machine_cpu_s - before.machine_cpu_s, after.own_cpu_s - before.own_cpu_s
    return Round(
        clients=clients,
        lasted_s=seconds,
        **seen,
        cpu_us={name: 1e6 * (after.cpu_s[name] - before.cpu_s[name]) / count for name in before.cpu_s},
        memory=kept,
        flushes=each(before.flushes, after.flushes, count),
        stored=each(before.stored, after.stored, count),
        disk_flushes=each(before.disk_flushes, after.disk_flushes, count),
        foreign=foreign_share(machine, own, seconds),
    )


def schedule(number: int, plays: Sequence[T]) -> list[T]:
    """Say in which order round `number` (from 1) plays: even rounds backwards.

    So over each two rounds everybody's average place is the same, and a machine that becomes slower bit by bit makes
    everybody slower alike. Who is compared stands side by side in `plays`.
    """
    return list(plays) if number % 2 else list(reversed(plays))
