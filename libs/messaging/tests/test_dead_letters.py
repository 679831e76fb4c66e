"""Dead letters as rows: found by what is known of them, pruned when they are old, brought along by migrations."""

import asyncio
import secrets
import shutil
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import text

import libs.chores
from libs.local.servers import Postgres
from libs.messaging import dead_letters
from libs.messaging.attending import LeftToTheSweep
from libs.messaging.dead_letters import RETENTION, Act, CannotAttend, Deed, Wanted, id_of
from libs.messaging.tables import dead_letter_acts
from libs.messaging.tables import dead_letters as table
from libs.messaging.tests.stage import rows
from libs.messaging.unit import Units
from libs.storage import Database, migrations
from libs.storage.migrations import migrate

NOW = datetime(2026, 7, 1, 12, tzinfo=UTC)


@dataclass
class Given:
    """A message that some consumer was given."""

    subject: str = "orders.order.placed.1"
    payload: bytes = b"{}"
    headers: Mapping[str, str] = field(default_factory=lambda: {"ce-id": "e1"})
    stream: str = "ORDERS"
    sequence: int = 7
    attempt: int = 1

    async def ack(self) -> None: ...
    async def nak(self, delay_s: float) -> None: ...
    async def term(self) -> None: ...
    async def in_progress(self) -> None: ...


async def kept(database: Database, *given: Given, error: str = "no", at: datetime = NOW) -> list[str]:
    """Set messages aside; return the ids of their dead letters."""
    async with database.writing() as connection:
        for one in given:
            await dead_letters.set_aside(connection, "billing", one, ValueError(error), at)
    return [id_of("billing", dead_letters.event_id_of(one), one.subject, one.payload) for one in given]


async def act(database: Database, letter_id: str, what: Deed, at: datetime = NOW) -> None:
    async with database.writing() as connection:
        await dead_letters.record(connection, letter_id, Act(at, "ann", what, "because"))


async def found(database: Database, wanted: Wanted) -> list[str]:
    async with database.reading() as connection:
        return [letter.id for letter in await dead_letters.find(connection, wanted)]


async def test_dead_letters_are_found_by_subject_error_and_age_oldest_first(database: Database) -> None:
    (old,) = await kept(database, Given("orders.order.placed.1"), at=NOW - timedelta(hours=3))
    (new,) = await kept(database, Given("orders.order.cancelled.1"), error="100%_Wrong", at=NOW)

    assert await found(database, Wanted()) == [old, new]
    assert await found(database, Wanted(subject="orders.order.placed.*")) == [old]
    assert await found(database, Wanted(subject="orders.>")) == [old, new]
    assert await found(database, Wanted(subject="orders.*")) == []
    assert await found(database, Wanted(error="valueerror")) == [old, new]
    assert await found(database, Wanted(error="100%_wrong")) == [new]
    assert await found(database, Wanted(error="100__wrong")) == []
    assert await found(database, Wanted(since=NOW - timedelta(hours=2))) == [new]
    assert await found(database, Wanted(subject="*.order.*.1", error="no", since=NOW)) == []


async def test_one_that_was_attended_to_is_found_only_when_asked_for(database: Database) -> None:
    replayed, failed, discarded = await kept(database, *(Given(payload=payload) for payload in (b"1", b"2", b"3")))
    for letter_id, what in ((replayed, Deed.REPLAYED), (failed, Deed.REPLAY_FAILED), (discarded, Deed.DISCARDED)):
        await act(database, letter_id, what)

    assert await found(database, Wanted()) == [failed]
    assert set(await found(database, Wanted(attended=True))) == {replayed, failed, discarded}


async def test_one_is_named_by_the_beginning_of_its_id_or_by_its_event_id(database: Database) -> None:
    one, other = await kept(database, Given(), Given(headers={"ce-id": "%"}))

    async def named(name: str) -> list[str]:
        async with database.reading() as connection:
            return [letter.id for letter in await dead_letters.named(connection, name)]

    assert await named(one) == await named(one[:9].upper()) == await named("e1") == [one]
    assert await named("%") == [other]
    assert await named("_") == []


async def test_what_a_dead_letter_carries_and_what_was_done_about_it(database: Database) -> None:
    headers = {"ce-id": "e1", "note": "\0 €"}
    (letter_id,) = await kept(database, Given(payload=b"\xff\0", headers=headers))
    await act(database, letter_id, Deed.REPLAY_FAILED, NOW)
    await act(database, letter_id, Deed.DISCARDED, NOW + timedelta(seconds=1))

    async with database.reading() as connection:
        contents = await dead_letters.contents(connection, letter_id)
        with pytest.raises(CannotAttend, match="no such"):
            await dead_letters.contents(connection, "gone")

    assert (contents.payload, contents.headers) == (b"\xff\0", headers)
    assert contents.acts == [
        Act(NOW, "ann", Deed.REPLAY_FAILED, "because"),
        Act(NOW + timedelta(seconds=1), "ann", Deed.DISCARDED, "because"),
    ]


async def test_one_attended_to_long_ago_is_pruned_with_its_acts_and_no_other_ever(database: Database) -> None:
    long_ago = NOW - RETENTION - timedelta(days=365)
    one, two, three, unattended = await kept(
        database, *(Given(payload=payload) for payload in (b"1", b"2", b"3", b"4")), at=long_ago
    )
    await act(database, one, Deed.REPLAYED, NOW - RETENTION - timedelta(seconds=2))
    await act(database, two, Deed.DISCARDED, NOW - RETENTION - timedelta(seconds=1))
    await act(database, three, Deed.DISCARDED, NOW - RETENTION)
    await act(database, unattended, Deed.REPLAY_FAILED, long_ago)

    async def prune() -> int:
        async with database.writing() as connection:
            return await dead_letters.prune(connection, now=NOW, limit=1)

    assert [await prune() for _ in range(3)] == [1, 1, 0]
    assert {row.id for row in await rows(database, table)} == {three, unattended}
    assert {row.dead_letter for row in await rows(database, dead_letter_acts)} == {three, unattended}


async def test_every_service_prunes_by_itself(database: Database) -> None:
    (letter_id,) = await kept(database, Given())
    await act(database, letter_id, Deed.REPLAYED, datetime.now(UTC) - RETENTION - timedelta(days=1))
    units = Units(database, lambda connection: connection, LeftToTheSweep())

    for chore in libs.chores.PRUNING:
        async with units.begin() as unit:
            assert not await chore.work(unit)

    assert await rows(database, table) == []


@pytest.fixture(params=["sqlite", "postgres"])
async def outdated(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Database]:
    """A database as it was before dead letters had ids of their own. What migrates it next brings it up to date."""
    url = f"sqlite:///{tmp_path / 'old.db'}"
    if request.param == "postgres":
        server: Postgres = request.getfixturevalue("postgres")
        name, password = f"t{secrets.token_hex(6)}", secrets.token_hex(8)
        url = await asyncio.to_thread(asyncio.run, server.create_database(name, password))
    shared, old = migrations.SHARED, tmp_path / "shared"
    for folder in (old, tmp_path / "own"):
        (folder / "versions").mkdir(parents=True)
    for number in ("0001", "0002"):
        (script,) = (shared / "versions").glob(f"{number}_*.py")
        shutil.copy(script, old / "versions")
    database = Database(url, name="test")
    with monkeypatch.context() as patch:
        patch.setattr(migrations, "SHARED", old)
        await migrate(database, tmp_path / "own")
    yield database
    await database.close()


async def test_dead_letters_from_before_they_had_ids_are_kept(outdated: Database, tmp_path: Path) -> None:
    insert = text(
        "insert into dead_letters (event_id, subject, payload, headers, error, attempts, trace_id, created_at) "
        "values (:event_id, 'orders.order.placed.1', :payload, '{}', 'no', 1, '', '2026-07-01 12:00:00')"
    )
    if not outdated.is_sqlite:
        insert = text(insert.text.replace("'2026-07-01 12:00:00'", "timestamptz '2026-07-01 12:00:00+00'"))
    ids = [f"e{number:03}" for number in range(250)]
    async with outdated.writing() as connection:
        await connection.execute(insert, [{"event_id": event_id, "payload": b"\xff"} for event_id in ids])

    assert "messaging_0003" in await migrate(outdated, tmp_path / "own")

    async with outdated.reading() as connection:
        letters = await dead_letters.find(connection, Wanted())
    assert len({letter.id for letter in letters}) == len(ids)
    assert {letter.event_id for letter in letters} == set(ids)
    assert {letter.created_at for letter in letters} == {NOW}
