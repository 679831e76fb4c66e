"""The relay: publishes what units of work have committed, at once; a sweep publishes what was left behind."""

import asyncio
import contextlib
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Final
from uuid import UUID

import structlog

from libs.messaging import outbox, own_stream
from libs.messaging.bus import Bus, BusUnavailable, StreamForgot
from libs.messaging.envelope import Outgoing
from libs.messaging.own_stream import OwnStream, Standing
from libs.storage import Database, is_transient
from libs.tasks import going_on
from libs.telemetry import Telemetry
from libs.telemetry.gauges import age_s
from libs.telemetry.messaging import sending

BATCH: Final = 256
"""Messages in one atomic batch. Larger batches gain little and delay their first message."""

HELD_AT_MOST: Final = 8_192
"""Messages kept in memory. The rest stay in the outbox until the sweep comes for them."""

MARK_EVERY_S: Final = 0.25
"""Nobody waits for a mark, so they are made together. What a crash leaves unmarked is published again, for nothing."""

MARKED_AT_ONCE: Final = 2_048
"""Messages after which no more batches are added to a transaction of marks."""

SWEEP_EVERY_S: Final = 1.0
LEFT_BEHIND: Final = timedelta(seconds=2)
"""A row older than this was missed by the fast path: a crash, a full queue, a broker that was away."""

SWEPT_AT_ONCE: Final = 1_000

STALLED_S: Final = 10.0
"""Once the oldest row that was never published is older, new work is refused until the outbox drains."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Stored:
    """Messages that the stream has acknowledged, and where it keeps each; they are still to be marked."""

    standing: Standing
    messages: Sequence[Outgoing]
    sequences: Sequence[int]


class Relay:
    """Publishes the outbox. Delivery is at least once: a row is marked only after the stream acknowledged it.

    Nothing waits for a mark: what was stored within a quarter of a second is marked together, and while it is, the next
    batches are published.

    With `pace_s` a batch is followed by the next one so many seconds later, unless it was full: for facts that nobody
    waits for.

    Messages of one process are published in the order of their commits while the bus is there; after an
    outage, oldest first. No order holds between processes, and nothing may rely on one.
    """

    def __init__(
        self,
        database: Database,
        bus: Bus,
        service: str,
        telemetry: Telemetry | None = None,
        *,
        pace_s: float = 0.0,
    ) -> None:
        self._pace_s = pace_s
        self._telemetry = telemetry or Telemetry()
        self._database = database
        self._bus = bus
        self.stream = OwnStream(database, bus, service)
        self._queue: deque[Outgoing] = deque()
        self._stored: deque[Stored] = deque()
        self._held: set[UUID] = set()
        self._wake = asyncio.Event()
        self._marking = asyncio.Event()
        self._hurried = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._oldest: datetime | None = None
        self._oldest_new: datetime | None = None

    @property
    def lag_s(self) -> float:
        """Age in seconds of the oldest row that the last sweep found unpublished; 0 when there is none."""
        return age_s(self._oldest)

    @property
    def stalled(self) -> bool:
        """Whether facts wait for so long that no more should be promised.

        What is published again, into a stream made anew, does not count: new facts overtake it.
        """
        return age_s(self._oldest_new) > STALLED_S

    def offer(self, messages: Sequence[Outgoing]) -> None:
        """Take over messages whose transaction has just been committed."""
        new = [message for message in messages if message.id not in self._held]
        for message in new[: max(0, HELD_AT_MOST - len(self._held))]:  # the sweep will find the rest
            self._queue.append(message)
            self._held.add(message.id)
        if self._queue:
            self._idle.clear()
            self._wake.set()

    async def run(self) -> None:
        """Publish until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._publish_forever())
            tasks.create_task(self._mark_forever())
            tasks.create_task(self._sweep_forever())
            tasks.create_task(self._watch_forever())

    async def flush(self, timeout_s: float) -> None:
        """Wait until everything taken over is published and marked, or `timeout_s` seconds are over.

        The next start sweeps up the rest.
        """
        self._hurried.set()
        try:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._idle.wait(), timeout_s)
        finally:
            self._hurried.clear()

    async def _publish_forever(self) -> None:
        pause_s = 0.0
        while going_on():
            await self._wake.wait()
            if not self._queue:
                self._wake.clear()
                continue
            batch = list(islice(self._queue, BATCH))
            try:
                stored = await self._store(batch)
            except Exception as error:
                # Unknown whether it is stored: the same ids go out again. Also for what we did not foresee:
                # a relay that dies would be silence.
                pause_s = longer(pause_s)
                expected = isinstance(error, BusUnavailable) or is_transient(error)
                log.warning("relay waits", waiting=len(self._queue), error=str(error), exc_info=not expected)
                await asyncio.sleep(pause_s)
            else:
                pause_s = 0.0
                for _ in batch:
                    self._queue.popleft()
                self._stored.append(stored)
                self._marking.set()
                if self._pace_s and len(batch) < BATCH:
                    await self._rest(self._pace_s)

    async def _mark_forever(self) -> None:
        pause_s = 0.0
        while going_on():
            await self._marking.wait()
            if not self._stored:
                self._marking.clear()
                if not self._queue:
                    self._idle.set()
                continue
            together = _together(self._stored)
            try:
                await self._mark(together)
            except StreamForgot:
                pass  # all marks were cleared, and the sweep publishes the rows again
            except Exception as error:
                pause_s = longer(pause_s)
                log.warning("marks wait", waiting=len(self._stored), error=str(error), exc_info=not is_transient(error))
                await asyncio.sleep(pause_s)
                continue
            pause_s = 0.0
            for stored in together:
                self._stored.popleft()
                self._held.difference_update(message.id for message in stored.messages)
            if sum(len(stored.messages) for stored in self._stored) < MARKED_AT_ONCE:
                await self._rest(MARK_EVERY_S)

    async def _rest(self, seconds: float) -> None:
        """Let something gather, unless somebody is in a hurry."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._hurried.wait(), seconds)

    async def _store(self, batch: Sequence[Outgoing]) -> Stored:
        """Have the stream keep messages."""
        try:
            with sending(self._telemetry, batch):
                standing = await self.stream.assured()
                sequences = await self._bus.publish(batch, above=standing.newest)
        except StreamForgot:
            self.stream.doubt()
            raise
        if len(sequences) != len(batch):
            raise ValueError(f"{len(batch)} messages were stored at {len(sequences)} places")
        self.stream.acknowledged(standing, max(sequences))
        log.debug("published", batch=len(batch))
        return Stored(standing, batch, sequences)

    async def _mark(self, together: Sequence[Stored]) -> None:
        """Mark what was stored under one standing."""
        marks = {
            message.id: sequence
            for stored in together
            for message, sequence in zip(stored.messages, stored.sequences, strict=True)
        }
        async with self._database.writing() as connection:
            await self.stream.mark(connection, together[0].standing, list(marks.items()), now=datetime.now(UTC))

    async def _watch_forever(self) -> None:
        """Look at the stream from time to time: one that was deleted alone says nothing."""
        while going_on():
            await asyncio.sleep(own_stream.CHECK_EVERY_S)
            with _survived("watch"):
                self.stream.doubt()
                await self.stream.assured()

    async def _sweep_forever(self) -> None:
        while going_on():
            with _survived("sweep"):
                while await self._sweep():
                    pass
            await asyncio.sleep(SWEEP_EVERY_S)

    async def _sweep(self) -> bool:
        """Publish what was left behind, oldest first, beside what is new; return whether there was any."""
        now = datetime.now(UTC)
        async with self._database.reading() as connection:
            left = await outbox.unpublished(connection, before=now - LEFT_BEHIND, limit=SWEPT_AT_ONCE)
            new = left[:1]
            if left and left[0].created_at < self.stream.begun_at:
                begun_at = self.stream.begun_at
                new = await outbox.unpublished(connection, before=now - LEFT_BEHIND, after=begun_at, limit=1)
        self._oldest = left[0].created_at if left else None
        self._oldest_new = new[0].created_at if new else None
        missed = [message for message in left if message.id not in self._held]
        if not self._bus.connected:
            return False
        if not missed:
            await self.stream.learn()
            return False
        log.info("sweep found unpublished facts", found=len(missed))
        for start in range(0, len(missed), BATCH):
            await self._mark([await self._store(missed[start : start + BATCH])])
        return True


def _together(waiting: Sequence[Stored]) -> list[Stored]:
    """Choose what is marked together: the oldest, and what was stored after it under the same incarnation."""
    incarnation = waiting[0].standing.incarnation
    together: list[Stored] = []
    number = 0
    for stored in waiting:
        if stored.standing.incarnation != incarnation or number >= MARKED_AT_ONCE:
            break
        together.append(stored)
        number += len(stored.messages)
    return together


def longer(pause_s: float) -> float:
    """Say how long to wait after one more failure: 0.05 s after the first, then twice as long, 0.5 s at most."""
    return min(max(pause_s * 2, 0.05), 0.5)


@contextlib.contextmanager
def _survived(what: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        expected = isinstance(error, BusUnavailable) or is_transient(error)
        log.warning("background work failed", what=what, error=str(error), exc_info=not expected)
