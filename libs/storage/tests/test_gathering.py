"""Writes that travel together: when they are sent, in what, and that all of them are true or none."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from sqlalchemy import BigInteger, Column, MetaData, Table, func, select
from sqlalchemy.exc import IntegrityError

from libs.storage import Database
from libs.storage.sets import insert_all, insert_new, rows_among, update_all
from libs.tests.units import executed, on_postgres, shared_database

database_url = shared_database()
METADATA = MetaData()
apples = Table("apples", METADATA, Column("id", BigInteger, primary_key=True), Column("weight", BigInteger))
pears = Table("pears", METADATA, Column("id", BigInteger, primary_key=True), Column("weight", BigInteger))


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    made = Database(database_url, name="tests")
    async with made.writing() as connection:
        await connection.run_sync(METADATA.drop_all)
        await connection.run_sync(METADATA.create_all)
    yield made
    await made.close()


def fruit(*numbers: int, weight: int = 1) -> list[dict[str, Any]]:
    return [{"id": number, "weight": weight} for number in numbers]


async def found(database: Database, table: Table) -> dict[int, int]:
    async with database.reading() as connection:
        return {row.id: row.weight for row in await connection.execute(select(table))}


async def test_what_is_only_written_is_true_after_the_end(database: Database) -> None:
    async with database.writing() as connection:
        await insert_all(connection, apples, fruit(1, 2))
        await insert_all(connection, pears, fruit(3))
    assert (await found(database, apples), await found(database, pears)) == ({1: 1, 2: 1}, {3: 1})


@on_postgres
async def test_writes_to_several_tables_are_one_statement(database: Database) -> None:
    async with database.writing() as connection:
        await insert_all(connection, pears, fruit(3))
    with executed(database) as seen:
        async with database.writing() as connection:
            await insert_all(connection, apples, fruit(1, 2))
            await update_all(connection, pears, fruit(3, weight=9), key="id")
        assert [one.split(None, 1)[0] for one in seen] == ["WITH"]
    assert (await found(database, apples), await found(database, pears)) == ({1: 1, 2: 1}, {3: 9})


async def test_who_reads_sees_what_was_written_before(database: Database) -> None:
    async with database.writing() as connection:
        await insert_all(connection, apples, fruit(1, 2))
        assert [row.id for row in await rows_among(connection, apples.c.id, [2, 3])] == [2]
        await insert_all(connection, apples, fruit(3))
        assert (await connection.execute(select(func.count()).select_from(apples))).scalar_one() == 3
        await update_all(connection, apples, fruit(3, weight=7), key="id")
        assert await connection.scalar(select(apples.c.weight).where(apples.c.id == 3)) == 7
        await insert_all(connection, apples, fruit(4))
        assert await insert_new(connection, apples, fruit(4, 5), key="id") == {5}


async def test_writes_to_one_table_happen_in_their_order(database: Database) -> None:
    async with database.writing() as connection:
        await insert_all(connection, apples, fruit(1))
        await update_all(connection, apples, fruit(1, weight=2), key="id")
        await update_all(connection, apples, fruit(1, weight=3), key="id")
    assert await found(database, apples) == {1: 3}


async def test_one_that_fails_takes_all_with_it(database: Database) -> None:
    async with database.writing() as connection:
        await insert_all(connection, pears, fruit(3))

    async def write(*, read_before: bool) -> None:
        async with database.writing() as connection:
            if read_before:
                await connection.execute(select(apples))
            await insert_all(connection, apples, fruit(1))
            await insert_all(connection, pears, fruit(3))

    for read_before in (False, True):
        with pytest.raises(IntegrityError):
            await write(read_before=read_before)
    assert (await found(database, apples), await found(database, pears)) == ({}, {3: 1})


async def give_up(database: Database, apple: int) -> None:
    """Write an apple, so that it has been sent, and a pear; and fail."""

    async def fail() -> None:
        async with database.writing() as connection:
            await insert_all(connection, apples, fruit(apple))
            await connection.execute(select(apples))
            await insert_all(connection, pears, fruit(apple))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()


async def test_nothing_is_sent_of_what_was_given_up(database: Database) -> None:
    await give_up(database, 1)
    assert (await found(database, apples), await found(database, pears)) == ({}, {})


async def test_a_connection_that_was_one_statement_is_a_transaction_again_for_the_next(database: Database) -> None:
    async with database.writing() as connection:
        await insert_all(connection, apples, fruit(1))
    await give_up(database, 2)
    assert await found(database, apples) == {1: 1}
