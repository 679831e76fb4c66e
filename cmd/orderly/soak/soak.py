"""The soak itself: the load, the faults beside it, and, when both are over, the comparison and the audit."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

from orderly.audit import CannotAudit, audit
from orderly.audit import Report as Audited
from orderly.faults import Fault
from orderly.faults.broker import LOSSES
from orderly.faults.chance import VICTIMS
from orderly.services import NAMES
from orderly.soak.duplicates import handled_again
from orderly.soak.load import Load, load_on
from orderly.soak.memory import Memory
from orderly.soak.meter import Meter
from orderly.soak.people import Notes
from orderly.soak.report import Happened, Report
from orderly.soak.schedule import REST_S, schedule
from orderly.soak.view import progress
from orderly.system import System

SETTLE_WITHIN_S: Final = 180.0
"""Four rests of a consumer whose stream was made anew, and then some: the last fault may hit a recovery."""

LETTERS_WITHIN_S: Final = 60.0
PATIENCE_S: Final = 60.0
TELL_EVERY_S: Final = 0.25


@dataclass(frozen=True, slots=True)
class Wanted:
    """For how long, and with which faults; `rest_s` is how far apart losses of the broker's memory are."""

    seconds: float
    seed: int
    faults: Sequence[Fault]
    rest_s: float = REST_S


async def soak(
    system: System, wanted: Wanted, *, stop: asyncio.Event, tell: Callable[[str], None] = lambda _text: None
) -> Report:
    """Soak a system that runs, until the time is over or `stop` is set; `tell` gets a line about how far it is."""
    return await _Soak(system, wanted, tell).perform(stop)


@dataclass(slots=True)
class _Soak:
    system: System
    wanted: Wanted
    tell: Callable[[str], None]
    meter: Meter = field(default_factory=Meter)
    memory: Memory = field(default_factory=Memory)
    happened: list[Happened] = field(default_factory=list)
    troubles: list[str] = field(default_factory=list)
    present: Fault | None = None

    async def perform(self, stop: asyncio.Event) -> Report:
        """Load, cause, settle, compare, audit."""
        begun, notes, over = datetime.now(UTC), Notes(self.meter.confirmed), asyncio.Event()
        beside = [asyncio.create_task(one) for one in (self.memory.watch(self.system, self.meter), self._telling())]
        try:
            async with load_on(self.system.url, self.wanted.seed, notes) as load:
                loading, causing = asyncio.create_task(load.run(over)), asyncio.create_task(self._cause(over))
                await self._until(stop, over)
                seconds = self.meter.now_s()
                await causing
                settled = await _settled(load, loading)
                settle_s = self.meter.now_s() - seconds
                if settled:
                    await load.compare(LETTERS_WITHIN_S)
        finally:
            for task in beside:
                task.cancel()
            await asyncio.gather(*beside, return_exceptions=True)
        self.tell("auditing")
        return Report(
            at=begun,
            database=self.system.plan.database,
            replicas=self.system.plan.replicas,
            seed=self.wanted.seed,
            seconds=seconds,
            settled=settled,
            settle_s=settle_s,
            people=len(load.everybody),
            statuses=notes.statuses,
            outcomes=notes.outcomes,
            confirmed_s=self.meter.confirmed_s,
            faults=self.happened,
            sent_again=notes.sent_again,
            replayed=notes.replayed,
            handled_again=await asyncio.to_thread(handled_again, self.system.logs, NAMES),
            contradictions=notes.contradictions,
            lives=self.memory.lives(),
            audited=await self._audited(),
            troubles=self.troubles,
        )

    async def _until(self, stop: asyncio.Event, over: asyncio.Event) -> None:
        """Wait for the end of the time, for somebody who has had enough, or for a fault that could not be mended."""
        waiting = [asyncio.create_task(one.wait()) for one in (stop, over)]
        await asyncio.wait(waiting, timeout=self.wanted.seconds, return_when=asyncio.FIRST_COMPLETED)
        for task in waiting:
            task.cancel()
        over.set()

    async def _cause(self, over: asyncio.Event) -> None:
        """Cause one fault after the other until it is over; it is when one cannot be caused or mended."""
        VICTIMS.seed(f"victims {self.wanted.seed}")
        wanted = self.wanted
        planned = schedule(wanted.faults, LOSSES, seed=wanted.seed, seconds=wanted.seconds, rest_s=wanted.rest_s)
        for number, one in enumerate(planned, 1):
            if await _set_within(over, one.at_s - self.meter.now_s()):
                return
            self.present, VICTIMS.last, begin_s = one.fault, "", self.meter.now_s()
            try:
                async with one.fault.cause(self.system):
                    await _set_within(over, one.held_s)
            except Exception as error:  # noqa: BLE001 - whatever it is, it is said, and the rest is still examined
                self.troubles.append(f"{one.fault.name}: {error!r}")
                over.set()
            finally:
                self.present = None
                self.happened.append(Happened(number, one.fault, VICTIMS.last, begin_s, self.meter.now_s()))

    async def _audited(self) -> Audited | None:
        urls = {name: self.system.database_url(name) for name in NAMES}
        try:
            return await audit(urls, self.system.nats_url, patience_s=PATIENCE_S)
        except CannotAudit as error:
            self.troubles.append(str(error))
            return None

    async def _telling(self) -> None:
        while True:
            self.tell(progress(self.meter.now_s(), self.wanted.seconds, len(self.meter.confirmed_s), self.present))
            await asyncio.sleep(TELL_EVERY_S)


async def _settled(load: Load, loading: "asyncio.Task[None]") -> bool:
    """Let everybody finish what they are doing, and wait for every outcome; say whether it came to that."""
    try:
        async with asyncio.timeout(SETTLE_WITHIN_S):
            await loading
            await load.settle()
    except TimeoutError:
        return False
    return True


async def _set_within(event: asyncio.Event, seconds: float) -> bool:
    """Wait for an event, for so many seconds at most; say whether it is set."""
    with suppress(TimeoutError):
        await asyncio.wait_for(event.wait(), max(seconds, 0))
    return event.is_set()
