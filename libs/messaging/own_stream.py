"""A service's own stream, as its database knows it: the recovery from a broker that forgets.

The outbox holds everything the stream may hold, so a stream that lost something is made anew from it. Each time,
the database and the stream's metadata get the next *incarnation* number; a mark in the outbox counts for the
incarnation it was made under, and all marks are cleared when the next one begins.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

import structlog
from sqlalchemy import Row, case, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from libs.contracts import stream_of
from libs.messaging import outbox
from libs.messaging.bus import Bus, BusUnavailable, StreamForgot, StreamState
from libs.messaging.tables import outbox as messages
from libs.messaging.tables import streams
from libs.storage import Database
from libs.storage.sets import insert_new

CHECK_EVERY_S: Final = 30.0
"""How often the stream is looked at without any reason for doubt."""

OTHERS_TURN: Final = timedelta(seconds=10)
"""How long a replica that set out to make the stream anew is left to it before another takes over."""

MAKE_WITHIN_S: Final = 8.0
"""Less than `OTHERS_TURN`: whoever takes longer gives up, and begins again."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Standing:
    """What is known of the stream before something is sent to it."""

    incarnation: int
    newest: int
    """A sequence that it has acknowledged: what it stores from now on gets a higher one."""


class OwnStream:
    """Makes sure that what is published is published to the stream whose marks the outbox keeps.

    All replicas may do everything here at once. Who begins an incarnation is decided by a conditional update; only
    that process deletes and makes the stream under this number, and only once. A mark is stored only if its number
    is still that of the database, and a process publishes under a number only after it has seen it in the stream's
    metadata. So whatever order things happen in, a row that has a mark is in the stream of this number, or the next
    look finds that the stream is not that one, and all begins anew.
    """

    def __init__(self, database: Database, bus: Bus, service: str) -> None:
        self._database = database
        self._bus = bus
        self._service = service
        self._name = stream_of(service)
        self._standing: Standing | None = None  # None: in doubt
        self._seen = 0  # the newest incarnation that this process has seen made
        self._doubts = 0
        self._epoch = -1
        self._up_to_date = False
        self._looking = asyncio.Lock()
        self.begun_at = datetime.fromtimestamp(0, UTC)
        """When the incarnation in use was begun. Rows that are older and have no mark are published again."""

    async def assured(self) -> Standing:
        """Return what to publish under, after a look at the stream if there is any reason for doubt.

        Makes the stream when it is not there, and makes it anew when it is not the one the outbox knows. Raises
        `BusUnavailable` when that cannot be done now.
        """
        async with self._looking:
            while self._standing is None or self._epoch != self._bus.epoch:
                epoch, doubts = self._bus.epoch, self._doubts
                standing = await self._look()
                if doubts == self._doubts:
                    self._epoch, self._standing = epoch, standing
            return self._standing

    def doubt(self) -> None:
        """Look again before anything else is published."""
        self._doubts += 1
        self._standing = None

    async def learn(self) -> None:
        """Read how far other replicas have got, so that a stream that went back is noticed by each of them."""
        known = await self._known()
        if known and self._standing and known.incarnation == self._standing.incarnation:
            self._advance(known.sequence)

    async def mark(
        self, connection: AsyncConnection, standing: Standing, sequences: Sequence[tuple[UUID, int]], *, now: datetime
    ) -> None:
        """Record, in the caller's transaction, where the stream keeps messages that were sent under `standing`.

        Raises `StreamForgot` when another incarnation has begun meanwhile: they are to be published again.
        """
        newest_id, newest = max(sequences, key=lambda pair: pair[1])
        higher = streams.c.sequence < newest
        statement = (
            update(streams)
            .where(streams.c.name == self._name, streams.c.incarnation == standing.incarnation)
            .values(
                sequence=case((higher, newest), else_=streams.c.sequence),
                message_id=case((higher, newest_id), else_=streams.c.message_id),
            )
        )
        if not (await connection.execute(statement)).rowcount:  # its row lock keeps the next one from beginning
            self.doubt()
            raise StreamForgot(f"{self._name} is being made anew")
        await outbox.mark_published(connection, sequences, now=now)

    def acknowledged(self, standing: Standing, newest: int) -> None:
        """Take note of how far the stream has got: what it stores from now on gets a higher sequence."""
        if self._standing and self._standing.incarnation == standing.incarnation:
            self._advance(newest)

    def _advance(self, newest: int) -> None:
        if self._standing and newest > self._standing.newest:
            self._standing = Standing(self._standing.incarnation, newest)

    async def _look(self) -> Standing:
        # What is known is read first: the stream can only be further.
        known = await self._known() or await self._first(await self._bus.stream(self._service))
        state = await self._bus.stream(self._service)
        if state is None or not await self._is_intact(known, state):
            known = await self._make_anew(known, state)
        elif not self._up_to_date:
            await self._bus.ensure_stream(self._service, known.incarnation)
        self._up_to_date = True
        self._seen = known.incarnation
        self.begun_at = known.begun_at
        return Standing(known.incarnation, known.sequence)

    async def _known(self) -> Row[Any] | None:
        async with self._database.reading() as connection:
            return (await connection.execute(select(streams).where(streams.c.name == self._name))).one_or_none()

    async def _first(self, state: StreamState | None) -> Row[Any]:
        """Write down a stream that this database has not met. One that is there is kept, if nothing is missing."""
        async with self._database.writing() as connection:
            marked = select(messages.c.id, messages.c.sequence).where(messages.c.sequence.is_not(None))
            newest = (await connection.execute(marked.order_by(messages.c.sequence.desc()).limit(1))).one_or_none()
            row = {
                "name": self._name,
                "incarnation": max(state.incarnation, 1) if state else 0,
                "begun_at": datetime.fromtimestamp(0, UTC),
                "sequence": newest.sequence if newest else 0,
                "message_id": newest.id if newest else None,
            }
            await insert_new(connection, streams, [row], key="name")
        if state and not state.incarnation:
            await self._bus.ensure_stream(self._service, 1)
        known = await self._known()
        assert known is not None
        return known

    async def _is_intact(self, known: Row[Any], state: StreamState) -> bool:
        """Whether the stream is of the incarnation known, and still has the newest message that was marked."""
        if state.incarnation != known.incarnation:
            return False
        if known.sequence == 0 or state.first_sequence > known.sequence:
            return True  # nothing was marked, or what was has aged out
        return await self._bus.message_id_at(self._service, known.sequence) == str(known.message_id)

    async def _make_anew(self, known: Row[Any], state: StreamState | None) -> Row[Any]:
        there = state.incarnation if state else 0
        in_the_making = known.incarnation > max(there, self._seen)
        if in_the_making and datetime.now(UTC) - known.begun_at < OTHERS_TURN:
            raise BusUnavailable(f"{self._name} is being made by another replica")
        number = max(known.incarnation, there) + 1
        to_publish_again = await self._begin(known.incarnation, number)
        try:
            async with asyncio.timeout(MAKE_WITHIN_S):
                if state:
                    await self._bus.delete_stream(self._service)
                await self._bus.ensure_stream(self._service, number)
                made = await self._bus.stream(self._service)
        except TimeoutError as error:
            raise BusUnavailable(f"{self._name} was not made within {MAKE_WITHIN_S:.0f} s") from error
        known_now = await self._known()
        if made is None or known_now is None or {made.incarnation, known_now.incarnation} != {number}:
            raise BusUnavailable(f"{self._name} was made by another replica")
        say = log.warning if known.incarnation else log.info
        say("stream made", stream=self._name, incarnation=number, to_publish_again=to_publish_again)
        return known_now

    async def _begin(self, known: int, number: int) -> int:
        """Begin an incarnation: from here on no mark of another counts. Returns how many were cleared."""
        async with self._database.writing() as connection:
            begun = await connection.execute(
                update(streams)
                .where(streams.c.name == self._name, streams.c.incarnation == known)
                .values(incarnation=number, begun_at=datetime.now(UTC), sequence=0, message_id=None)
            )
            if not begun.rowcount:
                raise BusUnavailable(f"{self._name} is being made by another replica")
            cleared = await outbox.clear_marks(connection)
            # Others' patience begins now: to clear millions takes longer than that.
            mine = update(streams).where(streams.c.name == self._name)
            await connection.execute(mine.values(begun_at=datetime.now(UTC)))
            return cleared
