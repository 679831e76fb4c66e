"""The relay: whatever was committed reaches the stream, whatever happens in between; and is marked only then."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import update

from libs.messaging import outbox, relay
from libs.messaging.bus import BusUnavailable
from libs.messaging.envelope import Outgoing
from libs.messaging.memory import MemoryBroker, MemoryBus
from libs.messaging.tables import outbox as table
from libs.messaging.tests.conftest import Server
from libs.messaging.tests.stage import (
    Stage,
    everything,
    message,
    messages,
    mislaid,
    order_placed,
    rows,
    subjects_of,
    take,
)
from libs.storage import Database
from libs.tests.eventually import eventually


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sweeps often."""
    monkeypatch.setattr(relay, "SWEEP_EVERY_S", 0.05)


@pytest.fixture
async def broker() -> MemoryBroker:
    broker = MemoryBroker()
    await MemoryBus(broker).ensure_stream("orders")
    return broker


@pytest.fixture
def bus(broker: MemoryBroker) -> MemoryBus:
    return MemoryBus(broker)


def subjects_in(broker: MemoryBroker) -> list[str]:
    return [one.subject for one in broker.stored("orders")]


async def left_behind(database: Database, some: Sequence[Outgoing], age: timedelta = timedelta(seconds=3)) -> None:
    """Write rows that a process committed some time ago and did not live to publish."""
    moment = datetime.now(UTC) - age
    async with database.writing() as connection:
        await outbox.write(
            connection, [Outgoing(one.id, one.subject, one.payload, one.headers, moment) for one in some]
        )


async def marks(database: Database) -> list[int | None]:
    found = await rows(database)
    assert all((row.published_at is None) == (row.sequence is None) for row in found)
    return [row.sequence for row in found]


async def all_marked(database: Database) -> bool:
    return None not in await marks(database)


# The fast path


async def test_what_is_committed_is_published_at_once_and_marked(
    database: Database, bus: MemoryBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay, "SWEEP_EVERY_S", 3600)
    stage, facts = Stage(database, bus), [order_placed() for _ in range(3)]

    async with stage.relaying():
        await stage.state(*facts)
        await eventually(lambda: all_marked(database))

    assert subjects_in(bus.broker) == [fact.subject for fact in facts]
    assert await marks(database) == [1, 2, 3]


async def test_messages_are_published_in_the_order_of_their_commits(database: Database, bus: MemoryBus) -> None:
    stage, facts = Stage(database, bus), [order_placed() for _ in range(2 * relay.BATCH + 10)]
    for start in range(0, len(facts), 100):
        await stage.state(*facts[start : start + 100])

    async with stage.relaying():
        await stage.relay.flush(5)

    assert subjects_in(bus.broker) == [fact.subject for fact in facts]


class Acknowledging(MemoryBus):
    """Stores what it is given, and acknowledges it when told to; counts how often it is asked."""

    def __init__(self, broker: MemoryBroker) -> None:
        super().__init__(broker)
        self.may_acknowledge = asyncio.Event()
        self.published: list[str] = []

    async def publish(self, messages: Sequence[Outgoing], *, above: int = 0) -> list[int]:
        sequences = await super().publish(messages, above=above)
        self.published.extend(one.subject for one in messages)
        await self.may_acknowledge.wait()
        return sequences


async def test_a_row_is_marked_only_after_the_stream_has_acknowledged_it(
    database: Database, broker: MemoryBroker
) -> None:
    bus = Acknowledging(broker)
    stage, fact = Stage(database, bus), order_placed()
    async with stage.relaying():
        await stage.state(fact)
        await eventually(lambda: subjects_in(broker) == [fact.subject])
        assert await marks(database) == [None]

        bus.may_acknowledge.set()
        await eventually(lambda: all_marked(database))


async def test_a_crash_before_the_mark_publishes_again_with_the_same_id_and_stores_once(
    database: Database, broker: MemoryBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay, "LEFT_BEHIND", timedelta(0))
    crashing, fact = Stage(database, Acknowledging(broker)), order_placed()
    async with crashing.relaying():
        await crashing.state(fact)
        await eventually(lambda: subjects_in(broker) == [fact.subject])
    assert await marks(database) == [None]

    bus = Acknowledging(broker)
    bus.may_acknowledge.set()
    async with Stage(database, bus).relaying():
        await eventually(lambda: all_marked(database))

    assert bus.published == [fact.subject]
    assert subjects_in(broker) == [fact.subject]
    assert await marks(database) == [1]


class Mislaying(MemoryBus):
    """Mislays the outbox while it publishes, so that what it stored cannot be marked before the outbox is found."""

    def __init__(self, broker: MemoryBroker, database: Database) -> None:
        super().__init__(broker)
        self._mislaid = mislaid(database, table)
        self.published = 0

    async def publish(self, messages: Sequence[Outgoing], *, above: int = 0) -> list[int]:
        self.published += 1
        await self._mislaid.__aenter__()
        return await super().publish(messages, above=above)

    async def find(self) -> None:
        """Find the outbox again."""
        await self._mislaid.__aexit__(None, None, None)


async def test_a_mark_that_fails_is_made_later(
    database: Database, broker: MemoryBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay, "SWEEP_EVERY_S", 3600)
    failed, longer = list[float](), relay.longer

    def noted(pause_s: float) -> float:
        failed.append(pause_s)
        return longer(pause_s)

    monkeypatch.setattr(relay, "longer", noted)
    bus = Mislaying(broker, database)
    stage, fact = Stage(database, bus), order_placed()

    async with stage.relaying():
        await stage.state(fact)
        try:
            await eventually(lambda: len(failed) > 2)
        finally:
            await bus.find()
        await stage.relay.flush(5)

    assert await marks(database) == [1]
    assert bus.published == 1
    assert failed[:3] == [0.0, 0.05, 0.1]


class Slowly(MemoryBus):
    """Stores at once; the database has to wait for its marks."""

    def __init__(self, broker: MemoryBroker) -> None:
        super().__init__(broker)
        self.sizes: list[int] = []

    async def publish(self, messages: Sequence[Outgoing], *, above: int = 0) -> list[int]:
        self.sizes.append(len(messages))
        return await super().publish(messages, above=above)


async def test_nothing_waits_for_a_mark_and_marks_are_made_together(
    database: Database, broker: MemoryBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    bus, may_mark, together = Slowly(broker), asyncio.Event(), list[int]()
    stage = Stage(database, bus)
    really = stage.relay.stream.mark

    async def mark(connection: Any, standing: Any, sequences: Sequence[Any], **options: Any) -> None:
        together.append(len(sequences))
        await may_mark.wait()
        await really(connection, standing, sequences, **options)

    monkeypatch.setattr(stage.relay.stream, "mark", mark)
    monkeypatch.setattr(relay, "MARKED_AT_ONCE", 4)

    async def publishes(one: Outgoing) -> None:
        before = len(bus.sizes)
        stage.relay.offer([one])
        await eventually(lambda: len(bus.sizes) > before)

    first, *others = messages("orders", 6)
    async with stage.relaying():
        await publishes(first)
        await eventually(lambda: together == [1])
        for one in others:
            await publishes(one)
        may_mark.set()
        await stage.relay.flush(5)
    assert bus.sizes == [1] * 6
    assert together == [1, 4, 1]


async def test_what_nobody_waits_for_is_published_together_and_at_once_when_somebody_is_in_a_hurry(
    database: Database, broker: MemoryBroker
) -> None:
    bus = Slowly(broker)
    stage = Stage(database, bus, pace_s=3600)
    first, *others = messages("orders", 6)
    async with stage.relaying():
        stage.relay.offer([first])
        await eventually(lambda: bus.sizes == [1])  # while little happens, at once
        for one in others:
            stage.relay.offer([one])
        assert bus.sizes == [1]
        await stage.relay.flush(5)
    assert bus.sizes == [1, 5]


async def test_a_full_batch_waits_for_nobody(database: Database, broker: MemoryBroker) -> None:
    bus = Slowly(broker)
    stage = Stage(database, bus, pace_s=3600)
    async with stage.relaying():
        stage.relay.offer(messages("orders", 2 * relay.BATCH + 1))
        await eventually(lambda: bus.sizes == [relay.BATCH, relay.BATCH, 1])


class Failing(MemoryBus):
    """Fails in a way nobody foresaw, once."""

    failed = False

    async def publish(self, messages: Sequence[Outgoing], *, above: int = 0) -> list[int]:
        if not self.failed:
            self.failed = True
            raise ZeroDivisionError
        return await super().publish(messages, above=above)


async def test_the_relay_survives_what_nobody_foresaw(database: Database, broker: MemoryBroker) -> None:
    stage, fact = Stage(database, Failing(broker)), order_placed()

    async with stage.relaying():
        await stage.state(fact)
        await eventually(lambda: all_marked(database))

    assert subjects_in(broker) == [fact.subject]


async def test_flushing_waits_until_everything_is_published(database: Database, bus: MemoryBus) -> None:
    stage = Stage(database, bus)
    async with stage.relaying():
        await stage.state(*(order_placed() for _ in range(300)))
        await stage.relay.flush(5)

        assert await all_marked(database)


async def test_flushing_gives_up_while_the_bus_is_away(database: Database, bus: MemoryBus) -> None:
    bus.go_away()
    stage = Stage(database, bus)
    async with stage.relaying():
        await stage.state(order_placed())

        async with asyncio.timeout(2):
            await stage.relay.flush(0.1)

    assert await marks(database) == [None]


# The sweep


async def test_a_row_left_behind_is_published_by_the_sweep(database: Database, bus: MemoryBus) -> None:
    left = messages("orders", 3)
    await left_behind(database, left)

    async with Stage(database, bus).relaying():
        await eventually(lambda: all_marked(database))

    assert subjects_in(bus.broker) == subjects_of(left)


async def test_a_sweep_says_whether_there_may_be_more_at_once(database: Database, bus: MemoryBus) -> None:
    swept = Stage(database, bus).relay
    await swept.stream.assured()
    assert not await swept._sweep()
    await left_behind(database, messages("orders", 2))
    assert await swept._sweep()
    assert not await swept._sweep()
    await left_behind(database, messages("orders", 1))
    bus.go_away()
    assert not await swept._sweep()


async def test_the_sweep_leaves_to_the_fast_path_what_is_young(database: Database, bus: MemoryBus) -> None:
    left, young = message("orders"), message("orders")
    await left_behind(database, [young], timedelta(seconds=1))
    await left_behind(database, [left])

    async with Stage(database, bus).relaying():
        await eventually(lambda: bool(subjects_in(bus.broker)))

    assert subjects_in(bus.broker) == [left.subject]


async def test_what_does_not_fit_into_memory_is_left_to_the_sweep(
    database: Database, bus: MemoryBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay, "HELD_AT_MOST", 3)
    monkeypatch.setattr(relay, "LEFT_BEHIND", timedelta(0))
    stage, facts = Stage(database, bus), [order_placed() for _ in range(10)]
    for fact in facts:
        await stage.state(fact)
    assert len(stage.relay._queue) == 3

    async with stage.relaying():
        await eventually(lambda: all_marked(database))

    assert subjects_in(bus.broker) == [fact.subject for fact in facts]


async def test_a_unit_that_states_more_than_fits_into_memory_is_published(
    database: Database, bus: MemoryBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay, "HELD_AT_MOST", 3)
    monkeypatch.setattr(relay, "LEFT_BEHIND", timedelta(0))
    stage = Stage(database, bus)
    async with stage.relaying():
        await stage.state(*(order_placed() for _ in range(4)))

        await eventually(lambda: all_marked(database), within_s=2)


async def test_two_replicas_that_sweep_the_same_row_store_it_once(database: Database, broker: MemoryBroker) -> None:
    left = messages("orders", 20)
    await left_behind(database, left)

    async with Stage(database, MemoryBus(broker)).relaying(), Stage(database, MemoryBus(broker)).relaying():
        await eventually(lambda: all_marked(database))

    assert subjects_in(broker) == subjects_of(left)
    assert await marks(database) == list(range(1, 21))


async def test_a_stream_that_is_not_there_yet_is_made(database: Database) -> None:
    bus = MemoryBus()
    stage, fact = Stage(database, bus), order_placed()
    async with stage.relaying():
        await stage.state(fact)
        await eventually(lambda: all_marked(database))

    assert subjects_in(bus.broker) == [fact.subject]


# Away


async def test_rows_wait_while_the_bus_is_away_and_drain_in_order(database: Database, bus: MemoryBus) -> None:
    left, facts = messages("orders", 5), [order_placed() for _ in range(5)]
    await left_behind(database, left)
    bus.go_away()
    stage = Stage(database, bus)
    async with stage.relaying():
        await eventually(lambda: stage.relay.lag_s > 0)
        for fact in facts:
            await stage.state(fact)
        assert await marks(database) == [None] * 10

        bus.come_back()
        await eventually(lambda: all_marked(database))

    assert sorted(subjects_in(bus.broker)) == sorted([*subjects_of(left), *(fact.subject for fact in facts)])
    # What this process committed keeps the order of its commits; what another left behind, that of its rows.
    assert [one for one in subjects_in(bus.broker) if one in subjects_of(left)] == subjects_of(left)
    assert [one for one in subjects_in(bus.broker) if one not in subjects_of(left)] == [fact.subject for fact in facts]


async def test_the_relay_is_stalled_while_the_oldest_row_is_too_old(database: Database, bus: MemoryBus) -> None:
    bus.go_away()
    stage = Stage(database, bus)
    await left_behind(database, messages("orders", 1), timedelta(seconds=9))
    async with stage.relaying():
        await eventually(lambda: stage.relay.lag_s > 8)
        assert not stage.relay.stalled

        await left_behind(database, [row_before := message("orders")], timedelta(seconds=30))
        async with database.writing() as connection:  # ids sort by time, and this row is the older one
            await connection.execute(
                update(table)
                .where(table.c.id == row_before.id)
                .values(id=type(row_before.id)(int=row_before.id.int >> 1))
            )
        await eventually(lambda: stage.relay.stalled)
        assert stage.relay.lag_s > 29

        bus.come_back()
        await eventually(lambda: not stage.relay.stalled)
        await eventually(lambda: stage.relay.lag_s == 0)
        assert await all_marked(database)


async def test_a_relay_with_nothing_to_do_is_not_stalled(database: Database, bus: MemoryBus) -> None:
    stage = Stage(database, bus)

    assert (stage.relay.lag_s, stage.relay.stalled) == (0, False)
    async with stage.relaying():
        await stage.state(order_placed())
        await eventually(lambda: all_marked(database))
    assert (stage.relay.lag_s, stage.relay.stalled) == (0, False)


async def test_rows_survive_the_absence_of_a_real_server(database: Database, server: Server) -> None:
    bus = await server.connect()
    await bus.ensure_stream("orders")
    stage, facts = Stage(database, bus), [order_placed() for _ in range(20)]
    async with stage.relaying():
        await stage.state(*facts[:5])
        await eventually(lambda: all_marked(database))
        await server.stop()
        for fact in facts[5:]:
            await stage.state(fact)
        with pytest.raises(BusUnavailable):
            await bus.publish(messages("orders", 1))
        assert (await marks(database))[5:] == [None] * 15

        await server.start()
        await eventually(lambda: all_marked(database), within_s=10)

    taken = await take(await bus.subscribe(everything("orders")), 20)
    assert subjects_of(taken) == [fact.subject for fact in facts]
    assert await marks(database) == [delivery.sequence for delivery in taken]


# What it holds


class Counting(MemoryBus):
    """Remembers how much it was given at once; fails when told to; may forget to say where it stored the last."""

    def __init__(self, broker: MemoryBroker) -> None:
        super().__init__(broker)
        self.sizes: list[int] = []
        self.failures = 0
        self.forgets = False

    async def publish(self, messages: Sequence[Outgoing], *, above: int = 0) -> list[int]:
        self.sizes.append(len(messages))
        if self.failures:
            self.failures -= 1
            raise BusUnavailable("told to fail")
        sequences = await super().publish(messages, above=above)
        return sequences[:-1] if self.forgets else sequences


async def test_what_is_offered_twice_is_held_once_and_let_go_when_it_is_published(
    database: Database, broker: MemoryBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay, "SWEEP_EVERY_S", 3600)
    bus = Counting(broker)
    stage = Stage(database, bus)
    await stage.state(*(order_placed() for _ in range(3)))
    stage.relay.offer(list(stage.relay._queue))
    async with stage.relaying():
        await stage.relay.flush(5)
        assert await all_marked(database)
    assert bus.sizes == [3]
    assert not stage.relay._held


async def test_no_more_is_published_at_once_than_a_batch(
    database: Database, broker: MemoryBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay, "SWEEP_EVERY_S", 3600)
    monkeypatch.setattr(relay, "BATCH", 10)
    bus = Counting(broker)
    stage = Stage(database, bus)
    await stage.state(*(order_placed() for _ in range(25)))
    async with stage.relaying():
        await stage.relay.flush(5)
    assert bus.sizes == [10, 10, 5]


async def test_it_waits_longer_after_each_failure_and_little_after_a_success(
    database: Database, broker: MemoryBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay, "SWEEP_EVERY_S", 3600)
    bus, pauses, really = Counting(broker), list[float](), asyncio.sleep

    async def noted(delay_s: float) -> None:
        if 0 < delay_s < 10:
            pauses.append(delay_s)
        await really(min(delay_s, 0.001) if delay_s < 10 else delay_s)

    stage = Stage(database, bus)
    async with stage.relaying():
        monkeypatch.setattr(relay.asyncio, "sleep", noted)  # type: ignore[attr-defined] # its module's own name
        for failures in (6, 1):
            bus.failures = failures
            await stage.state(order_placed())
            await stage.relay.flush(5)
        monkeypatch.setattr(relay.asyncio, "sleep", really)  # type: ignore[attr-defined] # as above
    assert pauses == [0.05, 0.1, 0.2, 0.4, 0.5, 0.5, 0.05]


async def test_a_bus_that_does_not_say_where_it_stored_everything_is_not_believed(
    database: Database, broker: MemoryBroker
) -> None:
    bus = Counting(broker)
    bus.forgets = True
    stage = Stage(database, bus)
    async with stage.relaying():
        await stage.state(order_placed(), order_placed())
        await eventually(lambda: len(bus.sizes) > 2)
        assert await marks(database) == [None, None]
        bus.forgets = False
        await eventually(lambda: all_marked(database))


async def test_a_sweep_reads_no_more_than_it_may(
    database: Database, broker: MemoryBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay, "SWEPT_AT_ONCE", 10)
    await left_behind(database, messages("orders", 25))
    bus = Counting(broker)
    async with Stage(database, bus).relaying():
        await eventually(lambda: all_marked(database))
    assert bus.sizes == [10, 10, 5]
