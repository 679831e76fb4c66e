"""A service's own stream: what is known of it, and when it is made anew."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import delete, update

from libs.ids import uuid7
from libs.messaging import outbox, own_stream, relay
from libs.messaging.bus import BusUnavailable, StreamForgot, StreamState
from libs.messaging.envelope import Outgoing
from libs.messaging.memory import MemoryBroker, MemoryBus
from libs.messaging.own_stream import OwnStream, Standing
from libs.messaging.tables import outbox as table
from libs.messaging.tables import streams
from libs.messaging.tests.stage import Stage, message, messages, mislaid, order_placed, rows, subjects_of
from libs.storage import Database
from libs.tests.eventually import eventually


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay, "SWEEP_EVERY_S", 0.05)
    monkeypatch.setattr(own_stream, "CHECK_EVERY_S", 0.1)


@pytest.fixture
def broker() -> MemoryBroker:
    return MemoryBroker()


@pytest.fixture
def bus(broker: MemoryBroker) -> MemoryBus:
    return MemoryBus(broker)


@pytest.fixture
def stream(database: Database, bus: MemoryBus) -> OwnStream:
    return OwnStream(database, bus, "orders")


async def known(database: Database) -> Any:
    (row,) = await rows(database, streams)
    return row


async def published(database: Database, bus: MemoryBus, stream: OwnStream, some: Sequence[Outgoing]) -> Standing:
    """Write messages into the outbox, publish them, and mark them."""
    standing = await stream.assured()
    async with database.writing() as connection:
        await connection.execute(table.insert(), [outbox._to_row(one) for one in some])
    sequences = await bus.publish(some, above=standing.newest)
    async with database.writing() as connection:
        marks = [(one.id, sequence) for one, sequence in zip(some, sequences, strict=True)]
        await stream.mark(connection, standing, marks, now=datetime.now(UTC))
    stream.acknowledged(standing, max(sequences))
    return standing


async def test_the_first_look_makes_the_stream(database: Database, bus: MemoryBus, stream: OwnStream) -> None:
    assert await stream.assured() == Standing(1, 0)

    assert bus.broker.streams["ORDERS"].incarnation == 1
    assert (await known(database)).incarnation == 1


async def test_what_was_marked_is_known_to_every_replica(database: Database, bus: MemoryBus, stream: OwnStream) -> None:
    replica = OwnStream(database, bus, "orders")
    await replica.assured()
    some = messages("orders", 3)
    await published(database, bus, stream, some)

    assert await stream.assured() == Standing(1, 3)
    assert ((await known(database)).sequence, (await known(database)).message_id) == (3, some[-1].id)
    await replica.learn()
    assert await replica.assured() == Standing(1, 3)


async def test_marks_that_come_late_do_not_lower_what_is_known(
    database: Database, bus: MemoryBus, stream: OwnStream
) -> None:
    some = messages("orders", 3)
    standing = await published(database, bus, stream, some)

    async with database.writing() as connection:
        await stream.mark(connection, standing, [(some[0].id, 1)], now=datetime.now(UTC))

    assert ((await known(database)).sequence, (await known(database)).message_id) == (3, some[-1].id)


async def test_an_intact_stream_is_left_alone(database: Database, bus: MemoryBus, stream: OwnStream) -> None:
    await published(database, bus, stream, messages("orders", 3))

    for _ in range(2):
        stream.doubt()
        assert await stream.assured() == Standing(1, 3)
    assert len(bus.broker.stored("orders")) == 3


@pytest.mark.parametrize("loss", ["wiped", "older", "other", "renumbered"])
async def test_a_stream_that_lost_something_is_made_anew(
    database: Database, broker: MemoryBroker, bus: MemoryBus, stream: OwnStream, loss: str
) -> None:
    await published(database, bus, stream, messages("orders", 3))
    older = broker.copy()
    await published(database, bus, stream, messages("orders", 3))
    if loss == "wiped":
        broker.restore({})
    elif loss == "older":
        broker.restore(older)
    elif loss == "other":  # as far as before, and further, but with other messages
        broker.restore(older)
        await bus.publish(messages("orders", 4))
    else:
        broker.streams["ORDERS"].incarnation = 7
    stream.doubt()

    number = 8 if loss == "renumbered" else 2
    assert await stream.assured() == Standing(number, 0)

    assert broker.stored("orders") == []
    assert [(row.published_at, row.sequence) for row in await rows(database)] == [(None, None)] * 6


async def test_a_stream_whose_oldest_messages_aged_out_is_intact(
    database: Database, bus: MemoryBus, stream: OwnStream, monkeypatch: pytest.MonkeyPatch
) -> None:
    await published(database, bus, stream, messages("orders", 3))
    await bus.publish(messages("orders", 2))
    state = await bus.stream("orders")
    assert state is not None

    async def aged(_service: str) -> StreamState:
        return StreamState(state.incarnation, 4, state.last_sequence)

    async def gone(_service: str, _sequence: int) -> None:
        return None

    monkeypatch.setattr(bus, "stream", aged)
    monkeypatch.setattr(bus, "message_id_at", gone)
    stream.doubt()
    assert (await stream.assured()).incarnation == 1


async def test_a_mark_of_an_earlier_incarnation_is_refused(
    database: Database, broker: MemoryBroker, bus: MemoryBus, stream: OwnStream
) -> None:
    (one,) = some = messages("orders", 1)
    standing = await published(database, bus, stream, some)
    replica = OwnStream(database, bus, "orders")
    await replica.assured()
    broker.restore({})
    replica.doubt()
    await replica.assured()

    with pytest.raises(StreamForgot):
        async with database.writing() as connection:
            await stream.mark(connection, standing, [(one.id, 9)], now=datetime.now(UTC))
    assert [row.sequence for row in await rows(database)] == [None]
    stream.acknowledged(standing, 9)
    assert await stream.assured() == Standing(2, 0)


async def test_another_connection_is_reason_for_doubt(
    database: Database, broker: MemoryBroker, bus: MemoryBus, stream: OwnStream
) -> None:
    await published(database, bus, stream, messages("orders", 1))
    bus.go_away()
    broker.restore({})
    bus.come_back()

    assert await stream.assured() == Standing(2, 0)


async def test_doubt_that_arises_during_a_look_is_not_forgotten(
    database: Database, broker: MemoryBroker, bus: MemoryBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = OwnStream(database, bus, "orders")
    await published(database, bus, stream, messages("orders", 1))
    ask = bus.message_id_at

    async def lose_meanwhile(service: str, sequence: int) -> str | None:
        answer = await ask(service, sequence)
        monkeypatch.setattr(bus, "message_id_at", ask)
        broker.restore({})
        stream.doubt()
        return answer

    monkeypatch.setattr(bus, "message_id_at", lose_meanwhile)
    stream.doubt()
    assert await stream.assured() == Standing(2, 0)


async def test_who_has_begun_gets_time_before_another_takes_over(
    database: Database, broker: MemoryBroker, bus: MemoryBus, stream: OwnStream
) -> None:
    await published(database, bus, stream, messages("orders", 1))
    broker.restore({})
    begun = datetime.now(UTC)
    async with database.writing() as connection:  # and died before it made the stream
        await connection.execute(update(streams).values(incarnation=2, begun_at=begun, sequence=0, message_id=None))
    stream.doubt()
    with pytest.raises(BusUnavailable, match="another replica"):
        await stream.assured()

    async with database.writing() as connection:
        await connection.execute(update(streams).values(begun_at=begun - timedelta(seconds=11)))
    assert await stream.assured() == Standing(3, 0)


async def test_only_one_of_many_replicas_makes_the_stream(database: Database, broker: MemoryBroker) -> None:
    replicas = [OwnStream(database, MemoryBus(broker), "orders") for _ in range(5)]

    outcomes = await asyncio.gather(*(replica.assured() for replica in replicas), return_exceptions=True)

    assert all(isinstance(outcome, Standing | BusUnavailable) for outcome in outcomes)
    assert {outcome for outcome in outcomes if isinstance(outcome, Standing)} == {Standing(1, 0)}
    assert [await replica.assured() for replica in replicas] == [Standing(1, 0)] * 5


async def test_a_stream_made_before_it_was_counted_is_kept(
    database: Database, broker: MemoryBroker, bus: MemoryBus, stream: OwnStream
) -> None:
    await published(database, bus, stream, messages("orders", 3))
    broker.streams["ORDERS"].incarnation = 0
    async with database.writing() as connection:
        await connection.execute(delete(streams))

    replica = OwnStream(database, bus, "orders")
    assert await replica.assured() == Standing(1, 3)
    assert broker.streams["ORDERS"].incarnation == 1
    assert len(broker.stored("orders")) == 3


async def test_a_stream_made_before_it_was_counted_and_lost_since_is_made_anew(
    database: Database, broker: MemoryBroker, bus: MemoryBus, stream: OwnStream
) -> None:
    await published(database, bus, stream, messages("orders", 3))
    broker.restore({})
    async with database.writing() as connection:
        await connection.execute(delete(streams))

    assert await OwnStream(database, bus, "orders").assured() == Standing(1, 0)
    assert [row.sequence for row in await rows(database)] == [None] * 3


# The relay


async def test_the_relay_publishes_everything_again_into_a_stream_made_anew(
    database: Database, broker: MemoryBroker, bus: MemoryBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay, "LEFT_BEHIND", timedelta(0))
    stage, facts = Stage(database, bus), [order_placed() for _ in range(5)]
    async with stage.relaying():
        for fact in facts:
            await stage.state(fact)
        await eventually(lambda: len(broker.stored("orders")) == 5)
        broker.restore({})
        await eventually(lambda: "ORDERS" in broker.streams and len(broker.stored("orders")) == 5)
        await eventually(lambda: stage.relay.lag_s == 0)

    assert [one.subject for one in broker.stored("orders")] == [fact.subject for fact in facts]
    assert [row.sequence for row in await rows(database)] == [1, 2, 3, 4, 5]


async def test_a_sequence_given_away_before_is_noticed_at_once(
    database: Database, broker: MemoryBroker, bus: MemoryBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(own_stream, "CHECK_EVERY_S", 3600)
    monkeypatch.setattr(relay, "LEFT_BEHIND", timedelta(0))
    stage = Stage(database, bus)
    async with stage.relaying():
        await stage.state(*(order_placed() for _ in range(5)))
        await eventually(lambda: len(broker.stored("orders")) == 5)
        await eventually(stage.relay._idle.is_set)
        broker.restore({})
        await bus.ensure_stream("orders", 1)
        await stage.state(order_placed())
        await eventually(lambda: broker.streams["ORDERS"].incarnation == 2)
        await eventually(lambda: len(broker.stored("orders")) == 6)


async def test_a_look_that_the_database_fails_does_not_end_the_relay(database: Database, bus: MemoryBus) -> None:
    stage = Stage(database, bus)
    async with stage.relaying():
        await stage.state(order_placed())
        await eventually(stage.relay._idle.is_set)
        async with mislaid(database, streams):
            doubts = stage.relay.stream._doubts
            await eventually(lambda: stage.relay.stream._doubts > doubts + 1)
        await stage.state(order_placed())
        await eventually(lambda: len(bus.broker.stored("orders")) == 2)


async def test_what_is_published_again_stalls_nobody(database: Database, bus: MemoryBus) -> None:
    stage = Stage(database, bus)
    standing = await stage.relay.stream.assured()
    assert standing.incarnation == 1
    stage.relay.stream.begun_at = datetime.now(UTC) - timedelta(seconds=20)
    bus.go_away()
    old, new = message("orders"), message("orders")
    await _written(database, old, age=timedelta(seconds=60))
    async with stage.relaying():
        await eventually(lambda: stage.relay.lag_s > 50)
        assert not stage.relay.stalled

        await _written(database, new, age=timedelta(seconds=15))
        await eventually(lambda: stage.relay.stalled)

        bus.come_back()
        await eventually(lambda: stage.relay.lag_s == 0 and not stage.relay.stalled)
    assert subjects_of([old, new]) == [one.subject for one in bus.broker.stored("orders")]


async def _written(database: Database, one: Outgoing, *, age: timedelta) -> None:
    moment = datetime.now(UTC) - age
    aged = (int(moment.timestamp() * 1000) << 80) | (uuid7().int & ((1 << 80) - 1))
    row = outbox._to_row(one) | {"id": type(one.id)(int=aged), "created_at": moment}
    async with database.writing() as connection:
        await connection.execute(table.insert(), [row])
