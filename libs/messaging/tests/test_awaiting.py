"""Awaited answers: told, hinted at, looked up from time to time, and a last time when patience ends."""

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import suppress
from uuid import UUID

import pytest
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from libs.ids import uuid7
from libs.messaging import awaiting
from libs.messaging.awaiting import Awaited, Awaits
from libs.messaging.envelope import Origin
from libs.messaging.memory import MemoryBus
from libs.messaging.tests.stage import Stage, effects, have_effect, order_placed, running, spoil_commit
from libs.storage import Database
from libs.tests.eventually import eventually
from libs.tracing import Trace

PATIENT_S = 20.0
"""Longer than any test has time for: who waits that long has not been woken."""


class Rows:
    """What the database would say; counts how often it is asked, and for what."""

    def __init__(self) -> None:
        self.values: dict[UUID, str] = {}
        self.reads: list[list[UUID]] = []
        self.error: Exception | None = None

    async def read(self, keys: Collection[UUID]) -> Mapping[UUID, str]:
        self.reads.append(list(keys))
        await asyncio.sleep(0)
        if self.error:
            raise self.error
        return {key: self.values[key] for key in keys if key in self.values}


@pytest.fixture
def rows() -> Rows:
    return Rows()


@pytest.fixture
async def awaited(rows: Rows) -> AsyncIterator[Awaited]:
    awaited = Awaited(rows.read, lambda value: value == "done")
    async with running(awaited.run()):
        yield awaited
    assert not awaited._waiting
    assert not awaited._looking


@pytest.fixture
def nothing_from_time_to_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(awaiting, "INTERVAL_S", 3600)


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(awaiting, "INTERVAL_S", 0.05)


async def waiting_for(
    awaited: Awaited, key: UUID, *, patience_s: float = PATIENT_S, look_first: bool = False
) -> "asyncio.Task[object]":
    """Begin to wait."""
    task = asyncio.create_task(awaited.outcome(key, patience_s=patience_s, look_first=look_first))
    await asyncio.sleep(0)  # its first step registers it
    return task


async def outcome_of(task: "asyncio.Task[object]") -> object:
    async with asyncio.timeout(5):
        return await task


# Being told, being hinted at


@pytest.mark.usefixtures("nothing_from_time_to_time")
async def test_who_is_told_does_not_look(awaited: Awaited, rows: Rows) -> None:
    key = uuid7()
    waiting = await waiting_for(awaited, key)

    awaited.tell(key, "done")

    assert await outcome_of(waiting) == "done"
    assert rows.reads == []


@pytest.mark.usefixtures("nothing_from_time_to_time")
async def test_being_told_of_something_unfinished_ends_no_wait(awaited: Awaited) -> None:
    key = uuid7()
    waiting = await waiting_for(awaited, key)

    awaited.tell(key, "under way")
    awaited.tell(uuid7(), "done")
    await asyncio.wait({waiting}, timeout=0.05)
    assert not waiting.done()

    awaited.tell(key, "done")
    assert await outcome_of(waiting) == "done"


@pytest.mark.usefixtures("nothing_from_time_to_time")
async def test_a_hint_wakes(awaited: Awaited, rows: Rows) -> None:
    key = uuid7()
    waiting = await waiting_for(awaited, key)

    rows.values[key] = "done"
    awaited.hint([key])

    assert await outcome_of(waiting) == "done"
    assert rows.reads == [[key]]


@pytest.mark.usefixtures("nothing_from_time_to_time")
async def test_a_subject_that_is_heard_is_a_hint_for_the_id_at_its_end(awaited: Awaited, rows: Rows) -> None:
    key = uuid7()
    waiting = await waiting_for(awaited, key)

    rows.values[key] = "done"
    for subject in ("orders.order.confirmed", "orders.order.confirmed.nonsense", "", f"orders.order.confirmed.{key}"):
        awaited.hear(subject)

    assert await outcome_of(waiting) == "done"


@pytest.mark.usefixtures("nothing_from_time_to_time")
async def test_a_hint_proves_nothing(awaited: Awaited, rows: Rows) -> None:
    key = uuid7()
    rows.values[key] = "under way"
    waiting = await waiting_for(awaited, key)

    awaited.hint([key])
    await eventually(lambda: len(rows.reads) == 1)
    assert not waiting.done()

    rows.values[key] = "done"
    awaited.hint([key])
    assert await outcome_of(waiting) == "done"


@pytest.mark.usefixtures("nothing_from_time_to_time")
async def test_a_hint_that_comes_during_a_look_has_it_looked_up_again(awaited: Awaited, rows: Rows) -> None:
    key, values = uuid7(), rows.values
    waiting = await waiting_for(awaited, key)
    values[key] = "under way"
    read = rows.read

    async def read_what_changes_meanwhile(keys: Collection[UUID]) -> Mapping[UUID, str]:
        found = await read(keys)
        if len(rows.reads) == 1:
            values[key] = "done"
            awaited.hint([key])
        return found

    awaited._read = read_what_changes_meanwhile
    awaited.hint([key])

    assert await outcome_of(waiting) == "done"


@pytest.mark.usefixtures("nothing_from_time_to_time")
async def test_hints_for_what_nobody_waits_for_are_not_looked_up(awaited: Awaited, rows: Rows) -> None:
    key = uuid7()
    waiting = await waiting_for(awaited, key)

    awaited.hint([uuid7(), uuid7()])
    awaited.hint([key])
    await eventually(lambda: bool(rows.reads))

    assert rows.reads == [[key]]
    awaited.tell(key, "done")
    await outcome_of(waiting)


@pytest.mark.usefixtures("nothing_from_time_to_time")
async def test_everybody_who_waits_for_the_same_gets_it(awaited: Awaited) -> None:
    key = uuid7()
    waiting = [await waiting_for(awaited, key) for _ in range(3)]

    awaited.tell(key, "done")

    assert [await outcome_of(task) for task in waiting] == ["done"] * 3


@pytest.mark.usefixtures("nothing_from_time_to_time")
async def test_many_are_looked_up_at_once(awaited: Awaited, rows: Rows) -> None:
    keys = [uuid7() for _ in range(300)]
    waiting = [await waiting_for(awaited, key) for key in keys]
    rows.values = dict.fromkeys(keys, "done")

    awaited.hint(keys)

    assert {await outcome_of(task) for task in waiting} == {"done"}
    assert [len(read) for read in rows.reads] == [256, 44]


# Looking


@pytest.mark.usefixtures("nothing_from_time_to_time")
async def test_what_may_be_done_already_is_looked_up_first(awaited: Awaited, rows: Rows) -> None:
    key = uuid7()
    rows.values[key] = "done"

    assert await outcome_of(await waiting_for(awaited, key, look_first=True)) == "done"


@pytest.mark.usefixtures("often")
async def test_a_hint_that_got_lost_is_made_up_for(awaited: Awaited, rows: Rows) -> None:
    key = uuid7()
    waiting = await waiting_for(awaited, key)

    rows.values[key] = "done"

    assert await outcome_of(waiting) == "done"


@pytest.mark.usefixtures("often")
async def test_a_hint_that_got_lost_is_made_up_for_however_many_others_are_hinted_at(
    awaited: Awaited, rows: Rows
) -> None:
    key, busy = uuid7(), uuid7()
    waiting, also_waiting = await waiting_for(awaited, key), await waiting_for(awaited, busy)
    rows.values[key] = "done"

    async def hint_all_the_time() -> None:
        while True:
            awaited.hint([busy])
            await asyncio.sleep(0.01)

    async with running(hint_all_the_time()):
        await asyncio.wait({waiting}, timeout=1)
        ended = waiting.done()
    for task in (waiting, also_waiting):
        task.cancel()
        await asyncio.wait({task})
    assert ended


# The end of patience


@pytest.mark.usefixtures("nothing_from_time_to_time")
async def test_patience_ends_and_the_value_is_what_it_is_then(awaited: Awaited, rows: Rows) -> None:
    key = uuid7()
    rows.values[key] = "under way"
    loop = asyncio.get_running_loop()
    before = loop.time()

    assert await awaited.outcome(key, patience_s=0.1, look_first=False) == "under way"

    assert 0.09 < loop.time() - before < 1
    assert rows.reads == [[key]]


@pytest.mark.usefixtures("nothing_from_time_to_time")
async def test_the_last_look_finds_what_nobody_hinted_at(awaited: Awaited, rows: Rows) -> None:
    key = uuid7()
    waiting = await waiting_for(awaited, key, patience_s=0.1)

    rows.values[key] = "done"

    assert await outcome_of(waiting) == "done"


@pytest.mark.usefixtures("nothing_from_time_to_time")
async def test_what_does_not_exist_is_none(awaited: Awaited) -> None:
    assert await awaited.outcome(uuid7(), patience_s=0.05, look_first=True) is None


@pytest.mark.usefixtures("nothing_from_time_to_time")
async def test_a_look_that_fails_ends_no_wait(awaited: Awaited, rows: Rows) -> None:
    key = uuid7()
    waiting = await waiting_for(awaited, key)
    rows.error = ConnectionRefusedError("away")
    awaited.hint([key])
    await eventually(lambda: len(rows.reads) == 1)
    assert not waiting.done()

    rows.error, rows.values[key] = None, "done"
    awaited.hint([key])

    assert await outcome_of(waiting) == "done"


@pytest.mark.usefixtures("nothing_from_time_to_time")
async def test_a_last_look_that_fails_says_so(awaited: Awaited, rows: Rows) -> None:
    rows.error = ConnectionRefusedError("away")

    with pytest.raises(ConnectionRefusedError):
        await awaited.outcome(uuid7(), patience_s=0.05, look_first=False)


@pytest.mark.usefixtures("often")
async def test_nobody_is_remembered_after_the_wait(awaited: Awaited, rows: Rows) -> None:
    """However it ended: told, out of patience, gone away, failed. The fixture looks again at the end."""
    told, gone = await waiting_for(awaited, key := uuid7()), await waiting_for(awaited, key)
    impatient = await waiting_for(awaited, uuid7(), patience_s=0.01)
    gone.cancel()
    await asyncio.wait({gone})
    assert key in awaited._waiting

    awaited.tell(key, "done")
    await outcome_of(told)
    await outcome_of(impatient)
    rows.error = ConnectionRefusedError()
    with suppress(ConnectionRefusedError):
        await awaited.outcome(uuid7(), patience_s=0.01, look_first=True)

    assert (awaited._waiting, awaited._looking) == ({}, {})


# Units of work


async def read_effects(connection: AsyncConnection, keys: Collection[UUID]) -> Mapping[UUID, int]:
    found = await connection.execute(select(effects).where(effects.c.id.in_(keys)))
    return {row.id: row.times for row in found}


@pytest.fixture
async def stage(database: Database) -> AsyncIterator[Stage]:
    stage = Stage(database, MemoryBus(), Awaits(read_effects, lambda times: times == 2))
    async with running(stage.units.awaited.run()):
        yield stage


@pytest.mark.usefixtures("nothing_from_time_to_time")
async def test_a_unit_tells_what_it_committed_after_the_commit(stage: Stage) -> None:
    key = uuid7()
    waiting = await waiting_for(stage.units.awaited, key)

    async with stage.units.begin() as work:
        await have_effect(work, key)
        work.tell(key, 2)
        await asyncio.wait({waiting}, timeout=0.05)
        assert not waiting.done()

    assert await outcome_of(waiting) == 2


@pytest.mark.usefixtures("nothing_from_time_to_time")
async def test_a_unit_whose_commit_fails_tells_nobody(stage: Stage) -> None:
    key = uuid7()
    waiting = await waiting_for(stage.units.awaited, key, patience_s=0.2)

    with suppress(IntegrityError):
        async with stage.units.begin() as work:
            work.tell(key, 2)
            work.wake(key)
            await spoil_commit(work)

    assert await outcome_of(waiting) is None


@pytest.mark.usefixtures("nothing_from_time_to_time")
async def test_a_unit_wakes_those_who_then_read_what_is_committed(stage: Stage) -> None:
    key = uuid7()
    waiting = await waiting_for(stage.units.awaited, key)

    for _ in range(2):
        async with stage.units.begin() as work:
            await have_effect(work, key)
            work.wake(key)

    assert await outcome_of(waiting) == 2


@pytest.mark.usefixtures("nothing_from_time_to_time")
async def test_another_replica_reads_it_when_it_hears_of_it(stage: Stage, database: Database) -> None:
    order, other = order_placed(), Stage(database, stage.bus)
    await stage.bus.ensure_stream("orders")
    await stage.bus.listen("orders.order.*.*", stage.units.awaited.hear)
    waiting = await waiting_for(stage.units.awaited, order.order_id)

    async with other.relaying():
        async with other.units.begin() as work:
            await have_effect(work, order.order_id)
            await have_effect(work, order.order_id)
            work.publish(order, cause=Origin(Trace.start()))
            work.tell(order.order_id, 2)  # to those who wait in that process

        assert await outcome_of(waiting) == 2
