"""The audit itself: one look at everything, and further looks at whatever facts under way may explain."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import partial
from typing import Final

from libs.messaging.consumer import durables
from orderly.audit import between, kept, within
from orderly.audit.kept import Subjects
from orderly.audit.look import Look, Part, Suspect
from orderly.audit.reading import CannotAudit, snapshots
from orderly.audit.report import NAMED, OF_STREAMS, TITLES, Check, Limits, Offender, Report, written
from orderly.audit.streams import Streams, connected
from orderly.services import NAMES, SERVICES

PATIENCE_S: Final = 15.0
LOOK_AGAIN_AFTER_S: Final = 0.25
LOOK_AGAIN_AT_LEAST_EVERY_S: Final = 2.0

NOBODY_ASKED: Final = "streams were left out"

Progress = Callable[[str, int], None]
"""Is told what is being read, and how many rows of it so far."""


async def audit(
    urls: Mapping[str, str],
    nats_url: str | None,
    *,
    patience_s: float = PATIENCE_S,
    limits: Limits | None = None,
    progress: Progress = lambda _what, _rows: None,
) -> Report:
    """Audit the databases at `urls`, by service, and the streams at `nats_url`; without one streams are left out.

    What looks wrong and may be under way is looked at again until it vanishes, or has stood for `patience_s`. What
    comes up only in a later look is left to the next audit. Raises `CannotAudit`.
    """
    if missing := [name for name in NAMES if name not in urls]:
        raise CannotAudit(f"there is no database of {', '.join(missing)}")
    async with _streams(nats_url) as streams:
        return await _Audit(urls, streams, limits or Limits(), progress).perform(patience_s)


class _Audit:
    def __init__(self, urls: Mapping[str, str], streams: Streams | None, limits: Limits, progress: Progress) -> None:
        self._urls = urls
        self._streams = streams
        self._limits = limits
        self._progress = progress
        self._parts = [*within.parts(NAMES), *between.PARTS]
        if streams is not None:
            self._parts += kept.parts(consumed())
        self._checks = {name: Check(name) for name in TITLES}
        self._standing: dict[Part, dict[Suspect, str]] = {}

    async def perform(self, patience_s: float) -> Report:
        """Look until everything is clear, or patience is over."""
        at, begun = datetime.now(UTC), time.monotonic()
        await self._look_at(self._parts)
        first, looks, pause_s = time.monotonic(), 1, LOOK_AGAIN_AFTER_S
        while doubtful := [part for part, found in self._standing.items() if part.passes and found]:
            left_s = first + patience_s - time.monotonic()
            if left_s < 0:
                break
            await asyncio.sleep(min(pause_s, left_s + 0.001))
            pause_s = min(pause_s * 2, LOOK_AGAIN_AT_LEAST_EVERY_S)
            await self._look_at(doubtful)
            looks += 1
        return Report(at, time.monotonic() - begun, looks, self._concluded())

    async def _look_at(self, parts: Sequence[Part]) -> None:
        """Look at parts once, all in the same snapshots."""
        states = {}
        if self._streams is not None and any(part.of_streams for part in parts):
            states = {name: await self._streams.state(name.upper()) for name in NAMES}  # before the snapshots
        needed = {database for part in parts for database in part.databases}
        async with snapshots({name: self._urls[name] for name in needed}) as taken:
            for part in parts:
                before = self._standing.get(part)
                self._progress(part.name, 0)
                found = Look(taken, self._limits, partial(self._progress, part.name), self._streams, states)
                started = time.monotonic()
                await part.look(found, None if before is None else sorted({one for _, one in before}))
                self._take(part, found, time.monotonic() - started)

    def _take(self, part: Part, found: Look, seconds: float) -> None:
        for name in part.checks:
            self._checks[name].seconds += seconds
            self._checks[name].examined += found.seen[name]
        before = self._standing.get(part)
        if before is None:
            self._standing[part] = found.found
            for name in found.more:
                self._checks[name].at_least = True
        else:
            self._standing[part] = {one: found.found[one] for one in before if one in found.found}

    def _concluded(self) -> list[Check]:
        for found in self._standing.values():
            for (name, offender), what in found.items():
                check = self._checks[name]
                check.count += 1
                if len(check.first) < NAMED:
                    check.first.append(Offender(written(offender), what))
        for name in OF_STREAMS:
            if self._streams is None:
                self._checks[name].skipped = NOBODY_ASKED
        return list(self._checks.values())


def consumed() -> Subjects:
    """Say which durable consumers each service's stream must have, from the tables that the contracts are made from."""
    found: dict[str, dict[str, Sequence[str]]] = {name: {} for name in NAMES}
    for service in SERVICES:
        for durable in durables(service.name, service.listens):
            found[durable.stream.lower()][durable.name] = durable.subjects
    return found


@asynccontextmanager
async def _streams(url: str | None) -> AsyncIterator[Streams | None]:
    if url is None:
        yield None
        return
    async with connected(url) as streams:
        yield streams
