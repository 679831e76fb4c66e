"""The resident memory of every process of a service, and whether it is flat.

A process is judged when the load lasted five minutes or more, and it lived for two minutes or more of it. Its life
is cut into fifths: memory is flat when the median of the last fifth is above that of the second one by less than 10 %,
or by less than 8 MB; or when what it took, it took at once (room for hashing passwords, for large batches) and no more
since: less than a sixth of it from the fourth fifth to the last, where steady growth takes a third. The first fifth is
left out: pools are opened and caches filled then. Each life of a process that was started again counts for itself.
"""

import asyncio
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Final

from orderly.soak.meter import Meter
from orderly.system import System

EVERY_S: Final = 2.0
RUN_AT_LEAST_S: Final = 300.0
LIVED_AT_LEAST_S: Final = 120.0
GROWS_BY: Final = 0.10
GROWS_BY_BYTES: Final = 8_000_000
GOES_ON: Final = 1 / 6

Sample = tuple[float, int]
"""Seconds since the beginning, and bytes."""


@dataclass(frozen=True, slots=True)
class Life:
    """A process from its start to its end, as far as it was seen."""

    label: str
    pid: int
    samples: Sequence[Sample]

    @property
    def seconds(self) -> float:
        """For how long it was seen."""
        return self.samples[-1][0] - self.samples[0][0]

    def growth(self) -> tuple[float, float, float]:
        """Give the medians of the second, the fourth and the last fifth, in bytes."""
        return self._median(1), self._median(3), self._median(4)

    def _median(self, number: int) -> float:
        begin_s, fifth_s = self.samples[0][0], self.seconds / 5
        fifth = [size for at, size in self.samples if number * fifth_s <= at - begin_s <= (number + 1) * fifth_s]
        return median(fifth or [self.samples[-1][1]])

    def flat(self, run_s: float) -> bool | None:
        """Say whether its memory is flat; None when there is too little to judge."""
        if run_s < RUN_AT_LEAST_S or self.seconds < LIVED_AT_LEAST_S:
            return None
        before, late, last = self.growth()
        grown = last - before
        return grown < max(before * GROWS_BY, GROWS_BY_BYTES) or last - late < grown * GOES_ON


@dataclass(slots=True)
class Memory:
    """What was measured, by process and life."""

    _samples: dict[tuple[str, int], list[Sample]] = field(default_factory=lambda: defaultdict(list))

    async def watch(self, system: System, meter: Meter) -> None:
        """Measure again and again, until it is cancelled; leave out a process that is seen for the first time."""
        known: set[tuple[str, int | None]] = set()
        while True:
            there = {(label, system.supervisor.pid(label)) for label in system.services}
            for label, pid in there & known:
                if pid is not None and (size := resident(pid)) is not None:
                    self._samples[label, pid].append((meter.now_s(), size))
            known = there
            await asyncio.sleep(EVERY_S)

    def lives(self) -> list[Life]:
        """List the lives of all processes, by label and time."""
        lives = [Life(label, pid, samples) for (label, pid), samples in self._samples.items()]
        return sorted(lives, key=lambda life: (life.label, life.samples[0][0]))


def resident(pid: int) -> int | None:
    """Measure the resident memory of a process, in bytes; None where it cannot be known."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return None
    for line in status.splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    return None


def at(lives: Sequence[Life], second: float) -> Mapping[str, int]:
    """Say how large each process was at a moment, by label: at the last measurement before it, or else the first."""
    found: dict[str, int] = {}
    for life in lives:
        for moment, size in life.samples:
            if life.label not in found or moment <= second:
                found[life.label] = size
    return found


def flat(lives: Sequence[Life], run_s: float) -> bool | None:
    """Say whether the memory of everybody who can be judged is flat; None when that is nobody."""
    judged = [verdict for life in lives if (verdict := life.flat(run_s)) is not None]
    return all(judged) if judged else None
