"""Connections in turns: kept, shared among engines, and given up with whatever was the matter with them."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from libs.storage import Database
from libs.tests.eventually import eventually
from libs.tests.units import on_postgres, on_sqlite, shared_database

database_url = shared_database()


@pytest.fixture
async def narrow(database_url: str) -> AsyncIterator[Database]:
    """A database with two connections."""
    made = Database(database_url, name="narrow", pool_size=2)
    yield made
    await made.close()


async def session(connection: AsyncConnection) -> int:
    return int((await connection.execute(text("select pg_backend_pid()"))).scalar_one())


async def used_by(database: Database, *, writing: bool) -> int:
    async with database.writing() if writing else database.reading() as connection:
        return await session(connection)


def counts(database: Database) -> tuple[int, int]:
    return database.connections("in_use"), database.connections("idle")


@on_postgres
@pytest.mark.parametrize("writing", [True, False])
async def test_the_next_one_gets_the_same(narrow: Database, writing: bool) -> None:
    assert len({await used_by(narrow, writing=writing) for _ in range(5)}) == 1
    assert counts(narrow) == (0, 1)


@on_postgres
async def test_writers_and_readers_make_room_for_each_other(narrow: Database) -> None:
    async def use(*, writing: bool) -> int:
        async with narrow.writing() if writing else narrow.reading() as connection:
            found = await session(connection)
            seen.append(narrow.connections("in_use") + narrow.connections("idle"))
            return found

    seen: list[int] = []
    async with asyncio.timeout(10):
        for kinds in ([True, True], [False, False], [True, False] * 20):
            sessions = await asyncio.gather(*(use(writing=kind) for kind in kinds))
            assert len(set(sessions)) <= 2
    assert max(seen) <= 2
    assert counts(narrow) == (0, 2)


async def test_who_fails_leaves_nothing_behind(narrow: Database) -> None:
    async def fail(*, writing: bool) -> None:
        async with narrow.writing() if writing else narrow.reading() as connection:
            await connection.execute(text("select 1"))
            raise ZeroDivisionError

    for writing in (True, False):
        with pytest.raises(ZeroDivisionError):
            await fail(writing=writing)
    assert counts(narrow) == (0, 0)


async def test_who_gives_up_waiting_leaves_the_turn_to_others(narrow: Database) -> None:
    async def use() -> None:
        async with narrow.writing() as connection:
            await connection.execute(text("select 1"))

    async with narrow.writing(), narrow.writing() if not narrow.is_sqlite else narrow.reading():
        waiting = [asyncio.create_task(use()) for _ in range(3)]
        await eventually(lambda: narrow._writing.waiting == 3)
        waiting[0].cancel()
    async with asyncio.timeout(5):
        await asyncio.gather(*waiting, return_exceptions=True)
        await use()


async def test_who_is_cancelled_gives_the_connection_up_first(narrow: Database) -> None:
    held = asyncio.Event()

    async def hold() -> None:
        async with narrow.writing() as connection:
            await connection.execute(text("select 1"))
            held.set()
            await asyncio.Event().wait()

    holding = asyncio.create_task(hold())
    await held.wait()
    assert counts(narrow)[0] == 1
    holding.cancel()
    with pytest.raises(asyncio.CancelledError):
        await holding
    assert counts(narrow) == (0, 0)


@on_sqlite
async def test_a_reader_sees_what_was_written_since_it_read_last(narrow: Database) -> None:
    async with narrow.writing() as connection:
        await connection.execute(text("create table if not exists seen (number integer)"))
    for number in range(3):
        async with narrow.writing() as connection:
            await connection.execute(text("insert into seen values (1)"))
        async with narrow.reading() as connection:
            assert (await connection.execute(text("select count(*) from seen"))).scalar_one() == number + 1
