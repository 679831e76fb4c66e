"""Migrations: each applied once, in order, whole or not at all."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy import inspect, text
from sqlalchemy.exc import SQLAlchemyError

from libs.storage import Database, migrations
from libs.storage.migrations import SHARED, migrate, migrate_when_there, pending, scripts_of
from libs.tests.units import shared_database

database_url = shared_database(scope="function")
SHARED_LINE = sorted(f"messaging_{path.name[:4]}" for path in (SHARED / "versions").glob("[0-9]*.py"))
SHARED_HEADS = SHARED_LINE[-1:]
FIRST = 'op.create_table("things", sa.Column("id", sa.Integer, primary_key=True))'
SECOND = 'op.add_column("things", sa.Column("name", sa.Text))'
HALF_WRONG = (
    'op.create_table("others", sa.Column("id", sa.Integer)); op.execute("insert into no_such_table values (1)")'
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The migrations of a service, with the first."""
    made = tmp_path / "migrations"
    (made / "versions").mkdir(parents=True)
    add(made, "things_0001", FIRST, after=None)
    return made


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    opened = Database(database_url, name="tests")
    yield opened
    await opened.close()


def add(folder: Path, revision: str, does: str, *, after: str | None) -> None:
    (folder / "versions" / f"{revision}.py").write_text(
        f"import sqlalchemy as sa\nfrom alembic import op\n\n"
        f"revision = {revision!r}\ndown_revision = {after!r}\n"
        f"branch_labels = {None if after else ('things',)!r}\ndepends_on = None\n\n\n"
        f"def upgrade() -> None:\n    {does}\n"
    )


async def tables(database: Database) -> dict[str, list[str]]:
    """List the tables there are, with their columns."""
    async with database.reading() as connection:
        return await connection.run_sync(
            lambda sync: {
                table: [column["name"] for column in inspect(sync).get_columns(table)]
                for table in inspect(sync).get_table_names()
            }
        )


async def test_both_lines_are_brought_up_to_date_and_then_there_is_nothing_to_do(
    database: Database, folder: Path
) -> None:
    assert await pending(database, folder) == [*SHARED_HEADS, "things_0001"]
    assert sorted(await migrate(database, folder)) == [*SHARED_LINE, "things_0001"]
    assert await pending(database, folder) == []
    before = await tables(database)
    assert {"things", "outbox", "dead_letters", "idempotency_keys"} <= set(before)
    assert await migrate(database, folder) == []
    assert await tables(database) == before


async def test_only_what_is_missing_is_applied_oldest_first(database: Database, folder: Path) -> None:
    await migrate(database, folder)
    add(folder, "things_0002", SECOND, after="things_0001")
    add(folder, "things_0003", 'op.create_index("by_name", "things", ["name"])', after="things_0002")
    assert await pending(database, folder) == ["things_0003"]
    assert await migrate(database, folder) == ["things_0002", "things_0003"]
    assert (await tables(database))["things"] == ["id", "name"]
    assert await pending(database, folder) == []


async def test_a_migration_that_fails_leaves_nothing_behind(database: Database, folder: Path) -> None:
    await migrate(database, folder)
    add(folder, "things_0002", SECOND, after="things_0001")
    add(folder, "things_0003", HALF_WRONG, after="things_0002")
    before = await tables(database)
    with pytest.raises(SQLAlchemyError):
        await migrate(database, folder)
    assert await tables(database) == before
    assert await pending(database, folder) == ["things_0003"]
    add(folder, "things_0003", "pass", after="things_0002")
    assert await migrate(database, folder) == ["things_0002", "things_0003"]


async def test_replicas_that_start_at_once_migrate_once(database: Database, database_url: str, folder: Path) -> None:
    replicas = [Database(database_url, name=f"replica {number}") for number in range(3)]
    applied = await asyncio.gather(*(migrate(replica, folder) for replica in replicas))
    assert sorted(map(len, applied)) == [0, 0, len(SHARED_LINE) + 1]
    async with database.reading() as connection:
        versions = await connection.execute(text("select version_num from alembic_version"))
        assert sorted(versions.scalars()) == [*SHARED_HEADS, "things_0001"]
    for replica in replicas:
        await replica.close()


async def test_a_database_that_is_away_is_waited_for_and_what_is_wrong_is_not(
    database: Database, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries: list[Exception | None] = [ConnectionRefusedError("nobody there"), TimeoutError(), None]

    async def attempt(database: Database, folder: Path) -> list[str]:
        if error := tries.pop(0):
            raise error
        return await migrate(database, folder)

    monkeypatch.setattr(migrations, "RETRY_EVERY_S", 0.001)
    monkeypatch.setattr(migrations, "migrate", attempt)
    assert len(await migrate_when_there(database, folder, within_s=10)) == len(SHARED_LINE) + 1
    for error, within_s in ((ConnectionRefusedError("nobody there"), 0), (ValueError("wrong"), 10)):
        tries[:] = [error, None]
        with pytest.raises(type(error)):
            await migrate_when_there(database, folder, within_s=within_s)
        assert tries == [None]


def test_every_service_has_a_line_of_its_own_beside_the_shared_one(folder: Path) -> None:
    assert sorted(scripts_of(folder).get_heads()) == [*SHARED_HEADS, "things_0001"]
