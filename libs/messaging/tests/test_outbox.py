"""The outbox: facts and the state they are about become true together, or not at all."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from sqlalchemy import delete, insert, text
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

import libs.storage.database
from libs.contracts.orders import OrderPlaced
from libs.ids import uuid7
from libs.messaging import outbox, unit
from libs.messaging.envelope import Origin, Outgoing, seal
from libs.messaging.memory import MemoryBus
from libs.messaging.tables import outbox as table
from libs.messaging.tables import streams
from libs.messaging.tests.stage import (
    Stage,
    effects_in,
    have_effect,
    message,
    messages,
    mislaid,
    order_placed,
    rows,
    spoil_commit,
)
from libs.messaging.unit import Unit
from libs.storage import Database
from libs.tests.eventually import eventually
from libs.tracing import Trace

CAUSE = Origin(Trace.start())


@pytest.fixture
async def stage(database: Database) -> AsyncIterator[Stage]:
    stage = Stage(database, MemoryBus())
    await stage.bus.ensure_stream("orders")
    async with stage.relaying():
        yield stage


def stored(stage: Stage) -> list[str]:
    assert isinstance(stage.bus, MemoryBus)
    return [one.subject for one in stage.bus.broker.stored("orders")]


async def written(database: Database, *some: Outgoing) -> None:
    async with database.writing() as connection:
        await outbox.write(connection, some)


# Units of work


async def nothing_more(_work: Unit[AsyncConnection]) -> None:
    pass


async def fail(_work: Unit[AsyncConnection]) -> None:
    raise ZeroDivisionError


async def hang(_work: Unit[AsyncConnection]) -> None:
    await asyncio.Event().wait()


async def read_slowly(work: Unit[AsyncConnection]) -> None:
    """Take about half a second, in the database."""
    numbers = "with recursive n(i) as (select 1 union all select i + 1 from n where i < 1000000) select max(i) from n"
    await work.connection.execute(text(numbers))


async def have_and_state(
    stage: Stage, fact: OrderPlaced, *, then: Callable[[Unit[AsyncConnection]], Awaitable[None]] = nothing_more
) -> None:
    """Have an effect and state it, in one unit of work."""
    async with stage.units.begin() as work:
        await have_effect(work, fact.order_id)
        work.publish(fact, cause=CAUSE)
        await then(work)


async def test_a_fact_and_its_state_are_committed_together(stage: Stage) -> None:
    fact = order_placed()

    await have_and_state(stage, fact)

    (row,) = await rows(stage.database)
    assert await effects_in(stage.database) == {fact.order_id: 1}
    assert (row.subject, row.payload) == (fact.subject, fact.model_dump_json(exclude_none=True))


async def test_neither_fact_nor_state_survive_an_error(stage: Stage) -> None:
    fact, later = order_placed(), order_placed()

    with pytest.raises(ZeroDivisionError):
        await have_and_state(stage, fact, then=fail)

    await stage.state(later)
    await eventually(lambda: bool(stored(stage)))
    assert stored(stage) == [later.subject]
    assert await effects_in(stage.database) == {}
    assert [row.subject for row in await rows(stage.database)] == [later.subject]


async def test_neither_fact_nor_state_survive_a_commit_that_fails(stage: Stage) -> None:
    fact, later = order_placed(), order_placed()

    with pytest.raises(IntegrityError):
        await have_and_state(stage, fact, then=spoil_commit)

    await stage.state(later)
    await eventually(lambda: bool(stored(stage)))
    assert stored(stage) == [later.subject]
    assert await effects_in(stage.database) == {}


async def test_no_state_survives_a_fact_that_cannot_be_written(database: Database) -> None:
    stage = Stage(database, MemoryBus())

    async with mislaid(database, table):
        with pytest.raises(DBAPIError):
            await have_and_state(stage, order_placed())

    assert await effects_in(database) == {}


async def test_nothing_is_published_before_the_commit(stage: Stage) -> None:
    inner, outer = order_placed(), order_placed()
    await stage.state(order_placed())
    await eventually(lambda: len(stored(stage)) == 1)

    async with stage.units.begin() as work:
        work.publish(inner, cause=CAUSE)
        await outbox.write(work.connection, work.outgoing)
        work.outgoing.clear()
        # The relay is awake, and publishes whatever it is offered; this row it cannot know of yet.
        await stage.bus.publish([seal(outer, cause=CAUSE, now=datetime.now(UTC))])
        assert stored(stage)[1:] == [outer.subject]


async def test_a_unit_that_takes_too_long_is_rolled_back(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unit, "DEADLINE_S", 0.2)
    fact = order_placed()

    with pytest.raises(TimeoutError):
        await have_and_state(stage, fact, then=hang)

    assert await effects_in(stage.database) == {}
    assert await rows(stage.database) == []


async def test_a_unit_that_is_cut_off_lets_the_next_one_begin(
    database_url: str, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(libs.storage.database, "BUSY_TIMEOUT_MS", 2_000)
    ours = Database(database_url, name="test")
    stage, fact = Stage(ours, MemoryBus()), order_placed()
    with monkeypatch.context() as hurry:
        hurry.setattr(unit, "DEADLINE_S", 0.1)
        with pytest.raises(TimeoutError):
            await have_and_state(stage, order_placed(), then=read_slowly)

    try:
        await have_and_state(stage, fact)
    finally:
        await ours.close()

    assert await effects_in(database) == {fact.order_id: 1}


async def test_concurrent_units_all_keep_what_they_stated(stage: Stage) -> None:
    facts = [order_placed() for _ in range(30)]

    await asyncio.gather(*(stage.state(fact) for fact in facts))

    await eventually(lambda: sorted(stored(stage)) == sorted(fact.subject for fact in facts))
    assert len(await rows(stage.database)) == 30


# Rows


async def test_a_message_comes_out_as_it_went_in(database: Database) -> None:
    sent = message("orders", payload='{"name": "Zoë \\u0000"}'.encode())
    await written(database, sent)

    async with database.reading() as connection:
        found = await outbox.unpublished(connection, before=datetime.now(UTC) + timedelta(seconds=1), limit=10)

    assert found == [sent]


async def test_what_is_unpublished_is_read_oldest_first_and_only_that(database: Database) -> None:
    some = messages("orders", 5)
    await written(database, *reversed(some))
    async with database.writing() as connection:
        await outbox.mark_published(connection, [(some[1].id, 7)], now=datetime.now(UTC))

    async with database.reading() as connection:
        soon = datetime.now(UTC) + timedelta(seconds=1)
        assert await outbox.unpublished(connection, before=soon, limit=10) == [some[0], *some[2:]]
        assert await outbox.unpublished(connection, before=soon, limit=2) == [some[0], some[2]]
        assert await outbox.unpublished(connection, before=some[3].created_at, limit=10) == [some[0], some[2]]


async def test_a_mark_says_where_the_stream_keeps_the_message(database: Database) -> None:
    some = messages("orders", 3)
    await written(database, *some)
    now = datetime.now(UTC)

    async with database.writing() as connection:
        await outbox.mark_published(connection, [(some[0].id, 41), (some[2].id, 42)], now=now)

    assert [(row.published_at, row.sequence) for row in await rows(database)] == [(now, 41), (None, None), (now, 42)]


def with_id(number: int) -> Outgoing:
    fresh = message("orders")
    return Outgoing(UUID(int=number), fresh.subject, fresh.payload, fresh.headers, fresh.created_at)


def first_number_of(moment: datetime) -> int:
    """Make the lowest id of a moment, as a number: its milliseconds in the first 48 bits."""
    return (moment - datetime.fromtimestamp(0, UTC)) // timedelta(milliseconds=1) * 2**80


async def test_what_is_unpublished_is_read_from_a_moment_on(database: Database) -> None:
    moment = datetime.now(UTC) - timedelta(hours=1)
    first = first_number_of(moment)
    before, at, after = with_id(first - 1), with_id(first), with_id(first + 1)
    await written(database, before, at, after)

    async with database.reading() as connection:
        soon = datetime.now(UTC) + timedelta(seconds=1)
        assert await outbox.unpublished(connection, before=soon, after=moment, limit=10) == [at, after]


async def test_all_marks_are_cleared_and_counted(database: Database) -> None:
    some = messages("orders", 3)
    await written(database, *some)
    async with database.writing() as connection:
        await outbox.mark_published(connection, [(some[0].id, 1), (some[2].id, 2)], now=datetime.now(UTC))
        assert await outbox.clear_marks(connection) == 2

    assert [(row.published_at, row.sequence) for row in await rows(database)] == [(None, None)] * 3


async def test_marks_are_cleared_a_step_at_a_time(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "CLEARED_AT_ONCE", 2)
    some = messages("orders", 8)
    await written(database, *some)
    marks = [(row.id, number) for number, row in enumerate(some, 1) if number not in (2, 3, 4)]
    async with database.writing() as connection:
        await outbox.mark_published(connection, marks, now=datetime.now(UTC))
        assert await outbox.clear_marks(connection) == 5

    assert [(row.published_at, row.sequence) for row in await rows(database)] == [(None, None)] * 8


async def test_nothing_to_write_writes_nothing(database: Database) -> None:
    await written(database)

    assert await rows(database) == []


# Pruning


def written_ago(age: timedelta) -> Outgoing:
    moment = datetime.now(UTC) - age
    row_id = UUID(int=(int(moment.timestamp() * 1000) << 80) | (uuid7().int & ((1 << 80) - 1)))
    fresh = message("orders")
    return Outgoing(row_id, fresh.subject, fresh.payload, fresh.headers, moment)


async def published_ago(database: Database, row: Outgoing, age: timedelta) -> None:
    async with database.writing() as connection:
        await outbox.mark_published(connection, [(row.id, 1)], now=datetime.now(UTC) - age)


async def test_only_rows_published_more_than_eight_days_ago_are_pruned(database: Database) -> None:
    day = timedelta(days=1)
    old, old_but_published_late, never_published, young = (written_ago(age * day) for age in (9, 9, 9, 1))
    await written(database, old, old_but_published_late, never_published, young)
    await published_ago(database, old, 8 * day + timedelta(minutes=1))
    await published_ago(database, old_but_published_late, 8 * day - timedelta(minutes=1))
    await published_ago(database, young, timedelta(0))

    async with database.writing() as connection:
        pruned = await outbox.prune(connection, now=datetime.now(UTC), limit=10)

    assert pruned == 1
    kept = {row.id for row in await rows(database)}
    assert kept == {old_but_published_late.id, never_published.id, young.id}


async def test_nothing_is_pruned_that_a_stream_made_anew_was_given_since(database: Database) -> None:
    now, day = datetime.now(UTC), timedelta(days=1)
    old = written_ago(20 * day)
    await written(database, old)
    await published_ago(database, old, 9 * day)
    pruned = []
    for begun_ago in (8 * day - timedelta(minutes=1), 8 * day + timedelta(minutes=1)):
        row = {"name": "ORDERS", "incarnation": 2, "begun_at": now - begun_ago, "sequence": 0}
        async with database.writing() as connection:
            await connection.execute(delete(streams))
            await connection.execute(insert(streams), [row])
            pruned.append(await outbox.prune(connection, now=now, limit=10))

    assert pruned == [0, 1]


async def test_pruning_takes_the_oldest_first_and_no_more_than_asked(database: Database) -> None:
    old = [written_ago(timedelta(days=20 - age)) for age in range(5)]
    await written(database, *reversed(old))
    for row in reversed(old):
        await published_ago(database, row, timedelta(days=9))

    async with database.writing() as connection:
        pruned = [await outbox.prune(connection, now=datetime.now(UTC), limit=2) for _ in range(2)]

    assert pruned == [2, 2]
    assert [row.id for row in await rows(database)] == [old[4].id]


async def test_what_is_exactly_eight_days_old_is_kept(database: Database) -> None:
    now = datetime(2026, 1, 20, tzinfo=UTC)
    cutoff, instant = now - timedelta(days=8), timedelta(microseconds=1)
    first = first_number_of(cutoff)
    published_then, too_old, written_then = with_id(first - 2), with_id(first - 1), with_id(first)
    await written(database, published_then, too_old, written_then)
    async with database.writing() as connection:
        await outbox.mark_published(connection, [(published_then.id, 1)], now=cutoff)
        await outbox.mark_published(connection, [(too_old.id, 2), (written_then.id, 3)], now=cutoff - instant)

        assert await outbox.prune(connection, now=now, limit=10) == 1

    assert [row.id for row in await rows(database)] == [published_then.id, written_then.id]
