"""Credentials in SQL, on both databases: what the port promises, and what the database itself refuses."""

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import insert, select
from sqlalchemy.exc import IntegrityError

from auth.app import service
from auth.domain import User
from auth.ports import Users
from auth.tables import users
from libs.ids import uuid7
from libs.tests.units import Workbench, on_postgres, shared_database, workbench

database_url = shared_database()
NOW = datetime(2026, 1, 1, 12, 30, 15, 123456, tzinfo=UTC)


@pytest.fixture
async def bench(database_url: str) -> AsyncIterator[Workbench[Users]]:
    async with workbench(database_url, service) as opened:
        yield opened


def user_called(login: str) -> User:
    return User(uuid7(), login, "$argon2id$…", registration='{"login":"…"}', traceparent="00-…")


async def add(bench: Workbench[Users], *some: User, due_at: datetime = NOW) -> None:
    async with bench.units.begin() as unit:
        assert set(await unit.store.add(some, due_at=due_at)) == {user.id for user in some}


async def test_a_user_is_read_as_saved(bench: Workbench[Users]) -> None:
    ann, bob = user_called("ann"), user_called("bob")
    await add(bench, bob, ann)
    async with bench.units.read() as store:
        assert await store.by_login("ann") == ann
        assert await store.by_login("carl") is None
        assert await store.find_all([ann.id, bob.id, uuid7()]) == {ann.id: ann, bob.id: bob}


async def test_a_login_is_given_once(bench: Workbench[Users]) -> None:
    ann = user_called("ann")
    await add(bench, ann)
    namesake, bob, another_bob = user_called("ann"), user_called("bob"), user_called("bob")
    async with bench.units.begin() as unit:
        new = set(await unit.store.add([namesake, bob, another_bob], due_at=NOW))
    assert new == {bob.id}
    async with bench.units.read() as store:
        assert await store.by_login("ann") == ann
        assert await store.by_login("bob") == bob


async def test_logins_that_differ_in_case_are_different(bench: Workbench[Users]) -> None:
    await add(bench, user_called("ann"), user_called("Ann"))


async def test_an_account_is_noted_once_and_ends_the_waiting(bench: Workbench[Users]) -> None:
    ann, bob, account = user_called("ann"), user_called("bob"), uuid7()
    await add(bench, ann, bob)
    async with bench.units.begin() as unit:
        await unit.store.open_accounts({ann.id: account, uuid7(): uuid7()})
    noted = replace(ann, account_id=account, registration=None)
    async with bench.units.begin() as unit:
        assert await unit.store.find_all([ann.id, bob.id]) == {ann.id: noted, bob.id: bob}
        await unit.store.open_accounts({ann.id: uuid7()})
        assert await unit.store.by_login("ann") == noted
        assert await unit.store.overdue(NOW, limit=10) == [bob]


async def test_the_longest_overdue_come_first_and_at_most_the_limit(bench: Workbench[Users]) -> None:
    some = [user_called(login) for login in ("ann", "bob", "carl", "dora")]
    for user, seconds in zip(some, (30, 10, 20, -1), strict=True):
        await add(bench, user, due_at=NOW - timedelta(seconds=seconds))
    async with bench.units.begin() as unit:
        assert await unit.store.overdue(NOW, limit=10) == [some[0], some[2], some[1]]
        assert await unit.store.overdue(NOW, limit=1) == [some[0]]


async def test_what_is_put_off_is_counted_and_due_later(bench: Workbench[Users]) -> None:
    ann = user_called("ann")
    await add(bench, ann)
    later = NOW + timedelta(minutes=1)
    async with bench.units.begin() as unit:
        await unit.store.put_off(ann.id, due_at=later)
        assert await unit.store.overdue(NOW, limit=10) == []
        assert await unit.store.overdue(later, limit=10) == [replace(ann, restated=1)]


@on_postgres
async def test_what_another_replica_holds_is_skipped_and_not_waited_for(bench: Workbench[Users]) -> None:
    held, free = user_called("ann"), user_called("bob")
    await add(bench, held, due_at=NOW - timedelta(seconds=2))
    await add(bench, free)
    async with bench.units.begin() as first, bench.units.begin() as second:
        assert await first.store.overdue(NOW, limit=1) == [held]
        assert await second.store.overdue(NOW, limit=10) == [free]


async def test_the_database_refuses_a_second_user_of_a_login(bench: Workbench[Users]) -> None:
    row = {
        "id": uuid7(),
        "login": "ann",
        "password_hash": "…",
        "traceparent": "",
        "restated": 0,
        "created_at": NOW,
    }
    with pytest.raises(IntegrityError, match="login"):
        await bench.execute(insert(users), [row, row | {"id": uuid7()}])
    async with bench.database.reading() as connection:
        assert (await connection.execute(select(users))).all() == []
