"""Tell stories: `just simulate [--stories N] [--first N] [--seed N] [--verbose]`."""

import argparse
import asyncio
import gc
import logging
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, Final

import structlog

from orderly.simulation.invariants import unsettled, violations
from orderly.simulation.loop import OWNER, Loop
from orderly.simulation.nature import nature
from orderly.simulation.storage import Disk, make_disks
from orderly.simulation.stories import Story, Telling
from orderly.simulation.weather import Weather
from orderly.simulation.world import World, services, stretched

QUIET_WITHIN_S: Final = 240.0
"""How long, in imagined seconds, everything may take to settle once nothing goes wrong any more."""

SHOWN_EVERY_S: Final = 2.0


@dataclass(slots=True)
class Told:
    """What came of a story. Two tellings of one seed are equal in everything."""

    seed: int
    violations: list[str]
    steps: int
    lasted_s: float
    drawn: float
    trace: list[str] = field(default_factory=list, compare=False)


class Theatre:
    """Where stories are told, one after the other: disks that are made once, and wiped for each."""

    def __init__(self, disks: Mapping[str, Disk]) -> None:
        self._disks = disks

    def tell(self, seed: int, *, trace: bool = False) -> Told:
        """Tell the story of a seed. With `trace`, note every step that a reader may want to see; the same happens."""
        story = Story.of(seed)
        chance = Random(f"course {seed}")  # noqa: S311 - chance here is to be the same again
        loop = Loop.of(chance)
        for disk in self._disks.values():
            disk.wipe()
        with nature(loop.time, chance), stretched(), _tidied_up_after():
            lines = _preface(story) if trace else []
            with _logs_to(loop, lines if trace else None):
                try:
                    found: list[str] = loop.run_until_complete(
                        self._told(story, loop, chance, lines if trace else None)
                    )
                finally:
                    loop.finish()
        return Told(seed, found, loop.steps, loop.time(), chance.random(), lines)

    async def _told(self, story: Story, loop: Loop, chance: Random, trace: list[str] | None) -> list[str]:
        draws = Random(f"weather {story.seed}")  # noqa: S311 - chance here is to be the same again
        world = World(loop, self._disks, Weather(chance), story.replicas, first_start=story.first_start)
        world.trace = trace
        telling = Telling(story, world)
        try:
            for act in range(len(story.acts)):
                world.weather.become(Weather.of(draws))
                world.note("story", f"act {act + 1}: {world.weather}")
                await telling.act(act)
                world.weather.calm()
                late = await _quiet(world)
                world.note("story", "is quiet" if not late else "does not become quiet")
                found = [*(f"not settled: {one}" for one in late), *violations(world, story)]
                if found:
                    return found
            return []
        finally:
            world.trace = None
            world.end()


async def _quiet(world: World) -> list[str]:
    """Wait until nothing is under way; return what still is when that takes too long."""
    until = world.loop.time() + QUIET_WITHIN_S
    while under_way := list(unsettled(world)):
        if world.loop.time() > until:
            return under_way
        await asyncio.sleep(0.5)
    return []


def _preface(story: Story) -> list[str]:
    lines = [f"seed {story.seed}; processes {story.replicas}"]
    for number, (deeds, events) in enumerate(story.acts, 1):
        lines += [f"act {number}: {deed.who} {deed}{'' if deed.waits else ' (does not wait)'}" for deed in deeds]
        lines += [f"act {number}: at {event.at_s:.2f} s {event.kind} {event.target}" for event in events]
    return lines


@contextmanager
def _logs_to(loop: Loop, trace: list[str] | None) -> Iterator[None]:
    """Have the services' own logs in the trace, or nowhere."""

    def note(_logger: Any, level: str, event: MutableMapping[str, Any]) -> str:
        owner = OWNER.get()
        who = getattr(owner, "name", "")
        said = " ".join(f"{name}={value}" for name, value in event.items() if name not in ("event", "trace_ids"))
        assert trace is not None
        trace.append(f"{loop.time():9.4f}  {who:<16} {level}: {event['event']} {said}")
        raise structlog.DropEvent

    before = structlog.get_config()
    level = logging.CRITICAL if trace is None else logging.INFO
    structlog.configure(
        processors=[note],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        cache_logger_on_first_use=False,
    )
    try:
        yield
    finally:
        structlog.configure(**before)


@contextmanager
def _tidied_up_after() -> Iterator[None]:
    """Collect garbage after a story, not at some moment in it, and not what was there before."""
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.collect()
        gc.unfreeze()


@contextmanager
def theatre() -> Iterator[Theatre]:
    """Set one up, in a folder of its own."""
    memory = Path("/dev/shm")  # noqa: S108 - a folder in memory, where there is one
    with tempfile.TemporaryDirectory(prefix="orderly-stories-", dir=memory if memory.is_dir() else None) as folder:
        disks = asyncio.run(make_disks(Path(folder), services()))
        try:
            yield Theatre(disks)
        finally:
            for disk in disks.values():
                disk.close()


def simulate(given: argparse.Namespace) -> int:
    """Tell stories until one fails; say which, what was wrong, and how it came to that."""
    with theatre() as stage:
        if given.seed is not None:
            return _report(stage.tell(given.seed, trace=True), verbose=given.verbose)
        started = shown = time.monotonic()
        for number, seed in enumerate(range(given.first, given.first + given.stories), 1):
            told = stage.tell(seed)
            if told.violations:
                return _report(stage.tell(seed, trace=True), verbose=True)
            if time.monotonic() - shown > SHOWN_EVERY_S or number == given.stories:
                shown = time.monotonic()
                _progress(f"{number} of {given.stories} stories, {number / (shown - started):.1f} a second")
    print("every invariant holds")
    return 0


def _progress(text: str) -> None:
    """Show how far it is: in one line to a person, in one after the other to a file."""
    if sys.stdout.isatty():
        sys.stdout.write(f"\r{text} ")
        sys.stdout.flush()
    else:
        print(text, flush=True)


def _report(told: Told, *, verbose: bool) -> int:
    if verbose:
        print("\n".join(["", *told.trace]))
    seconds = f"{told.steps} steps in {told.lasted_s:.1f} imagined seconds"
    if not told.violations:
        print(f"seed {told.seed}: {seconds}, every invariant holds")
        return 0
    print(f"\nseed {told.seed} fails after {seconds} (again: just simulate --seed {told.seed} --verbose)")
    print("\n".join(f"  {violation}" for violation in told.violations))
    return 1
