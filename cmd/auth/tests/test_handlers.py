"""Auth's handlers over the real store, on both databases: a login belongs to one user, an account is noted once."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from sqlalchemy import select, update

from auth import handlers, tables
from auth.app import service
from auth.domain import User
from auth.handlers import Registered, Registration
from auth.ports import AuthUnit, Users
from libs.contracts.auth import UserRegistered
from libs.contracts.billing import AccountOpened
from libs.errors import Kind, Refusal
from libs.ids import uuid7
from libs.messaging.bus import NOTHING_WAITS
from libs.messaging.restating import AT_ONCE
from libs.tests.units import Workbench, asked, shared_database, workbench

database_url = shared_database()


async def ask_again(unit: AuthUnit) -> None:
    """Ask again, while nothing waits at billing."""
    await handlers.restate_overdue(unit, NOTHING_WAITS)


@pytest.fixture
async def bench(database_url: str) -> AsyncIterator[Workbench[Users]]:
    async with workbench(database_url, service) as opened:
        yield opened


def registration_of(login: str) -> Registration:
    fact = UserRegistered(user_id=uuid7(), login=login, email=f"{login}@example.org", first_name="Ann", phone="+49 1")
    return Registration(fact, f"$argon2id$ of {login}")


def opened(user: UUID, account: UUID | None = None) -> AccountOpened:
    return AccountOpened(user_id=user, account_id=account or uuid7())


async def read(bench: Workbench[Users], login: str) -> User:
    async with bench.units.read() as store:
        user = await store.by_login(login)
    assert user is not None
    return user


def is_taken(answer: object) -> bool:
    return isinstance(answer, Refusal) and (answer.slug, answer.kind) == ("login_taken", Kind.CONFLICT)


async def test_who_registers_is_saved_and_stated_without_the_password(bench: Workbench[Users]) -> None:
    wanted = registration_of("ann")
    assert await bench.carry_out(handlers.register, wanted) == [Registered(wanted.fact.user_id, "ann")]
    assert [event.fact for event in bench.stated] == [wanted.fact]
    user = await read(bench, "ann")
    assert (user.id, user.password_hash, user.account_id) == (wanted.fact.user_id, wanted.password_hash, None)
    assert "argon2" not in (user.registration or "")


async def test_a_login_that_is_taken_is_refused_and_states_nothing(bench: Workbench[Users]) -> None:
    await bench.carry_out(handlers.register, registration_of("ann"))
    before = await bench.rows()
    (answer,) = await bench.carry_out(handlers.register, registration_of("ann"))
    assert is_taken(answer)
    assert bench.stated == []
    assert await bench.rows() == before


async def test_of_two_equal_logins_in_one_batch_the_first_gets_it(bench: Workbench[Users]) -> None:
    wanted = [registration_of(login) for login in ("bob", "ann", "bob")]
    first, other, second = await bench.carry_out(handlers.register, *wanted)
    assert (first, other) == (Registered(wanted[0].fact.user_id, "bob"), Registered(wanted[1].fact.user_id, "ann"))
    assert is_taken(second)
    assert [event.fact for event in bench.stated] == [wanted[0].fact, wanted[1].fact]
    assert (await read(bench, "bob")).password_hash == wanted[0].password_hash


async def test_of_two_equal_logins_at_once_one_gets_it(bench: Workbench[Users]) -> None:
    answers: list[Registered | Refusal] = []

    async def register(unit: AuthUnit) -> None:
        answers.extend(await handlers.register([asked(registration_of("ann"))], unit))

    assert await bench.overlap(register, register) is None
    assert isinstance(answers[0], Registered)
    assert is_taken(answers[1])
    assert (await read(bench, "ann")).id == answers[0].user_id


async def test_an_account_is_noted_once(bench: Workbench[Users]) -> None:
    wanted, account = registration_of("ann"), uuid7()
    user_id = wanted.fact.user_id
    await bench.carry_out(handlers.register, wanted)
    assert await bench.hear(handlers.on_accounts_opened, opened(user_id, account)) == []
    user = await read(bench, "ann")
    assert (user.account_id, user.registration) == (account, None)
    before = await bench.rows()
    again = opened(user_id, account)
    assert await bench.hear(handlers.on_accounts_opened, again) == []
    assert await bench.hear(handlers.on_accounts_opened, again, again, opened(user_id)) == []
    assert await bench.rows() == before


async def test_an_account_that_is_twice_in_a_batch_is_noted(bench: Workbench[Users]) -> None:
    first, second = registration_of("ann"), registration_of("bob")
    await bench.carry_out(handlers.register, first, second)
    facts = [opened(one.fact.user_id) for one in (first, second)]
    await bench.hear(handlers.on_accounts_opened, *facts, *facts)
    assert (await read(bench, "ann")).account_id == facts[0].account_id
    assert (await read(bench, "bob")).account_id == facts[1].account_id


async def test_the_account_of_somebody_unknown_changes_nothing(bench: Workbench[Users]) -> None:
    await bench.carry_out(handlers.register, registration_of("ann"))
    before = await bench.rows()
    assert await bench.hear(handlers.on_accounts_opened, opened(uuid7())) == []
    assert await bench.rows() == before


async def make_overdue(bench: Workbench[Users]) -> None:
    """Let the time of every answer that is awaited be over."""
    late = datetime.now(UTC) - timedelta(seconds=1)
    await bench.execute(update(tables.users).where(tables.users.c.due_at.is_not(None)).values(due_at=late))


async def patience(bench: Workbench[Users]) -> float:
    """Read in how many seconds the answer to the one registration there is, is overdue."""
    async with bench.database.reading() as connection:
        due: datetime = (await connection.execute(select(tables.users.c.due_at))).scalar_one()
    return (due - datetime.now(UTC)).total_seconds()


async def test_an_overdue_registration_is_restated_at_growing_intervals(bench: Workbench[Users]) -> None:
    wanted = registration_of("ann")
    await bench.carry_out(handlers.register, wanted)
    (question,) = bench.stated
    intervals = [await patience(bench)]
    for _ in range(3):
        assert await bench.do(ask_again) == []
        await make_overdue(bench)
        assert await bench.do(ask_again) == [wanted.fact]
        (event,) = bench.stated
        assert event.restated
        assert event.id != question.id
        assert event.trace.trace_id == (await read(bench, "ann")).traceparent.split("-")[1]
        intervals.append(await patience(bench))
    assert [round(seconds, -1) for seconds in intervals] == [10, 20, 40, 80]


async def test_a_registration_with_its_account_is_never_restated(bench: Workbench[Users]) -> None:
    wanted = registration_of("ann")
    await bench.carry_out(handlers.register, wanted)
    await make_overdue(bench)
    await bench.do(ask_again)
    await bench.hear(handlers.on_accounts_opened, opened(wanted.fact.user_id))
    await make_overdue(bench)
    assert await bench.do(ask_again) == []


async def test_replicas_that_restate_at_once_restate_each_registration_once(bench: Workbench[Users]) -> None:
    await bench.carry_out(handlers.register, registration_of("ann"), registration_of("bob"))
    await make_overdue(bench)
    assert await bench.overlap(ask_again, ask_again) is None
    assert [(await read(bench, login)).restated for login in ("ann", "bob")] == [1, 1]


async def test_one_tick_restates_so_many_registrations_at_most(bench: Workbench[Users]) -> None:
    await bench.carry_out(handlers.register, *(registration_of(f"user{number}") for number in range(AT_ONCE + 1)))
    await make_overdue(bench)
    assert len(await bench.do(ask_again)) == AT_ONCE
    assert len(await bench.do(ask_again)) == 1
