"""Gauges that need the database or the broker: looked up from time to time, never when somebody asks.

So a scrape costs nothing and answers while everything else is away; what could not be looked up is NaN.
"""

import asyncio
import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Generic, TypeVar

import structlog
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from libs.messaging.bus import Bus, Durable
from libs.messaging.tables import dead_letters
from libs.storage import Database
from libs.tasks import going_on
from libs.telemetry.metrics import Metrics

StoreT = TypeVar("StoreT")

EVERY_S: Final = 5.0
LOOK_WITHIN_S: Final = 3.0

log = structlog.get_logger()

Look = Callable[[], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Gauge(Generic[StoreT]):
    """A line of a service's table: a number to watch, and how to look it up in constant time."""

    name: str
    documentation: str
    read: Callable[[StoreT], Awaitable[float]]


def age_s(oldest: datetime | None) -> float:
    """Seconds since `oldest`; 0 when there is none."""
    return (datetime.now(UTC) - oldest).total_seconds() if oldest else 0.0


class Gauges:
    """The gauges of one process of a service."""

    def __init__(self, metrics: Metrics, service: str, database: Database, bus: Bus) -> None:
        self._metrics = metrics
        self._database = database
        self._bus = bus
        self._looks: list[Look] = []
        unattended = metrics.gauge("dead_letters_unattended", "Dead letters that nobody has attended to", "service")
        self._add(lambda: self._from_database(_unattended), unattended.labels(service).set)

    def add(self, gauge: Gauge[StoreT], store: Callable[[AsyncConnection], StoreT]) -> None:
        """Watch a number in the service's own tables."""
        made = self._metrics.gauge(gauge.name, gauge.documentation)
        self._add(lambda: self._from_database(lambda connection: gauge.read(store(connection))), made.set)

    def add_lag(self, durables: Sequence[Durable]) -> None:
        """Watch how far durable consumers are behind."""
        labels = ("stream", "consumer")
        lag = self._metrics.gauge("consumer_lag_messages", "Messages not yet delivered", *labels)
        unacknowledged = self._metrics.gauge(
            "consumer_ack_pending_messages", "Messages delivered and not yet acknowledged", *labels
        )
        for durable in durables:
            at = (durable.stream, durable.name)
            pending, in_hand = lag.labels(*at).set, unacknowledged.labels(*at).set
            self._looks.append(self._lag_of(durable, pending, in_hand))

    async def run(self) -> None:
        """Look everything up again and again, until cancelled."""
        while going_on():
            await self.look()
            await asyncio.sleep(EVERY_S)

    async def look(self) -> None:
        """Look everything up once."""
        for look in self._looks:
            await look()

    def _add(self, read: Callable[[], Awaitable[float]], show: Callable[[float], None]) -> None:
        async def look() -> None:
            show(await _or(math.nan, read))

        self._looks.append(look)

    def _lag_of(self, durable: Durable, pending: Callable[[float], None], in_hand: Callable[[float], None]) -> Look:
        async def look() -> None:
            lag = await _or(None, lambda: self._bus.lag(durable))
            pending(lag.pending if lag else math.nan)
            in_hand(lag.ack_pending if lag else math.nan)

        return look

    async def _from_database(self, read: Callable[[AsyncConnection], Awaitable[float]]) -> float:
        async with self._database.reading() as connection:
            return await read(connection)


async def _or(otherwise: Any, read: Callable[[], Awaitable[Any]]) -> Any:
    try:
        async with asyncio.timeout(LOOK_WITHIN_S):
            return await read()
    except Exception as error:  # noqa: BLE001 - what cannot be measured hurts nobody
        log.debug("cannot be measured", error=str(error) or repr(error))
        return otherwise


async def _unattended(connection: AsyncConnection) -> float:
    query = select(func.count()).select_from(dead_letters).where(dead_letters.c.attended_at.is_(None))
    return float((await connection.execute(query)).scalar_one())
