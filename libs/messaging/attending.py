"""Attending to dead letters: a message that was set aside is handled after all, or given up for good."""

from collections.abc import Sequence
from typing import Generic, TypeVar

import orjson

from libs.messaging import dead_letters
from libs.messaging.consumer import Listens, is_passing, read_event, table_of
from libs.messaging.dead_letters import Act, CannotAttend, Deed
from libs.messaging.envelope import Outgoing
from libs.messaging.unit import Unit, Units

StoreT = TypeVar("StoreT")


class ReplayFailed(Exception):
    """The handler did not take the message this time either. That is recorded, and nothing else has changed."""


class LeftToTheSweep:
    """Stands in for the relay where there is no bus: the sweep of the running service publishes the outbox."""

    def offer(self, messages: Sequence[Outgoing]) -> None:
        """Leave the messages where they are."""


class Attendant(Generic[StoreT]):
    """Attends to the dead letters of one service, in the name of `by`. Needs its database, and no bus."""

    def __init__(self, units: Units[StoreT], table: Sequence[Listens[StoreT]], *, by: str) -> None:
        self._units = units
        self._table = table_of(table)
        self._by = by

    async def replay(self, letter_id: str, *, again: bool = False) -> None:
        """Handle the message as if it were delivered now, under its own event id; attend to it in that transaction.

        `again` also takes one that was attended to. Since effects are keyed by their cause, what was done before
        is not done twice. Raises `CannotAttend`; `ReplayFailed`; and as it is what passes by itself, such as a
        database that went away, which is not recorded.
        """
        try:
            async with self._units.begin() as unit:
                await self._handle(letter_id, unit, again=again)
                await dead_letters.record(unit.connection, letter_id, Act(unit.now, self._by, Deed.REPLAYED))
        except Exception as error:
            if isinstance(error, CannotAttend) or is_passing(error):
                raise
            detail = dead_letters.described(error)
            async with self._units.begin() as unit:
                act = Act(unit.now, self._by, Deed.REPLAY_FAILED, detail)
                await dead_letters.record(unit.connection, letter_id, act)
            raise ReplayFailed(detail) from error

    async def discard(self, letter_id: str, reason: str) -> None:
        """Give the message up, for a reason that is kept. Raises `CannotAttend`."""
        async with self._units.begin() as unit:
            await dead_letters.lock(unit.connection, letter_id, again=False)
            await dead_letters.record(unit.connection, letter_id, Act(unit.now, self._by, Deed.DISCARDED, reason))

    async def _handle(self, letter_id: str, unit: Unit[StoreT], *, again: bool) -> None:
        letter = await dead_letters.lock(unit.connection, letter_id, again=again)
        event = read_event(self._table, letter.subject, letter.payload, orjson.loads(letter.headers))
        await self._table[event.fact.type].handler([event], unit)
