"""Statements about many rows: the same on both databases, and one text however many rows there are."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import BigInteger, Column, LargeBinary, MetaData, String, Table, Uuid, select
from sqlalchemy.exc import DBAPIError, IntegrityError

from libs.storage import Database, Timestamp
from libs.storage.sets import among, delete_found, insert_all, insert_new, update_all
from libs.tests.units import executed, on_postgres, shared_database

database_url = shared_database()
METADATA = MetaData()
things = Table(
    "things",
    METADATA,
    Column("id", Uuid, primary_key=True),
    Column("name", String(8), unique=True),
    Column("amount", BigInteger),
    Column("hash", LargeBinary),
    Column("at", Timestamp),
)
NOW = datetime(2026, 11, 23, 12, 0, 0, 123456, tzinfo=UTC)


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    made = Database(database_url, name="tests")
    async with made.writing() as connection:
        await connection.run_sync(METADATA.drop_all)
        await connection.run_sync(METADATA.create_all)
    yield made
    await made.close()


def thing(number: int, **values: Any) -> dict[str, Any]:
    row = {"id": UUID(int=number), "name": f"n{number}", "amount": number, "hash": bytes([number]), "at": NOW}
    return {**row, **values}


async def all_things(database: Database) -> list[dict[str, Any]]:
    async with database.reading() as connection:
        return [dict(row) for row in (await connection.execute(select(things).order_by(things.c.id))).mappings()]


async def test_rows_are_there_as_they_were_given_whatever_is_missing_in_them(database: Database) -> None:
    given = [thing(1), thing(2, name=None, amount=None, hash=None, at=None), thing(3, at=NOW + timedelta(hours=1))]
    async with database.writing() as connection:
        await insert_all(connection, things, given)
        await insert_all(connection, things, [])
    assert await all_things(database) == given


async def test_columns_that_are_not_given_stay_empty(database: Database) -> None:
    async with database.writing() as connection:
        await insert_all(connection, things, [{"id": UUID(int=1), "name": "a"}])
    assert [(row["name"], row["amount"]) for row in await all_things(database)] == [("a", None)]


async def test_one_that_is_there_already_fails_them_all(database: Database) -> None:
    async with database.writing() as connection:
        await insert_all(connection, things, [thing(1)])
    with pytest.raises(IntegrityError):
        async with database.writing() as connection:
            await insert_all(connection, things, [thing(2), thing(1)])
    assert len(await all_things(database)) == 1


async def test_only_those_that_are_new_are_inserted_and_reported(database: Database) -> None:
    async with database.writing() as connection:
        await insert_all(connection, things, [thing(1)])
        new = await insert_new(connection, things, [thing(1, amount=9), thing(2), thing(3)], key="id")
        assert new == {UUID(int=2), UUID(int=3)}
        assert await insert_new(connection, things, [], key="id") == set()
    assert [row["amount"] for row in await all_things(database)] == [1, 2, 3]


async def test_each_row_gets_its_own_values_and_the_others_none(database: Database) -> None:
    async with database.writing() as connection:
        await insert_all(connection, things, [thing(1), thing(2), thing(3)])
        changes = [{"id": UUID(int=2), "amount": 20, "at": None}, {"id": UUID(int=1), "amount": 10, "at": NOW}]
        await update_all(connection, things, changes, key="id")
        await update_all(connection, things, [], key="id")
        await update_all(connection, things, [{"id": UUID(int=9), "amount": 90}], key="id")
    assert await all_things(database) == [thing(1, amount=10), thing(2, amount=20, at=None), thing(3)]


async def test_rows_are_found_by_any_of_their_values(database: Database) -> None:
    async with database.writing() as connection:
        await insert_all(connection, things, [thing(number) for number in range(1, 6)])
        for wanted in ([2, 4], [5], []):
            query = select(things.c.amount).where(among(connection, things.c.id, [UUID(int=one) for one in wanted]))
            assert sorted((await connection.execute(query)).scalars()) == wanted
        hashes = select(things.c.amount).where(among(connection, things.c.hash, [bytes([3])]))
        assert list((await connection.execute(hashes)).scalars()) == [3]


async def test_what_a_query_finds_is_deleted_and_counted(database: Database) -> None:
    async with database.writing() as connection:
        await insert_all(connection, things, [thing(number) for number in range(5)])
        two = select(things.c.id).where(things.c.amount > 0).order_by(things.c.amount).limit(2)
        assert await delete_found(connection, things, two, key="id") == 2
        nothing = select(things.c.id).where(things.c.amount > 9)
        assert await delete_found(connection, things, nothing, key="id") == 0
    assert [row["amount"] for row in await all_things(database)] == [0, 3, 4]


@on_postgres
async def test_not_even_a_small_table_is_read_as_a_whole(database: Database) -> None:
    """Since the plan is kept, and the table may grow."""
    async with database.writing() as connection:

        async def scans() -> int:
            query = "select pg_stat_get_xact_numscans('things'::regclass)"
            return int((await connection.exec_driver_sql(query)).scalar_one())

        await insert_all(connection, things, [thing(number) for number in range(9)])
        await connection.exec_driver_sql("analyze things")
        before = await scans()
        for _ in range(7):  # after five PostgreSQL decides whether to keep a plan
            await update_all(connection, things, [{"id": UUID(int=1), "amount": 7}], key="id")
            await connection.execute(select(things).where(among(connection, things.c.id, [UUID(int=2)])))
            found = select(things.c.id).where(things.c.id == UUID(int=3))
            await delete_found(connection, things, found, key="id")
        assert await scans() == before


async def test_what_is_too_long_is_refused_and_not_cut_off(database: Database) -> None:
    if database.is_sqlite:
        pytest.skip("SQLite has no lengths")
    with pytest.raises(DBAPIError):
        async with database.writing() as connection:
            await insert_all(connection, things, [thing(1, name="123456789")])


async def test_the_text_does_not_depend_on_how_many_rows_there_are(database: Database) -> None:
    if database.is_sqlite:
        pytest.skip("SQLite takes rows one by one")
    numbers = iter(range(1, 200))
    with executed(database) as seen:
        for count in (1, 2, 7):
            rows = [thing(next(numbers)) for _ in range(count)]
            async with database.writing() as connection:
                await insert_all(connection, things, rows)
                await insert_new(connection, things, rows, key="id")
                await update_all(connection, things, rows, key="id")
                await connection.execute(select(things.c.id).where(among(connection, things.c.id, {UUID(int=1)})))
    assert len(set(seen)) == 4
