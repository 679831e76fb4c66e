"""Chores: what every process of a service does again and again, beside requests and messages."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Generic, TypeVar

import structlog

from libs.contracts import stream_of
from libs.messaging import dead_letters, outbox
from libs.messaging.bus import Bus, Durable
from libs.messaging.unit import Unit, Units
from libs.tasks import going_on
from libs.web import commands

StoreT = TypeVar("StoreT")

EVERY_S: Final = 1.0
PAUSE_S: Final = 0.1
REST: Final = 10
"""How many times as long as a step took it rests before the next one, and `PAUSE_S` at least: the busier the database,
the slower goes what has time. A bare pause of 0.1 s between the steps of ten chores showed in the orders' p99."""

PRUNED_AT_ONCE: Final = 500

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Chore(Generic[StoreT]):
    """Work that is done again and again, a unit at a time; idempotent, since every replica does it.

    `work` returns whether there is more to do at once.
    """

    work: Callable[[Unit[StoreT]], Awaitable[bool]]
    every_s: float

    async def run(self, units: Units[StoreT]) -> None:
        """Do it until cancelled."""
        more, took_s = False, 0.0
        while going_on():
            await asyncio.sleep(max(PAUSE_S, REST * took_s) if more else self.every_s)
            began = time.monotonic()
            try:
                async with units.begin() as unit:
                    more = await self.work(unit)
            except Exception as error:  # noqa: BLE001 - a chore that fails is done again
                more = False
                log.warning("chore failed", chore=self.work.__name__, error=str(error))
            took_s = time.monotonic() - began


@dataclass(frozen=True, slots=True)
class Restating(Generic[StoreT]):
    """Asking again, every second: `work` is given the time until which `answered_by` has handled what it was asked.

    Questions stated since then still wait there; stating them again would only lengthen the queue.
    """

    work: Callable[[Unit[StoreT], datetime], Awaitable[None]]
    answered_by: str

    async def run(self, service: str, units: Units[StoreT], bus: Bus) -> None:
        """Do it until cancelled, for the questions that `service` has stated."""
        while going_on():
            await asyncio.sleep(EVERY_S)
            try:
                await self.once(service, units, bus)
            except Exception as error:  # noqa: BLE001 - what is overdue stays overdue, and is asked again
                log.info("cannot ask again now", answered_by=self.answered_by, error=str(error) or repr(error))

    async def once(self, service: str, units: Units[StoreT], bus: Bus) -> None:
        """Ask again what is overdue. Raises when the bus is away, or `answered_by` has no durable consumer yet."""
        handled_until = await bus.handled_until(Durable(stream_of(service), self.answered_by, ()))
        async with units.begin() as unit:
            await self.work(unit, handled_until)


async def prune_outbox(unit: Unit[Any]) -> bool:
    """Delete what was published long ago, in small steps that nobody feels."""
    return await outbox.prune(unit.connection, now=unit.now, limit=PRUNED_AT_ONCE) == PRUNED_AT_ONCE


async def prune_keys(unit: Unit[Any]) -> bool:
    """Delete idempotency keys that nobody will send again, in small steps that nobody feels."""
    return await commands.prune(unit.connection, now=unit.now, limit=PRUNED_AT_ONCE) == PRUNED_AT_ONCE


async def prune_dead_letters(unit: Unit[Any]) -> bool:
    """Delete dead letters that were attended to long ago, in small steps that nobody feels."""
    return await dead_letters.prune(unit.connection, now=unit.now, limit=PRUNED_AT_ONCE) == PRUNED_AT_ONCE


PRUNING: Final[tuple[Chore[Any], ...]] = tuple(
    Chore(prune, every_s=60.0) for prune in (prune_outbox, prune_keys, prune_dead_letters)
)
