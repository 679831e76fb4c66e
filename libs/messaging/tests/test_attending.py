"""Attending to dead letters: a replay is one transaction with its record, has each effect once, and fails in full."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import AsyncConnection

from libs.contracts import Fact
from libs.contracts.billing import PaymentAccepted
from libs.contracts.orders import OrderCancelled, OrderPlaced
from libs.errors import Kind, Refusal
from libs.messaging import dead_letters
from libs.messaging.attending import Attendant, LeftToTheSweep, ReplayFailed
from libs.messaging.consumer import Listens
from libs.messaging.dead_letters import CannotAttend, Deed, id_of
from libs.messaging.envelope import Event, Origin, seal
from libs.messaging.tables import dead_letter_acts, outbox
from libs.messaging.tables import dead_letters as table
from libs.messaging.tests.stage import (
    effects,
    effects_in,
    have_effect,
    order_placed,
    rows,
    somebody_waits,
    spoil_commit,
)
from libs.messaging.tests.test_dead_letters import Given
from libs.messaging.unit import Unit, Units
from libs.storage import Database
from libs.tests.eventually import eventually
from libs.tracing import Trace

Events = Sequence[Event[Any]]
Work = Unit[AsyncConnection]


class Desk:
    """A service that has one effect for each order and answers it, and whoever attends to its dead letters."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.units = Units(database, lambda connection: connection, LeftToTheSweep())
        self.handled: list[Event[Any]] = []
        self.trouble: Callable[[Work], Awaitable[None]] | None = None

    def attendant(self, by: str = "ann") -> Attendant[AsyncConnection]:
        return Attendant(self.units, [Listens(OrderPlaced, self.on_orders_placed)], by=by)

    async def on_orders_placed(self, events: Events, work: Work) -> None:
        for event in events:
            self.handled.append(event)
            if event.fact.key not in await effects_of(work):  # keyed by its cause, as effects are
                await have_effect(work, event.fact.key)
                fact = PaymentAccepted(order_id=event.fact.key, user_id=event.fact.user_id, amount=1)
                work.publish(fact, cause=event)
        if self.trouble:
            await self.trouble(work)

    async def set_aside(self, fact: Fact, payload: bytes | None = None) -> str:
        """Have a message of this fact set aside; return the id of its dead letter."""
        sent = seal(fact, cause=Origin(Trace.start()), now=datetime.now(UTC))
        given = Given(sent.subject, sent.payload if payload is None else payload, sent.headers)
        async with self.units.begin() as work:
            await dead_letters.set_aside(work.connection, "billing", given, ValueError("no"), work.now)
        return id_of("billing", str(sent.id), given.subject, given.payload)

    async def attended(self) -> bool:
        (letter,) = await rows(self.database, table)
        return letter.attended_at is not None

    async def acts(self) -> list[tuple[str, str, str | None]]:
        return [(act.by, act.what, act.note) for act in await rows(self.database, dead_letter_acts)]


async def effects_of(work: Work) -> set[UUID]:
    return {row.id for row in await work.connection.execute(effects.select())}


@pytest.fixture
async def desk(database: Database) -> Desk:
    return Desk(database)


async def test_a_replay_handles_the_message_under_its_own_id_and_records_who_did_it(desk: Desk) -> None:
    order = order_placed()
    letter_id = await desk.set_aside(order)

    await desk.attendant("ann").replay(letter_id)

    (event,) = desk.handled
    (letter,) = await rows(desk.database, table)
    assert (event.fact, event.id, event.trace.trace_id) == (order, letter.event_id, letter.trace_id)
    assert await effects_in(desk.database) == {order.order_id: 1}
    assert [row.subject for row in await rows(desk.database, outbox)] == [f"billing.payment.accepted.{order.order_id}"]
    assert await desk.attended()
    assert await desk.acts() == [("ann", "replayed", None)]


async def test_a_second_replay_is_refused_and_changes_nothing_even_when_it_is_insisted_on(desk: Desk) -> None:
    order = order_placed()
    letter_id = await desk.set_aside(order)
    await desk.attendant().replay(letter_id)

    with pytest.raises(CannotAttend, match="attended to it at"):
        await desk.attendant().replay(letter_id)
    assert len(desk.handled) == 1

    await desk.attendant("bob").replay(letter_id, again=True)
    assert len(desk.handled) == 2
    assert await effects_in(desk.database) == {order.order_id: 1}
    assert len(await rows(desk.database, outbox)) == 1
    assert await desk.acts() == [("ann", "replayed", None), ("bob", "replayed", None)]


async def refuse(_work: Work) -> None:
    raise Refusal("no_such_thing", "not in this world", Kind.NOT_FOUND)


@pytest.mark.parametrize("trouble", [refuse, spoil_commit])
async def test_a_replay_that_fails_is_recorded_and_changes_nothing_else(
    desk: Desk, trouble: Callable[[Work], Awaitable[None]]
) -> None:
    letter_id = await desk.set_aside(order_placed())
    desk.trouble = trouble

    with pytest.raises(ReplayFailed) as failure:
        await desk.attendant().replay(letter_id)

    assert await effects_in(desk.database) == {}
    assert await rows(desk.database, outbox) == []
    assert not await desk.attended()
    assert await desk.acts() == [("ann", "replay_failed", str(failure.value))]
    desk.trouble = None
    await desk.attendant().replay(letter_id)
    assert [what for _, what, _ in await desk.acts()] == ["replay_failed", "replayed"]


async def test_trouble_that_passes_is_nobodys_act(desk: Desk) -> None:
    letter_id = await desk.set_aside(order_placed())

    async def go_away(_work: Work) -> None:
        raise OperationalError("select", {}, Exception("the database is away"))

    desk.trouble = go_away
    with pytest.raises(OperationalError):
        await desk.attendant().replay(letter_id)

    assert not await desk.attended()
    assert await desk.acts() == []


@pytest.mark.parametrize("payload", [b"", b"{", b"[]", b"\xff\0", b'{"order_id": "\\u0000"}'])
async def test_what_nobody_can_read_fails_with_the_reason(desk: Desk, payload: bytes) -> None:
    letter_id = await desk.set_aside(order_placed(), payload)

    with pytest.raises(ReplayFailed, match="unreadable_message: not a "):
        await desk.attendant().replay(letter_id)

    assert desk.handled == []
    assert [what for _, what, _ in await desk.acts()] == ["replay_failed"]


async def test_what_the_service_no_longer_listens_to_fails_with_the_reason(desk: Desk) -> None:
    order = order_placed()
    cancelled = OrderCancelled(order_id=order.order_id, user_id=order.user_id, price=order.price)
    letter_id = await desk.set_aside(cancelled)

    with pytest.raises(ReplayFailed, match="unknown_message"):
        await desk.attendant().replay(letter_id)


async def test_a_discard_keeps_its_reason_and_is_final(desk: Desk) -> None:
    letter_id = await desk.set_aside(order_placed())

    await desk.attendant().discard(letter_id, "a test order")

    assert await desk.attended()
    assert await desk.acts() == [("ann", "discarded", "a test order")]
    for attending in (desk.attendant().discard(letter_id, "again"), desk.attendant().replay(letter_id)):
        with pytest.raises(CannotAttend, match="attended to it at"):
            await attending
    assert desk.handled == []


async def test_one_that_is_not_there_is_named(desk: Desk) -> None:
    for attending in (desk.attendant().discard("0" * 32, "x"), desk.attendant().replay("0" * 32)):
        with pytest.raises(CannotAttend, match="no such dead letter"):
            await attending


async def test_of_two_people_who_attend_at_once_one_wins(desk: Desk) -> None:
    order = order_placed()
    letter_id = await desk.set_aside(order)
    at_work, may_commit = asyncio.Event(), asyncio.Event()

    async def wait(_work: Work) -> None:
        at_work.set()
        await may_commit.wait()

    desk.trouble = wait
    first = asyncio.create_task(desk.attendant("ann").replay(letter_id))
    await at_work.wait()
    others = [
        asyncio.create_task(desk.attendant("bob").replay(letter_id)),
        asyncio.create_task(desk.attendant("eve").discard(letter_id, "mine")),
    ]
    await eventually(lambda: desk.database.is_sqlite or somebody_waits(desk.database))
    may_commit.set()

    await first
    for outcome in await asyncio.gather(*others, return_exceptions=True):
        assert isinstance(outcome, CannotAttend)
    assert len(desk.handled) == 1
    assert await desk.acts() == [("ann", Deed.REPLAYED, None)]
