"""Registration: how many people a second, and how much of what that takes is argon2, which is to be slow."""

import argparse
import asyncio
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from rich.console import Console

from auth.credentials import Passwords
from bench import figures, parts
from bench.contestants import CONTESTANTS, OURS
from bench.figures import Figure, as_json, medians
from bench.people import PASSWORD
from bench.rounds import Length, Round, examined, measure, undisturbed
from bench.running import Contestant, started

HASHES: Final = 40


def options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this part."""
    parser.add_argument("--clients", type=int, default=64, help="at a time (default 64)")
    parts.common(parser)


async def run(given: argparse.Namespace, out: Console) -> int:
    """Register people for some rounds; exit code 1 when the books fail."""
    rounds: list[Round] = []
    hashes: list[float] = []
    for number in range(1, given.rounds + 1):
        hashes.append(await hash_cpu_s())
        rounds.append(await play(CONTESTANTS[OURS], given.clients, parts.length(given)))
        out.print(f"round {number}: {rounds[-1].per_second:.0f} registrations/s, {1000 * hashes[-1]:.1f} ms a hash")
    result = Registrations(rounds, hashes)
    show(result, out)
    path = figures.write(given.out, "registration.json", figures.document(parts.settings(given), **result.as_json()))
    out.print(f"written: {path}")
    return int(bool(result.wrong))


async def play(contestant: Contestant, clients: int, length: Length) -> Round:
    """Register people, each client one after the other. Raises `Disturbed`."""

    async def attempt() -> Round:
        async with started(contestant) as running:
            return await examined(running, await measure(running, {"do": "register", "clients": clients}, length))

    return await undisturbed(attempt, lambda one: one.foreign, length.foreign_at_most)


async def hash_cpu_s(number: int = HASHES) -> float:
    """Measure the CPU seconds of one hash with auth's parameters, as many at a time as there are cores, and no more."""
    passwords, cores = Passwords(), os.cpu_count() or 1
    await asyncio.gather(*(passwords.hash(f"warm-{index}", PASSWORD) for index in range(cores)))
    began = time.process_time()
    for first in range(0, number, cores):
        await asyncio.gather(*(passwords.hash(f"{index}", PASSWORD) for index in range(first, first + cores)))
    return (time.process_time() - began) / (cores * -(-number // cores))


@dataclass(frozen=True, slots=True)
class Registrations:
    """What some rounds showed, and what a hash took before each, in CPU seconds."""

    rounds: Sequence[Round]
    hashes: Sequence[float]

    @property
    def wrong(self) -> list[str]:
        """What was wrong with the books in any round."""
        return [problem for one in self.rounds for problem in one.wrong]

    @property
    def per_second(self) -> Figure:
        """Registrations a second."""
        return Figure.of([one.per_second for one in self.rounds])

    @property
    def share_of_all(self) -> Figure:
        """The share of argon2 in the CPU that all processes of the system have used."""
        pairs = zip(self.rounds, self.hashes, strict=True)
        return Figure.of([1e6 * hash_s / max(sum(one.cpu_us.values()), 1) for one, hash_s in pairs])

    @property
    def share_of_auth(self) -> Figure:
        """The share of argon2 in the CPU that auth has used."""
        pairs = zip(self.rounds, self.hashes, strict=True)
        return Figure.of([1e6 * hash_s / max(one.cpu_us["auth"], 1) for one, hash_s in pairs])

    @property
    def at_most(self) -> Figure:
        """How many hashes a second the machine could make if it did nothing else."""
        return Figure.of([len(os.sched_getaffinity(0)) / hash_s for hash_s in self.hashes])

    def as_json(self) -> dict[str, Any]:
        """Write it down."""
        return {
            "wrong": self.wrong,
            "registrations_per_second": as_json(self.per_second),
            "hashes_per_second_at_most": as_json(self.at_most),
            "p50_ms": as_json(Figure.of([one.percentile(0.5) for one in self.rounds])),
            "p99_ms": as_json(Figure.of([one.percentile(0.99) for one in self.rounds])),
            "hash_cpu_ms": as_json(Figure.of([1000 * one for one in self.hashes])),
            "share_of_argon2": as_json(self.share_of_all),
            "share_of_argon2_in_auth": as_json(self.share_of_auth),
            "cpu_us_by_process": medians([one.cpu_us for one in self.rounds]),
            "account_opened_later": sum(one.pending for one in self.rounds),
            "failures": {how: number for one in self.rounds for how, number in one.failures.items()},
        }


def show(result: Registrations, out: Console) -> None:
    """Print what came of it."""
    if result.wrong:
        out.print("no result: " + "; ".join(result.wrong[:2]))
        return
    out.print(f"registrations/s: {result.per_second}; p99 {result.as_json()['p99_ms']['median']:.0f} ms")
    out.print(f"hashes/s that the machine could make if it did nothing else: {result.at_most}")
    out.print(f"argon2 takes {result.share_of_all.median:.0%} of the CPU of all processes,")
    out.print(f"and {result.share_of_auth.median:.0%} of auth's")
    by_process = medians([one.cpu_us for one in result.rounds])
    out.print("CPU µs a registration: " + ", ".join(f"{name} {us:.0f}" for name, us in by_process.items()))


PART: Final = parts.Part("registration", "Registrations, and the share of argon2.", options, run)
