"""Databases: what is committed and what is not, who waits for whom, and which failures are worth another try."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy import (
    BigInteger,
    Column,
    Integer,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    insert,
    select,
    text,
    update,
)
from sqlalchemy.exc import IntegrityError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from libs.errors import Refusal, unavailable
from libs.local.servers import free_port
from libs.storage import Database, connections, database, is_transient
from libs.storage.sets import insert_new
from libs.tests.eventually import eventually
from libs.tests.units import on_postgres, on_sqlite, shared_database

database_url = shared_database()
METADATA = MetaData()
counters = Table(
    "counters",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("name", Text, nullable=False),
    Column("value", BigInteger, nullable=False),
    UniqueConstraint("name"),
)


@pytest.fixture
async def opened(database_url: str) -> AsyncIterator[Database]:
    """A database with one empty table."""
    made = Database(database_url, name="tests")
    async with made.writing() as connection:
        await connection.run_sync(METADATA.drop_all)
        await connection.run_sync(METADATA.create_all)
    yield made
    await made.close()


@pytest.fixture
async def replica(opened: Database, database_url: str) -> AsyncIterator[Database]:
    """The same database, as another process opens it."""
    made = Database(database_url, name="replica")
    yield made
    await made.close()


def counter(number: int, value: int = 0) -> dict[str, int | str]:
    return {"id": number, "name": f"counter {number}", "value": value}


async def values(where: Database) -> dict[int, int]:
    async with where.reading() as connection:
        return {row.id: row.value for row in await connection.execute(select(counters))}


async def count_up(where: Database) -> None:
    """Read a value, and write the next: what loses updates when two do it at once."""
    async with where.writing() as connection:
        query = select(counters.c.value).where(counters.c.id == 1).with_for_update()
        value = (await connection.execute(query)).scalar_one()
        await connection.execute(update(counters).where(counters.c.id == 1).values(value=value + 1))


async def test_what_was_written_is_there_after_the_block_and_not_before(opened: Database) -> None:
    async with opened.writing() as connection:
        await connection.execute(insert(counters), [counter(1, 7)])
        assert await values(opened) == {}
    assert await values(opened) == {1: 7}


@pytest.mark.parametrize("error", [RuntimeError, asyncio.CancelledError])
async def test_whatever_ends_the_block_early_undoes_it(opened: Database, error: type[BaseException]) -> None:
    async def fail() -> None:
        async with opened.writing() as connection:
            await connection.execute(insert(counters), [counter(1)])
            raise error

    with pytest.raises(error):
        await fail()
    assert await values(opened) == {}
    async with opened.writing() as connection:
        await connection.execute(insert(counters), [counter(1)])
    assert await values(opened) == {1: 0}


async def test_a_transaction_that_is_cut_off_in_a_statement_lets_others_write(
    opened: Database, replica: Database
) -> None:
    lengthy = "with recursive n(i) as (select 1 union all select i + 1 from n where i < 500000) select max(i) from n"
    begun = asyncio.Event()

    async def write() -> None:
        async with opened.writing() as connection:
            await connection.execute(insert(counters), [counter(1)])
            begun.set()
            await connection.execute(text(lengthy))

    writing = asyncio.create_task(write())
    await begun.wait()
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing
    for number, where in enumerate((replica, opened), 2):
        async with asyncio.timeout(10), where.writing() as connection:
            await connection.execute(insert(counters), [counter(number)])
    assert await values(opened) == {2: 0, 3: 0}


async def test_writers_at_once_lose_no_update(opened: Database, replica: Database) -> None:
    async with opened.writing() as connection:
        await connection.execute(insert(counters), [counter(1)])
    await asyncio.gather(*(count_up(where) for where in (opened, replica) for _ in range(10)))
    assert await values(opened) == await values(replica) == {1: 20}


async def test_readers_do_not_wait_for_a_writer(opened: Database, replica: Database) -> None:
    async with opened.writing() as connection:
        await connection.execute(insert(counters), [counter(1)])
        async with asyncio.timeout(10):
            assert await values(opened) == await values(replica) == {}
            await opened.ping()


@on_sqlite
async def test_sqlite_is_durable_and_lets_writers_wait(opened: Database) -> None:
    for connecting in (opened.writing, opened.reading):
        async with connecting() as connection:
            found = [
                (await connection.execute(text(f"pragma {pragma}"))).scalar_one()
                for pragma in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
            ]
        assert found == ["wal", 2, 1, 5_000]


async def test_the_folder_of_a_new_database_is_made(tmp_path: Path) -> None:
    made = Database(f"sqlite:///{tmp_path / 'a' / 'b' / 'new.db'}", name="tests")
    await made.ping()
    await made.close()
    assert (tmp_path / "a" / "b" / "new.db").exists()


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://ann:secret@127.0.0.1/orders",
        "postgres://ann:secret@127.0.0.1/orders",
        "postgresql+psycopg://ann:secret@127.0.0.1/orders",
    ],
)
def test_every_way_to_write_a_postgres_url_is_understood_and_its_password_never_shown(url: str) -> None:
    made = Database(url, name="tests")
    assert not made.is_sqlite
    assert str(made) == "postgresql+asyncpg://ann:***@127.0.0.1/orders"


@pytest.mark.parametrize(
    "url", ["mysql://ann:secret@127.0.0.1/orders", "nonsense:secret", "postgresql://a:secret@h:x/"]
)
def test_a_database_that_is_not_supported_is_refused_and_not_quoted(url: str) -> None:
    with pytest.raises(ValueError, match=r"sqlite:///path or postgresql://") as refused:
        Database(url, name="tests")
    assert "secret" not in str(refused.value)


async def test_only_rows_that_are_new_are_inserted_and_reported(opened: Database) -> None:
    async with opened.writing() as connection:
        assert await insert_new(connection, counters, [counter(1, 10), counter(2, 20)], key="id") == {1, 2}
        again = [counter(2, 99), counter(3, 30), counter(3, 99)]
        assert await insert_new(connection, counters, again, key="id") == {3}
        assert await insert_new(connection, counters, [], key="id") == set()
        taken = {"id": 4, "name": "counter 1", "value": 99}
        assert await insert_new(connection, counters, [taken, counter(5, 50)], key="id") == {5}
    assert await values(opened) == {1: 10, 2: 20, 3: 30, 5: 50}


async def test_many_rows_are_inserted_at_once(opened: Database) -> None:
    async with opened.writing() as connection:
        rows = [counter(number) for number in range(3_000)]
        assert await insert_new(connection, counters, rows, key="id") == set(range(3_000))
        assert await insert_new(connection, counters, [*rows, counter(3_000)], key="id") == {3_000}


@on_postgres
@pytest.mark.parametrize("commits", [True, False], ids=["commits", "rolls back"])
async def test_a_row_that_somebody_is_inserting_is_waited_for(
    opened: Database, replica: Database, *, commits: bool
) -> None:
    async def insert_too() -> set[int]:
        async with replica.writing() as connection:
            return await insert_new(connection, counters, [counter(1, 2)], key="id")

    async def waits() -> bool:
        query = "select count(*) from pg_stat_activity where application_name = 'replica' and wait_event_type = 'Lock'"
        async with opened.reading() as connection:
            return bool((await connection.execute(text(query))).scalar_one())

    async with opened.writing() as connection:
        await insert_new(connection, counters, [counter(1, 1)], key="id")
        second = asyncio.create_task(insert_too())
        while not await waits():
            assert not second.done()
        if not commits:
            await connection.rollback()
    assert await second == (set() if commits else {1})
    assert await values(opened) == {1: 1 if commits else 2}


@on_postgres
@pytest.mark.parametrize(
    ("sqlstate", "transient"),
    [
        ("08006", True),  # connection lost
        ("25006", True),  # nobody may write: a standby
        ("40001", True),  # cannot be serialized
        ("40P01", True),  # deadlock
        ("53300", True),  # too many connections
        ("55P03", True),  # lock not available
        ("57014", True),  # took too long
        ("57P01", True),  # shutting down
        ("22003", False),  # a number that does not fit
        ("23505", False),  # there is such a row
        ("42P01", False),  # there is no such table
        ("55000", False),  # not in this state
        ("P0001", False),  # raised by hand
    ],
)
async def test_what_postgres_says_decides_whether_it_is_tried_again(
    opened: Database, sqlstate: str, *, transient: bool
) -> None:
    with pytest.raises(SQLAlchemyError) as raised:
        async with opened.writing() as connection:
            await connection.execute(text(f"do $$ begin raise exception using errcode = '{sqlstate}'; end $$"))
    assert is_transient(raised.value) is transient


@on_sqlite
async def test_a_writer_that_waited_too_long_may_try_again(
    opened: Database, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "BUSY_TIMEOUT_MS", 1)
    hasty = Database(database_url, name="hasty")
    async with opened.writing():
        with pytest.raises(SQLAlchemyError, match="locked") as raised:
            await count_up(hasty)
    assert is_transient(raised.value)
    await hasty.close()


async def test_a_row_that_breaks_a_rule_is_not_tried_again(opened: Database) -> None:
    with pytest.raises(IntegrityError) as raised:
        async with opened.writing() as connection:
            await connection.execute(insert(counters), [counter(1), counter(1)])
    assert not is_transient(raised.value)


async def test_a_statement_that_cannot_be_right_is_not_tried_again(opened: Database) -> None:
    with pytest.raises(SQLAlchemyError) as raised:
        async with opened.writing() as connection:
            await connection.execute(text("select * from no_such_table"))
    assert not is_transient(raised.value)


async def test_a_number_that_no_column_holds_is_not_tried_again(opened: Database) -> None:
    with pytest.raises((SQLAlchemyError, OverflowError)) as raised:
        async with opened.writing() as connection:
            await connection.execute(insert(counters), [counter(1, 1 << 63)])
    assert not is_transient(raised.value)


async def test_a_server_that_is_away_may_come_back() -> None:
    away = Database(f"postgresql://ann:secret@127.0.0.1:{free_port()}/orders", name="tests")
    with pytest.raises(ConnectionRefusedError) as raised:
        await away.ping()
    assert is_transient(raised.value)
    await away.close()


@pytest.mark.parametrize(
    ("error", "transient"),
    [
        (PoolTimeoutError(), True),
        (TimeoutError(), True),
        (ConnectionResetError(), True),
        (ValueError(), False),
        (KeyError(), False),
        (asyncio.CancelledError(), False),
        (unavailable("a dependency"), False),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_of_other_errors_only_those_of_the_way_there_are_tried_again(error: BaseException, *, transient: bool) -> None:
    assert not isinstance(error, Refusal) or error.transient  # a refusal answers for itself
    assert is_transient(error) is transient


async def sessions(where: Database, count: int) -> set[int]:
    """Open `count` connections at once; return the ids of their processes on the server."""
    async with contextlib.AsyncExitStack() as stack:
        opened = [await stack.enter_async_context(where.reading()) for _ in range(count)]
        return {(await connection.execute(text("select pg_backend_pid()"))).scalar_one() for connection in opened}


async def demote(where: Database, count: int, *, writers: bool = True) -> None:
    """Let nobody write over the next `count` connections, as if they led to a server that has become a standby."""
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(count):
            connection = await stack.enter_async_context(where.writing() if writers else where.reading())
            await connection.execute(text("set session characteristics as transaction read only"))


@on_postgres
async def test_a_server_that_lets_nobody_write_is_left_by_every_connection(opened: Database, replica: Database) -> None:
    await demote(replica, 3)
    with pytest.raises(SQLAlchemyError) as raised:
        await write(replica)
    assert is_transient(raised.value)

    for number in range(3):
        await write(replica, number)


@on_postgres
async def test_a_server_that_lets_nobody_write_is_not_there(opened: Database, replica: Database) -> None:
    await demote(replica, 1, writers=False)
    with pytest.raises(SQLAlchemyError) as raised:
        await replica.ping()
    assert is_transient(raised.value)
    await replica.ping()


@on_postgres
@pytest.mark.parametrize("patience_s", [None, 0.2], ids=["its own timeout", "given up from outside"])
async def test_one_connection_without_an_answer_casts_doubt_on_all(
    opened: Database, database_url: str, patience_s: float | None
) -> None:
    hasty = Database(database_url, name="hasty", pool_size=3, statement_timeout_s=0.5)
    before = await sessions(hasty, 3)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(patience_s), hasty.reading() as connection:
            await connection.execute(text("select pg_sleep(30)"))
    assert not before & await sessions(hasty, 3)
    await hasty.close()


@on_postgres
async def test_locks_of_a_client_that_is_gone_without_a_word_are_released(
    opened: Database, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "ABANDONED_AFTER_S", 0.0)
    gone = Database(database_url, name="gone", statement_timeout_s=1.0)
    locked, released = asyncio.Event(), asyncio.Event()

    async def lock_and_do_nothing() -> None:
        async with gone.writing() as connection:
            await connection.execute(update(counters).values(value=7))
            locked.set()
            await released.wait()
            await connection.execute(select(counters))

    await write(opened)
    doing_nothing = asyncio.create_task(lock_and_do_nothing())
    await locked.wait()
    async with asyncio.timeout(10):
        await count_up(opened)
    released.set()
    with pytest.raises(SQLAlchemyError) as raised:
        await doing_nothing
    assert is_transient(raised.value)
    assert await values(opened) == {1: 1}
    await gone.close()


async def write(where: Database, number: int = 1) -> None:
    async with where.writing() as connection:
        await connection.execute(insert(counters), [counter(number)])


async def test_whoever_has_waited_longest_for_a_connection_is_next(database_url: str) -> None:
    narrow, order = Database(database_url, name="narrow", pool_size=1), list[str]()

    async def come(name: str) -> None:
        async with narrow.writing():
            order.append(name)

    try:
        async with narrow.writing():
            waiting = [asyncio.create_task(come(f"{number}")) for number in range(5)]
            await eventually(lambda: narrow._writing.waiting == 5)
        await come("late")  # asks at the very moment when the connection is free
        await asyncio.gather(*waiting)
        assert order == ["0", "1", "2", "3", "4", "late"]
    finally:
        await narrow.close()


async def test_nobody_waits_for_a_connection_for_ever(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "TURN_WITHIN_S", 0.01)
    narrow = Database(database_url, name="narrow", pool_size=1)
    try:
        async with narrow.writing():
            with pytest.raises(TimeoutError) as late:
                await narrow.writing().__aenter__()
            assert is_transient(late.value)
    finally:
        await narrow.close()
