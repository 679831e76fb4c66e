"""Consumers: a batch is one unit of work, acknowledged after its commit; one bad message stops nobody."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, cast
from uuid import UUID

import pytest
from sqlalchemy import text, update
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError
from sqlalchemy.ext.asyncio import AsyncConnection

from libs.contracts import Fact
from libs.contracts.billing import PaymentAccepted
from libs.contracts.orders import OrderCancelled, OrderPlaced
from libs.errors import Kind, Refusal, unavailable
from libs.ids import uuid7
from libs.messaging import consumer, unit
from libs.messaging.bus import Bus, Delivery
from libs.messaging.consumer import MAX_ATTEMPTS, TRIES, Consumer, Listens, durables
from libs.messaging.envelope import Event, Origin, Outgoing, seal
from libs.messaging.memory import MemoryBroker, MemoryBus
from libs.messaging.tables import dead_letters
from libs.messaging.tests.conftest import Server
from libs.messaging.tests.stage import (
    Stage,
    effects,
    effects_in,
    have_effect,
    message,
    mislaid,
    order_placed,
    rows,
    somebody_waits,
    spoil_commit,
)
from libs.messaging.tests.test_dead_letters import Given
from libs.messaging.unit import Unit
from libs.storage import Database
from libs.tests.eventually import eventually
from libs.tracing import Trace

Events = Sequence[Event[Any]]
Work = Unit[AsyncConnection]


SQLITE_ONLY = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
"""For tests whose outcome no database has a say in."""


class Handlers:
    """Have one effect for each event, and then whatever trouble a test makes; remember what they were given."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, list[UUID]]] = []
        self.units: list[Work] = []
        self.trouble: Callable[[Events, Work], Awaitable[None]] = no_trouble

    @property
    def table(self) -> list[Listens[AsyncConnection]]:
        return [Listens(OrderPlaced, self.on_orders_placed), Listens(OrderCancelled, self.on_orders_cancelled)]

    async def on_orders_placed(self, events: Events, work: Work) -> None:
        await self._handle("placed", events, work)

    async def on_orders_cancelled(self, events: Events, work: Work) -> None:
        await self._handle("cancelled", events, work)

    async def _handle(self, name: str, events: Events, work: Work) -> None:
        self.calls.append((name, [event.fact.key for event in events]))
        self.units.append(work)
        await have_effect(work, *(event.fact.key for event in events))
        await self.trouble(events, work)


async def no_trouble(_events: Events, _work: Work) -> None:
    pass


def fails_for(bad: UUID, error: BaseException) -> Callable[[Events, Work], Awaitable[None]]:
    async def trouble(events: Events, _work: Work) -> None:
        if any(event.fact.key == bad for event in events):
            raise error

    return trouble


@pytest.fixture
async def broker() -> MemoryBroker:
    broker = MemoryBroker()
    bus = MemoryBus(broker)
    await bus.ensure_stream("orders")
    await bus.ensure_stream("billing")
    return broker


@pytest.fixture
async def stage(database: Database, broker: MemoryBroker) -> AsyncIterator[Stage]:
    stage = Stage(database, MemoryBus(broker))
    async with stage.relaying():
        yield stage


@pytest.fixture
def handlers() -> Handlers:
    return Handlers()


def consumer_of(
    stage: Stage, handlers: Handlers, *, batch_limit: int = 256, pace_s: float = 0.0
) -> Consumer[AsyncConnection]:
    (durable,) = durables("billing", handlers.table)
    return Consumer("billing", durable, handlers.table, stage.units, batch_limit=batch_limit, pace_s=pace_s)


@asynccontextmanager
async def consuming(
    stage: Stage, handlers: Handlers, *, batch_limit: int = 256
) -> AsyncIterator[Consumer[AsyncConnection]]:
    """Consume until the end of the block, and stop in good order."""
    consumer = consumer_of(stage, handlers, batch_limit=batch_limit)
    consuming = asyncio.create_task(consumer.run(stage.bus))
    try:
        yield consumer
    finally:
        consumer.stop()
        async with asyncio.timeout(10):
            await consuming


def sealed(fact: Fact) -> Outgoing:
    return seal(fact, cause=Origin(Trace.start()), now=datetime.now(UTC))


async def publish(bus: Bus, *facts: Fact) -> None:
    await bus.publish([sealed(fact) for fact in facts])


def orders(count: int) -> list[OrderPlaced]:
    return [order_placed() for _ in range(count)]


def cancelled(order: OrderPlaced) -> OrderCancelled:
    return OrderCancelled(order_id=order.order_id, user_id=order.user_id, price=order.price)


def unanswered(broker: MemoryBroker) -> dict[int, int]:
    """What was delivered and is neither acknowledged nor terminated: sequences, with the attempts so far."""
    progress = broker.streams["ORDERS"].durables.get("billing")
    return {sequence: progress.attempts[sequence] for sequence in progress.due} if progress else {}


def all_done(broker: MemoryBroker) -> bool:
    """Whether everything was delivered, and is acknowledged or terminated."""
    stream = broker.streams["ORDERS"]
    progress = stream.durables.get("billing")
    return progress is not None and progress.position == len(stream.messages) and not progress.due


def attempts(broker: MemoryBroker) -> list[int]:
    """How often each message was delivered."""
    return list(broker.streams["ORDERS"].durables["billing"].attempts.values())


async def dead(database: Database) -> Sequence[Any]:
    return await rows(database, dead_letters)


async def had(database: Database, ids: set[UUID]) -> bool:
    """Whether exactly these effects were had, each once."""
    return await effects_in(database) == dict.fromkeys(ids, 1)


# Batches


async def test_a_batch_is_one_unit_of_work(stage: Stage, broker: MemoryBroker, handlers: Handlers) -> None:
    facts = orders(5)
    await publish(stage.bus, *facts)

    async with consuming(stage, handlers):
        await eventually(lambda: all_done(broker))

    assert handlers.calls == [("placed", [fact.order_id for fact in facts])]
    assert await effects_in(stage.database) == {fact.order_id: 1 for fact in facts}


@SQLITE_ONLY
async def test_a_batch_is_no_larger_than_its_limit(stage: Stage, broker: MemoryBroker, handlers: Handlers) -> None:
    facts = orders(7)
    await publish(stage.bus, *facts)

    async with consuming(stage, handlers, batch_limit=3):
        await eventually(lambda: all_done(broker))

    assert [len(ids) for _, ids in handlers.calls] == [3, 3, 1]
    assert [order_id for _, ids in handlers.calls for order_id in ids] == [fact.order_id for fact in facts]


async def test_the_handlers_of_one_batch_work_in_the_order_of_the_table_in_one_unit(
    stage: Stage, broker: MemoryBroker, handlers: Handlers
) -> None:
    first, second = orders(2)
    await publish(stage.bus, cancelled(first), second, first, cancelled(second))

    async with consuming(stage, handlers):
        await eventually(lambda: all_done(broker))

    assert handlers.calls == [
        ("placed", [second.order_id, first.order_id]),
        ("cancelled", [first.order_id, second.order_id]),
    ]
    assert handlers.units[0] is handlers.units[1]


async def test_a_handler_that_fails_takes_back_what_the_handlers_before_it_did(
    stage: Stage, broker: MemoryBroker, handlers: Handlers
) -> None:
    (order,) = orders(1)
    other = cancelled(order_placed())
    seen: list[dict[UUID, int]] = []

    async def trouble(events: Events, work: Work) -> None:
        if len(handlers.calls) == 2:
            raise ZeroDivisionError
        if len(handlers.calls) == 3:  # the first message, alone
            seen.append(await effects_in(stage.database))

    handlers.trouble = trouble
    await publish(stage.bus, order, other)

    async with consuming(stage, handlers):
        await eventually(lambda: all_done(broker))

    assert seen == [{}]
    assert await effects_in(stage.database) == {order.order_id: 1, other.order_id: 1}


async def test_what_a_handler_states_is_published_after_the_commit(
    stage: Stage, broker: MemoryBroker, handlers: Handlers
) -> None:
    facts = orders(3)

    async def answer(events: Events, work: Work) -> None:
        for event in events:
            order: OrderPlaced = event.fact
            answer = PaymentAccepted(order_id=order.order_id, user_id=order.user_id, amount=order.price)
            work.publish(answer, cause=event)

    handlers.trouble = answer
    await publish(stage.bus, *facts)

    async with consuming(stage, handlers):
        await eventually(lambda: len(broker.stored("billing")) == 3)

    assert [one.subject for one in broker.stored("billing")] == [
        f"billing.payment.accepted.{fact.order_id}" for fact in facts
    ]
    questions = {Trace.parse(one.headers["traceparent"]).trace_id for one in broker.stored("orders")}
    answers = {Trace.parse(one.headers["traceparent"]).trace_id for one in broker.stored("billing")}
    assert answers == questions


async def test_a_service_has_one_durable_consumer_a_stream_named_after_itself(handlers: Handlers) -> None:
    table = [*handlers.table, Listens(PaymentAccepted, handlers.on_orders_placed)]

    assert [(one.stream, one.name, one.subjects) for one in durables("letters", table)] == [
        ("ORDERS", "letters", ("orders.order.placed.*", "orders.order.cancelled.*")),
        ("BILLING", "letters", ("billing.payment.accepted.*",)),
    ]


# Acknowledgements


async def test_nothing_is_acknowledged_before_the_commit(
    stage: Stage, broker: MemoryBroker, handlers: Handlers
) -> None:
    may_commit, handled = asyncio.Event(), asyncio.Event()

    async def wait(_events: Events, _work: Work) -> None:
        handled.set()
        await may_commit.wait()

    handlers.trouble = wait
    await publish(stage.bus, *orders(2))

    async with consuming(stage, handlers):
        await handled.wait()
        assert unanswered(broker) == {1: 1, 2: 1}
        assert await effects_in(stage.database) == {}

        may_commit.set()
        await eventually(lambda: all_done(broker))


async def test_a_commit_that_fails_acknowledges_nothing_and_the_message_comes_again(
    stage: Stage, broker: MemoryBroker, handlers: Handlers
) -> None:
    (order,) = orders(1)

    async def trouble(_events: Events, work: Work) -> None:
        if len(handlers.calls) <= TRIES:
            await spoil_commit(work)

    handlers.trouble = trouble
    await publish(stage.bus, order)

    async with consuming(stage, handlers):
        await eventually(lambda: all_done(broker))

    assert attempts(broker) == [2]
    assert handlers.calls == [("placed", [order.order_id])] * (TRIES + 1)
    assert await effects_in(stage.database) == {order.order_id: 1}
    assert await dead(stage.database) == []


async def test_what_nobody_waits_for_is_handled_together_and_a_full_batch_at_once(
    stage: Stage, handlers: Handlers
) -> None:
    first, *others = orders(6)
    await publish(stage.bus, first)
    consumer = consumer_of(stage, handlers, batch_limit=3, pace_s=3600)
    consuming = asyncio.create_task(consumer.run(stage.bus))
    await eventually(lambda: len(handlers.calls) == 1)  # while little happens, at once
    await publish(stage.bus, *others)
    consumer.stop()  # ends its rest, too
    async with asyncio.timeout(10):
        await consuming
    assert len(handlers.calls) == 1

    consumer = consumer_of(stage, handlers, batch_limit=2, pace_s=3600)
    consuming = asyncio.create_task(consumer.run(stage.bus))
    await eventually(lambda: len(handlers.calls) == 4)
    consumer.stop()
    async with asyncio.timeout(10):
        await consuming
    assert [len(ids) for _, ids in handlers.calls] == [1, 2, 2, 1]


async def test_a_race_that_was_lost_is_run_again_at_once(
    stage: Stage, broker: MemoryBroker, handlers: Handlers
) -> None:
    first, second = orders(2)

    async def trouble(_events: Events, work: Work) -> None:
        if len(handlers.calls) < TRIES:
            await spoil_commit(work)

    handlers.trouble = trouble
    await publish(stage.bus, first, second)

    async with consuming(stage, handlers):
        await eventually(lambda: all_done(broker))

    assert handlers.calls == [("placed", [first.order_id, second.order_id])] * TRIES
    assert attempts(broker) == [1, 1]
    assert await effects_in(stage.database) == {first.order_id: 1, second.order_id: 1}


async def test_a_batch_whose_commit_fails_is_handled_one_by_one(
    stage: Stage, broker: MemoryBroker, handlers: Handlers
) -> None:
    facts = orders(3)

    async def trouble(events: Events, work: Work) -> None:
        if len(events) > 1:
            await spoil_commit(work)

    handlers.trouble = trouble
    await publish(stage.bus, *facts)

    async with consuming(stage, handlers):
        await eventually(lambda: all_done(broker))

    assert [len(ids) for _, ids in handlers.calls] == [*[3] * TRIES, 1, 1, 1]
    assert attempts(broker) == [1, 1, 1]
    assert await effects_in(stage.database) == {fact.order_id: 1 for fact in facts}


# Bad messages


@pytest.mark.parametrize("error", [ZeroDivisionError(), IntegrityError("insert", {}, Exception())])
async def test_a_message_that_fails_does_not_hold_up_the_others(
    stage: Stage, broker: MemoryBroker, handlers: Handlers, error: Exception
) -> None:
    facts = orders(5)
    bad = facts[2]
    handlers.trouble = fails_for(bad.order_id, error)
    await publish(stage.bus, *facts)

    later = order_placed()
    good = {fact.order_id for fact in (*facts, later) if fact is not bad}
    async with consuming(stage, handlers):
        await eventually(lambda: unanswered(broker) == {3: 1})
        await publish(stage.bus, later)
        await eventually(lambda: had(stage.database, good))
        assert await dead(stage.database) == []

        handlers.trouble = no_trouble
        await eventually(lambda: all_done(broker))

    assert await had(stage.database, good | {bad.order_id})
    assert attempts(broker)[2] >= 2


async def delivered_before(broker: MemoryBroker, handlers: Handlers, times: int) -> None:
    """Have the first message delivered, and given back, a number of times."""
    subscription = await MemoryBus(broker).subscribe(durables("billing", handlers.table)[0])
    for _ in range(times):
        (delivery,) = await subscription.next_batch(1)
        await delivery.nak(0)


async def test_the_twentieth_attempt_without_an_outcome_makes_a_dead_letter(
    stage: Stage, broker: MemoryBroker, handlers: Handlers
) -> None:
    (order,) = orders(1)
    handlers.trouble = fails_for(order.order_id, ZeroDivisionError("by no means"))
    await publish(stage.bus, order)
    await delivered_before(broker, handlers, MAX_ATTEMPTS - 1)

    async with consuming(stage, handlers):
        await eventually(lambda: all_done(broker))

    (letter,) = await dead(stage.database)
    assert (letter.attempts, letter.error) == (20, "ZeroDivisionError: by no means")
    assert attempts(broker) == [20]
    assert await effects_in(stage.database) == {}


@SQLITE_ONLY
async def test_the_nineteenth_attempt_is_not_the_last(stage: Stage, broker: MemoryBroker, handlers: Handlers) -> None:
    (order,) = orders(1)
    handlers.trouble = fails_for(order.order_id, ZeroDivisionError())
    await publish(stage.bus, order)
    await delivered_before(broker, handlers, MAX_ATTEMPTS - 2)
    progress = broker.streams["ORDERS"].durables["billing"]
    now = asyncio.get_running_loop().time()

    async with consuming(stage, handlers):
        # Given back for half a minute: the longest pause.
        await eventually(lambda: handlers.calls != [] and now + 28 < progress.due.get(1, 0) < now + 32)

    assert unanswered(broker) == {1: 19}
    assert await dead(stage.database) == []


class Killed(BaseException):
    """The process is gone, whatever it was about to do."""


async def lives_until_killed(stage: Stage, handlers: Handlers, done: Callable[[], bool]) -> bool:
    """Consume until everything is done; return False when the process dies before."""
    consuming = asyncio.create_task(consumer_of(stage, handlers).run(stage.bus))
    await eventually(lambda: done() or consuming.done())
    with contextlib.suppress(Killed):
        if not consuming.done():
            consuming.cancel()
            await asyncio.wait({consuming})
            return True
        consuming.result()
    return False


async def test_what_ends_its_process_each_time_is_set_aside_and_takes_no_neighbour_with_it(
    stage: Stage, broker: MemoryBroker, handlers: Handlers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consumer, "GATHER_S", 0.01)
    broker.ack_wait_s = 0.01
    facts = orders(9)
    handlers.trouble = fails_for(facts[4].order_id, Killed())
    await publish(stage.bus, *facts)

    lives = 1
    while not await lives_until_killed(stage, handlers, lambda: all_done(broker)):
        lives += 1

    (letter,) = await dead(stage.database)
    assert (letter.subject, letter.attempts) == (facts[4].subject, MAX_ATTEMPTS + 1)
    assert "not even to an error" in letter.error
    assert lives == MAX_ATTEMPTS + 1
    assert await had(stage.database, {fact.order_id for fact in facts if fact != facts[4]})


class Line:
    """A place in the queue that hands out what it is given, batch by batch, and notes what happens."""

    def __init__(self, *batches: Sequence["Handed"]) -> None:
        self.batches = list(batches)
        self.seen: list[str] = []
        self.begun = False
        for delivery in (one for batch in batches for one in batch):
            delivery.seen = self.seen

    async def next_batch(self, _limit: int) -> Sequence[Delivery]:
        if self.begun and not self.batches:
            await asyncio.Event().wait()
        self.begun = True
        return self.batches.pop(0)

    def held(self) -> Sequence[Delivery]:
        return [one for batch in self.batches for one in batch] if self.begun else []

    async def settle(self) -> None:
        self.seen.append("settled")

    async def subscribe(self, _durable: Any) -> "Line":
        return self

    async def close(self) -> None: ...


class Handed(Given):
    """A delivery of a `Line`."""

    seen: list[str]

    async def ack(self) -> None:
        self.seen.append("acknowledged")


def handed(fact: Fact, attempt: int) -> Handed:
    sent = sealed(fact)
    return Handed(sent.subject, sent.payload, sent.headers, attempt=attempt)


@SQLITE_ONLY
async def test_the_broker_knows_what_is_done_before_the_next_suspect_is_tried(stage: Stage, handlers: Handlers) -> None:
    line = Line([handed(fact, attempt) for fact, attempt in zip(orders(4), (1, 3, 3, 19), strict=True)])

    async def note(_events: Events, _work: Work) -> None:
        line.seen.append("handled")

    handlers.trouble = note
    consuming = asyncio.create_task(consumer_of(stage, handlers).run(cast("Any", line)))
    await eventually(lambda: line.seen.count("acknowledged") == 4)
    consuming.cancel()

    assert line.seen == ["handled", "acknowledged", *(["settled", "handled", "acknowledged"] * 3)]


@SQLITE_ONLY
async def test_a_suspect_waits_for_those_that_were_in_hand_with_it(stage: Stage, handlers: Handlers) -> None:
    bad, other, new = orders(3)
    line = Line([handed(bad, 20)], [handed(other, 20), handed(new, 1)])

    consuming = asyncio.create_task(consumer_of(stage, handlers).run(cast("Any", line)))
    await eventually(lambda: line.seen.count("acknowledged") == 3)
    consuming.cancel()

    assert handlers.calls[0] == ("placed", [new.order_id])
    assert sorted(handlers.calls[1:]) == sorted([("placed", [bad.order_id]), ("placed", [other.order_id])])


async def test_a_message_that_is_refused_by_its_own_rules_is_set_aside_at_once(
    stage: Stage, broker: MemoryBroker, handlers: Handlers
) -> None:
    facts = orders(3)
    handlers.trouble = fails_for(facts[1].order_id, Refusal("no_such_thing", "not in this world", Kind.NOT_FOUND))
    await publish(stage.bus, *facts)

    async with consuming(stage, handlers):
        await eventually(lambda: all_done(broker))

    (letter,) = await dead(stage.database)
    assert (letter.subject, letter.error) == (facts[1].subject, "Refusal: no_such_thing: not in this world")
    assert attempts(broker) == [1, 1, 1]
    assert set(await effects_in(stage.database)) == {facts[0].order_id, facts[2].order_id}


def unreadable() -> Outgoing:
    """An order without a price."""
    sent = sealed(order_placed())
    fields = json.loads(sent.payload)
    del fields["price"]
    return replace(sent, payload=json.dumps(fields).encode())


async def test_an_unreadable_message_becomes_a_dead_letter_and_is_announced(
    stage: Stage, broker: MemoryBroker, handlers: Handlers
) -> None:
    bad = unreadable()
    await stage.bus.publish([bad])

    async with consuming(stage, handlers):
        await eventually(lambda: all_done(broker))
        await eventually(lambda: bool(broker.stored("billing")))

    (letter,) = await dead(stage.database)
    assert (letter.event_id, letter.subject, letter.payload) == (str(bad.id), bad.subject, bad.payload)
    assert json.loads(letter.headers) == bad.headers
    assert letter.error.startswith("Refusal: unreadable_message: not a orders.order.placed: price: ")
    assert (letter.attempts, letter.attended_at) == (1, None)
    assert letter.trace_id == Trace.parse(bad.headers["traceparent"]).trace_id
    (announcement,) = broker.stored("billing")
    assert announcement.subject == f"billing.dead.order.{bad.subject.rsplit('.', 1)[-1]}"
    assert json.loads(announcement.payload) == {
        "event_id": str(bad.id),
        "subject": bad.subject,
        "error": letter.error,
    }
    assert announcement.headers["ce-type"] == "billing.dead.order"
    assert Trace.parse(announcement.headers["traceparent"]).trace_id == letter.trace_id
    assert handlers.calls == []


async def test_an_unreadable_message_does_not_break_its_batch(
    stage: Stage, broker: MemoryBroker, handlers: Handlers
) -> None:
    first, last = orders(2)
    await stage.bus.publish([sealed(first), unreadable(), sealed(last)])

    async with consuming(stage, handlers):
        await eventually(lambda: all_done(broker))

    assert handlers.calls == [("placed", [first.order_id, last.order_id])]
    assert len(await dead(stage.database)) == 1


async def test_a_subject_that_does_not_match_its_payload_makes_a_dead_letter(
    stage: Stage, broker: MemoryBroker, handlers: Handlers
) -> None:
    sent = sealed(order_placed())
    await stage.bus.publish([replace(sent, subject=f"orders.order.placed.{uuid7()}")])

    async with consuming(stage, handlers):
        await eventually(lambda: all_done(broker))

    (letter,) = await dead(stage.database)
    assert "unknown_message" in letter.error
    assert handlers.calls == []


async def test_a_message_without_an_id_is_set_aside_by_its_place_in_the_stream(
    stage: Stage, broker: MemoryBroker, handlers: Handlers
) -> None:
    anonymous = replace(unreadable(), headers={})
    await stage.bus.publish([anonymous, anonymous])

    async with consuming(stage, handlers):
        await eventually(lambda: all_done(broker))

    assert {letter.event_id for letter in await dead(stage.database)} == {"ORDERS/1", "ORDERS/2"}


async def test_a_message_that_comes_again_after_it_was_set_aside_is_announced_once(
    stage: Stage, broker: MemoryBroker, handlers: Handlers
) -> None:
    bad = unreadable()
    await stage.bus.publish([bad, replace(bad, headers={**bad.headers, "Nats-Msg-Id": "another"})])

    async with consuming(stage, handlers):
        await eventually(lambda: all_done(broker))
        (letter,) = await dead(stage.database)
        last = unreadable()
        await stage.bus.publish([last])
        await eventually(lambda: len(broker.stored("billing")) == 2)

    announced = [json.loads(one.payload)["event_id"] for one in broker.stored("billing")]
    assert announced == [letter.event_id, str(last.id)]


async def test_two_bad_messages_that_claim_one_id_are_both_kept(
    stage: Stage, broker: MemoryBroker, handlers: Handlers
) -> None:
    bad = unreadable()
    others = (replace(bad, payload=b"[]"), replace(bad, subject=f"orders.order.placed.{uuid7()}"))
    await stage.bus.publish([replace(one, headers={"ce-id": str(bad.id)}) for one in (bad, *others)])

    async with consuming(stage, handlers):
        await eventually(lambda: all_done(broker))
        await eventually(lambda: len(broker.stored("billing")) == 3)

    letters = await dead(stage.database)
    assert {letter.event_id for letter in letters} == {str(bad.id)}
    assert {(letter.subject, letter.payload) for letter in letters} == {
        (one.subject, one.payload) for one in (bad, *others)
    }


async def test_a_message_that_a_broker_that_forgot_delivers_again_is_one_dead_letter(
    stage: Stage, broker: MemoryBroker, handlers: Handlers
) -> None:
    bad = unreadable()
    await stage.bus.publish([bad])
    async with consuming(stage, handlers):
        await eventually(lambda: all_done(broker))

    del broker.streams["ORDERS"]
    await stage.bus.ensure_stream("orders")
    await stage.bus.publish([sealed(order_placed()), bad])  # another sequence, and what it is stays the same
    async with consuming(stage, handlers):
        await eventually(lambda: all_done(broker))

    assert len(await dead(stage.database)) == 1


async def test_a_message_is_not_given_up_before_its_dead_letter_is_committed(
    stage: Stage, broker: MemoryBroker, handlers: Handlers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consumer, "PAUSE_S", 0.05)
    async with mislaid(stage.database, dead_letters):
        async with consuming(stage, handlers):
            await stage.bus.publish([unreadable()])
            with pytest.raises(AssertionError):
                await eventually(lambda: all_done(broker) and attempts(broker) != [], within_s=0.3)
        assert list(unanswered(broker)) == [1]

    async with consuming(stage, handlers):
        broker.streams["ORDERS"].durables["billing"].due[1] = 0  # as if its ack_wait were over
        broker.changed()
        await eventually(lambda: all_done(broker))

    assert len(await dead(stage.database)) == 1


def nasty_messages() -> dict[str, Outgoing]:
    """Messages of a publisher that went wrong, or mad."""
    plain = unreadable()
    return {
        "nothing": replace(plain, payload=b""),
        "no text": replace(plain, payload=b"\xff\x00\xfe"),
        "zero byte in an id": replace(plain, payload=b'{"order_id": "\\u0000"}'),
        "zero byte in a header": replace(plain, headers={**plain.headers, "note": "\x00"}),
        "zero byte in the event id": replace(plain, headers={**plain.headers, "ce-id": "\x00"}),
        "endless event id": replace(
            plain, headers={**plain.headers, "ce-id": "".join(str(uuid7()) for _ in range(300))}
        ),
        "endless time": replace(plain, headers={**plain.headers, "ce-time": "9" * 10_000}),
        "malformed trace": replace(plain, headers={**plain.headers, "traceparent": "\x00"}),
        "deep": replace(plain, payload=b"[" * 50_000),
    }


@pytest.mark.parametrize("kind", nasty_messages())
async def test_whatever_a_publisher_sends_it_becomes_a_dead_letter_and_stops_nobody(
    stage: Stage, broker: MemoryBroker, handlers: Handlers, kind: str
) -> None:
    order = order_placed()
    await stage.bus.publish([nasty_messages()[kind], sealed(order)])

    async with consuming(stage, handlers):
        await eventually(lambda: all_done(broker), within_s=2)

    assert len(await dead(stage.database)) == 1
    assert await effects_in(stage.database) == {order.order_id: 1}


# Trouble that is nobody's fault


def database_away() -> Exception:
    return OperationalError("select", {}, Exception("the database is away"))


@pytest.mark.parametrize("error", [database_away(), unavailable("something"), ConnectionRefusedError()])
async def test_a_passing_trouble_spends_no_delivery_and_makes_no_dead_letter(
    stage: Stage, broker: MemoryBroker, handlers: Handlers, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consumer, "PAUSE_S", 0.01)
    facts = orders(3)

    async def trouble(_events: Events, _work: Work) -> None:
        if len(handlers.calls) <= MAX_ATTEMPTS:
            raise error

    handlers.trouble = trouble
    await publish(stage.bus, *facts)

    async with consuming(stage, handlers):
        await eventually(lambda: all_done(broker))

    assert attempts(broker) == [1, 1, 1]
    assert {len(ids) for _, ids in handlers.calls} == {3}
    assert await dead(stage.database) == []
    assert await effects_in(stage.database) == {fact.order_id: 1 for fact in facts}


POSTGRES_ONLY = pytest.mark.parametrize("database_url", ["postgres"], indirect=True)
"""For trouble that SQLite, which has one writer, cannot have."""


async def count(work: AsyncConnection, effect: UUID) -> None:
    await work.execute(update(effects).where(effects.c.id == effect).values(times=effects.c.times + 1))


@POSTGRES_ONLY
@pytest.mark.parametrize("trouble", ["lock timeout", "deadlock"])
async def test_a_lock_that_somebody_else_holds_spends_no_delivery_and_makes_no_dead_letter(
    stage: Stage, broker: MemoryBroker, handlers: Handlers, trouble: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consumer, "PAUSE_S", 0.01)
    one, other = uuid7(), uuid7()
    async with stage.units.begin() as work:
        await have_effect(work, one, other)
    order, failures = order_placed(), list[BaseException]()

    async def wait_for_the_lock(_events: Events, work: Work) -> None:
        if trouble == "lock timeout":
            await work.connection.execute(text("set local lock_timeout = '50ms'"))
        try:
            await count(work.connection, other)
            await count(work.connection, one)
        except DBAPIError as error:
            failures.append(error)
            raise

    handlers.trouble = wait_for_the_lock
    await publish(stage.bus, order)
    async with stage.database.writing() as somebody:
        await count(somebody, one)
        async with consuming(stage, handlers):
            if trouble == "deadlock":  # the server tells the one that has waited longer
                await eventually(lambda: somebody_waits(stage.database))
                await count(somebody, other)
            await eventually(lambda: bool(failures))
            await somebody.commit()
            await eventually(lambda: all_done(broker))

    assert attempts(broker) == [1]
    assert await dead(stage.database) == []
    assert (await effects_in(stage.database))[order.order_id] == 1


async def test_a_database_that_lacks_a_table_for_a_while_loses_nothing(
    stage: Stage, broker: MemoryBroker, handlers: Handlers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consumer, "PAUSE_S", 0.05)
    (order,) = orders(1)
    await publish(stage.bus, order)
    async with consuming(stage, handlers):
        async with mislaid(stage.database, effects):
            await eventually(lambda: bool(handlers.calls))
        await eventually(lambda: all_done(broker))

    assert await effects_in(stage.database) == {order.order_id: 1}


@SQLITE_ONLY
async def test_a_long_pause_keeps_its_messages(
    database: Database, handlers: Handlers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consumer, "PAUSE_S", 0.02)
    monkeypatch.setattr(consumer, "KEEP_ALIVE_S", 0.1)
    broker = MemoryBroker(ack_wait_s=0.4)
    stage = Stage(database, MemoryBus(broker))
    await stage.bus.ensure_stream("orders")
    loop = asyncio.get_running_loop()
    until = loop.time() + 0.9

    async def trouble(_events: Events, _work: Work) -> None:
        if loop.time() < until:
            raise database_away()

    handlers.trouble = trouble
    await publish(stage.bus, *orders(2))

    async with consuming(stage, handlers), consuming(stage, handlers):
        await eventually(lambda: all_done(broker))

    assert attempts(broker) == [1, 1]


@SQLITE_ONLY
async def test_a_long_pause_while_messages_are_handled_one_by_one_keeps_them_all(
    database: Database, handlers: Handlers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consumer, "PAUSE_S", 0.02)
    monkeypatch.setattr(consumer, "KEEP_ALIVE_S", 0.1)
    broker = MemoryBroker(ack_wait_s=0.4)
    stage = Stage(database, MemoryBus(broker))
    await stage.bus.ensure_stream("orders")
    loop = asyncio.get_running_loop()
    until = loop.time() + 0.9

    async def trouble(events: Events, _work: Work) -> None:
        if len(events) > 1:
            raise ZeroDivisionError
        if loop.time() < until:
            raise database_away()

    handlers.trouble = trouble
    await publish(stage.bus, *orders(2))

    async with consuming(stage, handlers), consuming(stage, handlers):
        await eventually(lambda: all_done(broker))

    assert attempts(broker) == [1, 1]


@SQLITE_ONLY
async def test_a_batch_that_takes_too_long_is_handled_in_smaller_pieces(
    stage: Stage, broker: MemoryBroker, handlers: Handlers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consumer, "PAUSE_S", 0.01)
    monkeypatch.setattr(unit, "DEADLINE_S", 0.3)
    facts = orders(3)

    async def trouble(events: Events, _work: Work) -> None:
        if len(events) > 1:  # more than this machine can do within the deadline
            await asyncio.Event().wait()

    handlers.trouble = trouble
    await publish(stage.bus, *facts)

    async with consuming(stage, handlers):
        await eventually(lambda: all_done(broker), within_s=2)

    assert await had(stage.database, {fact.order_id for fact in facts})


# Stopping


async def test_stopping_finishes_the_batch_in_hand(stage: Stage, broker: MemoryBroker, handlers: Handlers) -> None:
    may_commit, handled = asyncio.Event(), asyncio.Event()

    async def wait(_events: Events, _work: Work) -> None:
        handled.set()
        await may_commit.wait()

    handlers.trouble = wait
    facts = orders(2)
    await publish(stage.bus, *facts)

    async with consuming(stage, handlers, batch_limit=1) as consumer:
        await handled.wait()
        consumer.stop()
        may_commit.set()

    assert await effects_in(stage.database) == {facts[0].order_id: 1}
    assert unanswered(broker) == {}
    assert broker.streams["ORDERS"].durables["billing"].position == 1


@SQLITE_ONLY
async def test_stopping_ends_the_wait_for_messages(stage: Stage, broker: MemoryBroker, handlers: Handlers) -> None:
    async with consuming(stage, handlers):
        await eventually(lambda: bool(broker.streams["ORDERS"].durables))

    assert handlers.calls == []


@SQLITE_ONLY
async def test_stopping_ends_a_pause_and_acknowledges_nothing(
    stage: Stage, broker: MemoryBroker, handlers: Handlers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consumer, "PAUSE_S", 0.01)

    async def trouble(_events: Events, _work: Work) -> None:
        raise database_away()

    handlers.trouble = trouble
    await publish(stage.bus, *orders(1))

    async with consuming(stage, handlers):
        await eventually(lambda: bool(handlers.calls))

    assert unanswered(broker) == {1: 1}


@SQLITE_ONLY
async def test_a_consumer_that_is_cancelled_leaves_nothing_running(
    stage: Stage, broker: MemoryBroker, handlers: Handlers
) -> None:
    before = asyncio.all_tasks()
    consuming = asyncio.create_task(consumer_of(stage, handlers).run(stage.bus))
    await eventually(lambda: len(asyncio.all_tasks() - before) == 3)  # it waits for messages, and to be stopped

    consuming.cancel()

    await eventually(lambda: not asyncio.all_tasks() - before, within_s=1)


# Several processes, a real bus


async def test_replicas_share_a_consumer_and_every_effect_is_had_once(database: Database, broker: MemoryBroker) -> None:
    facts, both = orders(40), [Handlers(), Handlers()]
    stages = [Stage(database, MemoryBus(broker)) for _ in both]
    async with consuming(stages[0], both[0], batch_limit=4), consuming(stages[1], both[1], batch_limit=4):
        await publish(stages[0].bus, *facts)
        await eventually(lambda: all_done(broker))

    assert await effects_in(database) == {fact.order_id: 1 for fact in facts}
    assert all(handlers.calls for handlers in both)


async def test_messages_of_a_real_server_are_handled_and_set_aside(
    database: Database, server: Server, handlers: Handlers
) -> None:
    bus = await server.connect()
    await bus.ensure_stream("orders")
    await bus.ensure_stream("billing")
    stage, facts = Stage(database, bus), orders(20)
    bad = facts[7]
    handlers.trouble = fails_for(bad.order_id, Refusal("no_such_thing", "not in this world", Kind.NOT_FOUND))

    async def nothing_is_pending() -> bool:
        info = await bus._js.consumer_info("ORDERS", "billing")
        return (info.num_ack_pending, info.num_pending, info.num_redelivered) == (0, 0, 0)

    async with stage.relaying(), consuming(stage, handlers):
        await publish(bus, *facts)
        await bus.publish([unreadable(), message("orders", "order.confirmed")])
        await eventually(lambda: had(database, {fact.order_id for fact in facts if fact is not bad}))
        await eventually(nothing_is_pending)

    assert len(await dead(database)) == 2
