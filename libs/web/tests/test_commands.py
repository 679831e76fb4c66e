"""Commands: concurrent requests are committed together, each has its own answer, and its effect once."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from pydantic import BaseModel
from sqlalchemy import insert, update
from sqlalchemy.exc import IntegrityError, OperationalError
from sqlalchemy.ext.asyncio import AsyncConnection

from libs.contracts.orders import OrderPlaced
from libs.errors import FieldError, Kind, Refusal
from libs.ids import uuid7
from libs.messaging.memory import MemoryBus
from libs.messaging.tables import idempotency_keys
from libs.messaging.tests.stage import Stage, effects, effects_in, have_effect, opened, rows, spoil_commit
from libs.messaging.unit import Unit
from libs.money import Money
from libs.storage import Database
from libs.tests.eventually import eventually
from libs.tests.units import shared_database
from libs.tracing import Trace
from libs.web import commands
from libs.web.commands import Command, Commands, Key, Outcome

database_url = shared_database()

SEVERAL_WRITERS = pytest.mark.parametrize("database_url", ["postgres"], indirect=True)
"""For tests in which two units are under way at once, which SQLite does not allow."""

Work = Unit[AsyncConnection]


class Receipt(BaseModel):
    """What a deposit is answered with; `id` is made anew each time one is carried out."""

    id: UUID
    account: UUID
    amount: Money


@dataclass(frozen=True, slots=True)
class Deposit:
    """Money for an account, and what goes wrong when it is carried out."""

    account: UUID = field(default_factory=uuid7)
    amount: int = 15_000
    trouble: Callable[[Work], Awaitable[None]] | None = None


class Till:
    """One process that carries out deposits, and remembers which it was handed together."""

    def __init__(self, database: Database, *, batch_limit: int = 256) -> None:
        self.stage = Stage(database, MemoryBus())
        self.commands: Commands[AsyncConnection] = Commands(self.stage.units, batch_limit=batch_limit)
        self.batches: list[list[UUID]] = []
        self.answer: Callable[[Deposit], Receipt | Refusal] = receipt
        self.effect: Callable[[Deposit], UUID] = lambda deposit: deposit.account
        self.met = asyncio.Barrier(1)
        self.may_commit = asyncio.Event()
        self.may_commit.set()

    async def deposit(self, batch: Sequence[Command[Deposit]], work: Work) -> Sequence[Receipt | Refusal]:
        self.batches.append([command.body.account for command in batch])
        answers = [self.answer(command.body) for command in batch]
        async with asyncio.timeout(5):
            await self.met.wait()
        for command, answer in zip(batch, answers, strict=True):
            if isinstance(answer, Receipt):
                await have_effect(work, self.effect(command.body))
                work.publish(OrderPlaced(order_id=command.body.account, user_id=answer.id, price=1), cause=command)
        await self.may_commit.wait()
        for command in batch:
            if command.body.trouble:
                await command.body.trouble(work)
        return answers

    async def execute(self, deposit: Deposit, key: Key | None = None) -> Outcome[Receipt]:
        return await self.commands.execute(self.deposit, Command(deposit, Trace.start(), key), Receipt)

    def send(self, deposit: Deposit, key: Key | None = None) -> "asyncio.Task[Outcome[Receipt]]":
        return asyncio.create_task(self.execute(deposit, key))

    @asynccontextmanager
    async def busy(self) -> AsyncIterator["asyncio.Task[Outcome[Receipt]]"]:
        """Have one deposit under way until the end of the block, so that those sent in it meet in one batch."""
        self.may_commit.clear()
        before = len(self.batches)
        first = self.send(Deposit())
        await eventually(lambda: len(self.batches) > before)
        yield first
        await asyncio.sleep(0)  # those sent last have not had their first step yet
        self.may_commit.set()

    @property
    def waiting(self) -> int:
        return sum(len(line._waiting) for line in self.commands._lines.values())


def receipt(deposit: Deposit) -> Receipt:
    return Receipt(id=uuid7(), account=deposit.account, amount=deposit.amount)


def key_of(deposit: Deposit, name: str = "a key") -> Key:
    body = f"{deposit.account} {deposit.amount}"
    return Key.of(b"secret", subject="ann", route="POST /deposits", key=name, body=body)


@pytest.fixture
async def database(database_url: str, tmp_path: Path) -> AsyncIterator[Database]:
    async with opened(database_url, tmp_path / "migrations") as database:
        yield database


@pytest.fixture
def till(database: Database) -> Till:
    return Till(database)


async def all_of(tasks: Sequence["asyncio.Task[Outcome[Receipt]]"]) -> list[Outcome[Receipt]]:
    async with asyncio.timeout(10):
        return await asyncio.gather(*tasks)


async def refusal_of(work: Awaitable[Any]) -> Refusal:
    with pytest.raises(Refusal) as caught:
        await work
    return caught.value


# Together


async def test_a_lone_command_is_carried_out_alone_and_at_once(till: Till) -> None:
    deposit = Deposit()

    outcome = await till.execute(deposit)

    assert (outcome.result.account, outcome.result.amount, outcome.replayed) == (deposit.account, 15_000, False)
    assert till.batches == [[deposit.account]]
    assert await effects_in(till.stage.database) == {deposit.account: 1}


async def test_commands_that_arrive_while_one_is_under_way_are_committed_together(till: Till) -> None:
    deposits = [Deposit(amount=amount) for amount in range(1, 6)]
    async with till.busy() as first:
        sent = [till.send(deposit) for deposit in deposits]

    outcomes = await all_of(sent)

    assert [len(batch) for batch in till.batches] == [1, 5]
    assert [(one.result.account, one.result.amount) for one in outcomes] == [(d.account, d.amount) for d in deposits]
    assert await effects_in(till.stage.database) == dict.fromkeys(
        [(await first).result.account, *(deposit.account for deposit in deposits)], 1
    )


async def test_a_batch_is_no_larger_than_its_limit(database: Database) -> None:
    till = Till(database, batch_limit=2)
    async with till.busy():
        sent = [till.send(Deposit()) for _ in range(5)]
    await all_of(sent)

    assert [len(batch) for batch in till.batches] == [1, 2, 2, 1]


async def test_an_answer_comes_after_the_commit(till: Till) -> None:
    async with till.busy() as sent:
        assert await effects_in(till.stage.database) == {}
        assert not sent.done()

    outcome = await sent
    assert await effects_in(till.stage.database) == {outcome.result.account: 1}
    assert [row.subject for row in await rows(till.stage.database)] == [f"orders.order.placed.{outcome.result.account}"]


async def test_each_command_gets_its_own_result_or_refusal(till: Till) -> None:
    deposits = [Deposit(amount=amount) for amount in (1, 2, 3)]
    poor = Refusal("insufficient_funds", "no", Kind.CONFLICT)
    till.answer = lambda deposit: poor if deposit.amount == 2 else receipt(deposit)
    async with till.busy():
        sent = [till.send(deposit) for deposit in deposits]

    assert (await refusal_of(sent[1])).slug == "insufficient_funds"
    outcomes = await all_of([sent[0], sent[2]])
    assert [one.result.amount for one in outcomes] == [1, 3]
    assert [len(batch) for batch in till.batches] == [1, 3]


@SEVERAL_WRITERS
async def test_different_kinds_of_commands_do_not_wait_for_each_other(database: Database) -> None:
    till, other = Till(database), Till(database)
    async with till.busy():
        outcome = await till.commands.execute(other.deposit, Command(Deposit(), Trace.start()), Receipt)

    assert not outcome.replayed


# Trouble


async def break_something(_work: Work) -> None:
    raise ZeroDivisionError


async def break_a_rule(work: Work) -> None:
    twice = {"id": uuid7(), "times": 1}
    await work.connection.execute(insert(effects), [twice])
    await work.connection.execute(insert(effects), [twice])


@pytest.mark.parametrize(
    ("trouble", "error"),
    [(break_something, ZeroDivisionError), (break_a_rule, IntegrityError), (spoil_commit, IntegrityError)],
)
async def test_a_command_that_breaks_its_transaction_does_not_break_the_others(
    till: Till, trouble: Callable[[Work], Awaitable[None]], error: type[Exception]
) -> None:
    deposits = [Deposit() for _ in range(4)]
    broken = Deposit(trouble=trouble)
    async with till.busy() as first:
        sent = [till.send(deposit) for deposit in (*deposits[:2], broken, *deposits[2:])]

    with pytest.raises(error):
        await sent.pop(2)
    accounts = [(await first).result.account, *(one.result.account for one in await all_of(sent))]

    assert accounts[1:] == [deposit.account for deposit in deposits]
    assert await effects_in(till.stage.database) == dict.fromkeys(accounts, 1)
    subjects = [row.subject for row in await rows(till.stage.database)]
    assert sorted(subjects) == sorted(f"orders.order.placed.{account}" for account in accounts)


async def test_what_broke_its_transaction_is_not_recorded(till: Till) -> None:
    deposit = Deposit()
    key = key_of(deposit)
    with pytest.raises(IntegrityError):
        await till.execute(Deposit(deposit.account, deposit.amount, spoil_commit), key)

    assert await rows(till.stage.database, idempotency_keys) == []
    assert not (await till.execute(deposit, key)).replayed
    assert await effects_in(till.stage.database) == {deposit.account: 1}


async def test_while_the_database_is_away_commands_are_refused_and_may_come_again(till: Till) -> None:
    async def lose_the_database(_work: Work) -> None:
        raise OperationalError("select", {}, Exception("away"))

    deposit, other = Deposit(), Deposit()
    key = key_of(deposit)
    async with till.busy():
        sent = [till.send(Deposit(deposit.account, deposit.amount, lose_the_database), key), till.send(other)]

    refusals = [await refusal_of(task) for task in sent]

    assert [(refusal.slug, refusal.kind) for refusal in refusals] == [("unavailable", Kind.UNAVAILABLE)] * 2
    assert not (await till.execute(deposit, key)).replayed
    assert (await effects_in(till.stage.database))[deposit.account] == 1


@SEVERAL_WRITERS
async def test_commands_that_lock_each_other_out_are_carried_out_all_the_same(database: Database) -> None:
    here, there = Till(database), Till(database)
    one, other = (await here.execute(Deposit())).result.account, (await here.execute(Deposit())).result.account
    met = asyncio.Barrier(2)

    def touch(first: UUID, second: UUID, times: list[int]) -> Callable[[Work], Awaitable[None]]:
        async def trouble(work: Work) -> None:
            times.append(1)
            if len(times) > 1:
                return
            await work.connection.execute(update(effects).where(effects.c.id == first).values(times=2))
            async with asyncio.timeout(5):
                await met.wait()
            await work.connection.execute(update(effects).where(effects.c.id == second).values(times=2))

        return trouble

    tries: tuple[list[int], list[int]] = ([], [])
    outcomes = await all_of(
        [
            here.send(Deposit(trouble=touch(one, other, tries[0]))),
            there.send(Deposit(trouble=touch(other, one, tries[1]))),
        ]
    )

    assert sorted(map(len, tries)) == [1, 2]
    effects_had = await effects_in(database)
    assert [effects_had[outcome.result.account] for outcome in outcomes] == [1, 1]


async def test_a_client_that_goes_away_disturbs_nobody(till: Till) -> None:
    gone, staying = Deposit(), Deposit()
    async with till.busy():
        leaving, waiting = till.send(gone), till.send(staying)
        await asyncio.sleep(0)
        leaving.cancel()

    assert (await waiting).result.account == staying.account
    # Whether the client still listens changes nothing: the command was taken, and is carried out.
    assert (await effects_in(till.stage.database))[gone.account] == 1


async def test_too_many_waiting_commands_are_refused(till: Till, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "WAITING_AT_MOST", 3)
    async with till.busy():
        sent = [till.send(Deposit()) for _ in range(3)]
        await eventually(lambda: till.waiting == 3)
        refusal = await refusal_of(till.execute(Deposit()))

    assert (refusal.slug, refusal.kind) == ("overloaded", Kind.UNAVAILABLE)
    assert len(await all_of(sent)) == 3
    await till.execute(Deposit())


async def test_finishing_waits_for_what_was_taken(till: Till) -> None:
    async with till.busy():
        sent = [till.send(Deposit()) for _ in range(3)]
    await till.commands.finish()

    assert till.waiting == 0
    assert len(await effects_in(till.stage.database)) == 4
    await all_of(sent)


# Once


async def test_the_same_key_and_body_is_answered_with_the_first_result(till: Till) -> None:
    deposit = Deposit()

    first = await till.execute(deposit, key_of(deposit))
    again = await till.execute(deposit, key_of(deposit))

    assert (first.replayed, again.replayed) == (False, True)
    assert again.result == first.result
    assert await effects_in(till.stage.database) == {deposit.account: 1}


async def test_another_process_answers_with_the_first_result_too(till: Till, database: Database) -> None:
    deposit = Deposit()
    first = await till.execute(deposit, key_of(deposit))

    again = await Till(database).execute(deposit, key_of(deposit))

    assert (again.result, again.replayed) == (first.result, True)


async def test_twins_in_one_batch_have_one_effect_and_one_result(till: Till) -> None:
    deposit = Deposit()
    async with till.busy():
        sent = [till.send(deposit, key_of(deposit)) for _ in range(3)]

    outcomes = await all_of(sent)

    assert [outcome.replayed for outcome in outcomes] == [False, True, True]
    assert len({outcome.result.id for outcome in outcomes}) == 1
    assert till.batches[1:] == [[deposit.account]]
    assert (await effects_in(till.stage.database))[deposit.account] == 1


async def test_a_hundred_at_once_have_one_effect_and_one_result(database: Database) -> None:
    till, deposit = Till(database, batch_limit=16), Deposit()

    outcomes = await all_of([till.send(deposit, key_of(deposit)) for _ in range(100)])

    assert [outcome.replayed for outcome in outcomes].count(False) == 1
    assert len({outcome.result.id for outcome in outcomes}) == 1
    assert await effects_in(database) == {deposit.account: 1}


@asynccontextmanager
async def replicas(url: str, count: int) -> AsyncIterator[list[Till]]:
    """Several processes with connections of their own to one database."""
    async with AsyncExitStack() as stack:
        databases = [Database(url, name="replica") for _ in range(count)]
        for database in databases:
            stack.push_async_callback(database.close)
        yield [Till(database) for database in databases]


async def test_two_replicas_that_get_the_same_key_at_once_have_one_effect_and_one_result(
    database: Database, database_url: str
) -> None:
    deposit = Deposit()
    async with replicas(database_url, 2) as tills:
        met = asyncio.Barrier(2)
        for till in tills:
            till.effect = lambda _deposit: uuid7()  # nothing but the key stands between it and a second effect
            if not database.is_sqlite:  # which lets nobody begin before the other has ended
                till.met = met  # both have seen no record by then
        outcomes = await all_of([till.send(deposit, key_of(deposit)) for till in tills])

    assert sorted(outcome.replayed for outcome in outcomes) == [False, True]
    assert outcomes[0].result == outcomes[1].result
    assert list((await effects_in(database)).values()) == [1]
    assert len(await rows(database)) == 1
    assert len(await rows(database, idempotency_keys)) == 1
    assert database.is_sqlite or [len(till.batches) for till in tills] == [1, 1]


async def test_many_keys_at_several_replicas_each_have_one_effect(database: Database, database_url: str) -> None:
    deposits = [Deposit() for _ in range(30)]
    async with replicas(database_url, 3) as tills:
        outcomes = await all_of(
            [till.send(deposit, key_of(deposit, str(n))) for till in tills for n, deposit in enumerate(deposits)]
        )

    assert [outcome.replayed for outcome in outcomes].count(False) == 30
    assert len({outcome.result.id for outcome in outcomes}) == 30
    assert await effects_in(database) == {deposit.account: 1 for deposit in deposits}


async def test_another_body_under_the_same_key_is_refused(till: Till) -> None:
    deposit, other = Deposit(), Deposit(amount=1)
    await till.execute(deposit, key_of(deposit))

    refusal = await refusal_of(till.execute(other, key_of(other)))

    assert (refusal.slug, refusal.kind) == ("idempotency_key_reused", Kind.INVALID)
    assert await effects_in(till.stage.database) == {deposit.account: 1}
    assert (await till.execute(deposit, key_of(deposit))).replayed


async def test_another_body_under_the_same_key_is_refused_in_the_same_batch_too(till: Till) -> None:
    deposit, other = Deposit(), Deposit(amount=1)
    async with till.busy():
        sent = [till.send(deposit, key_of(deposit)), till.send(other, key_of(other))]

    assert (await refusal_of(sent[1])).slug == "idempotency_key_reused"
    assert (await sent[0]).result.account == deposit.account
    assert other.account not in await effects_in(till.stage.database)


async def test_commands_without_a_key_are_carried_out_each_time(till: Till) -> None:
    deposit = Deposit()
    async with till.busy():
        sent = [till.send(deposit), till.send(deposit)]

    assert [outcome.replayed for outcome in await all_of(sent)] == [False, False]
    assert (await effects_in(till.stage.database))[deposit.account] == 2
    assert await rows(till.stage.database, idempotency_keys) == []


async def test_a_refusal_because_of_the_state_is_recorded_and_replayed(till: Till) -> None:
    deposit = Deposit()
    fields = [FieldError("amount", "must be covered")]
    till.answer = lambda _deposit: Refusal("insufficient_funds", "the account holds 0.00", Kind.CONFLICT, fields)
    first = await refusal_of(till.execute(deposit, key_of(deposit)))

    till.answer = receipt  # by now it could be carried out, but the answer was given
    again = await refusal_of(till.execute(deposit, key_of(deposit)))

    assert (again.slug, again.detail, again.kind) == (first.slug, first.detail, first.kind)
    assert again.fields == first.fields == tuple(fields)
    assert await effects_in(till.stage.database) == {}
    other = Deposit(amount=1)
    assert (await refusal_of(till.execute(other, key_of(other)))).slug == "idempotency_key_reused"


@pytest.mark.parametrize("kind", [kind for kind in Kind if kind is not Kind.CONFLICT])
async def test_any_other_refusal_is_not_recorded(till: Till, kind: Kind) -> None:
    deposit = Deposit()
    till.answer = lambda _deposit: Refusal("not_now", "come again", kind)
    assert (await refusal_of(till.execute(deposit, key_of(deposit)))).kind is kind

    till.answer = receipt
    outcome = await till.execute(deposit, key_of(deposit))

    assert not outcome.replayed
    assert await effects_in(till.stage.database) == {deposit.account: 1}


async def test_twins_share_a_refusal_that_is_not_recorded(till: Till) -> None:
    deposit = Deposit()
    async with till.busy():
        till.answer = lambda _deposit: Refusal("no_such_account", "none", Kind.NOT_FOUND)
        sent = [till.send(deposit, key_of(deposit)) for _ in range(2)]

    assert [(await refusal_of(task)).slug for task in sent] == ["no_such_account"] * 2
    assert till.batches[1:] == [[deposit.account]]
    assert await rows(till.stage.database, idempotency_keys) == []


async def test_a_record_is_written_in_the_transaction_of_the_effect(till: Till) -> None:
    deposit = Deposit()
    till.may_commit.clear()
    sent = till.send(deposit, key_of(deposit))
    await eventually(lambda: bool(till.batches))
    assert await rows(till.stage.database, idempotency_keys) == []
    till.may_commit.set()
    await sent

    (record,) = await rows(till.stage.database, idempotency_keys)
    assert record.id == key_of(deposit).id
    assert record.fingerprint == key_of(deposit).fingerprint


async def test_only_records_older_than_a_week_are_pruned(till: Till, database: Database) -> None:
    week, minute = timedelta(days=7), timedelta(minutes=1)
    deposits = {"young": Deposit(), "nearly old": Deposit(), "old": Deposit(), "older": Deposit()}
    ages = {"young": minute, "nearly old": week - minute, "old": week + minute, "older": 2 * week}
    for name, deposit in deposits.items():
        await till.execute(deposit, key_of(deposit, name))
    async with database.writing() as connection:
        for name, age in ages.items():
            of_this_age = update(idempotency_keys).where(idempotency_keys.c.id == key_of(deposits[name], name).id)
            await connection.execute(of_this_age.values(created_at=datetime.now(UTC) - age))

    async with database.writing() as connection:
        pruned = [await commands.prune(connection, now=datetime.now(UTC), limit=1) for _ in range(3)]

    assert pruned == [1, 1, 0]
    replayed = {
        name: (await till.execute(deposit, key_of(deposit, name))).replayed for name, deposit in deposits.items()
    }
    assert replayed == {"young": True, "nearly old": True, "old": False, "older": False}


def test_a_key_belongs_to_its_subject_and_route_and_nothing_in_it_can_be_read() -> None:
    plain = {"subject": "ann", "route": "POST /deposits", "key": "k", "body": "{}"}
    key = Key.of(b"secret", **plain)

    others = [Key.of(b"secret", **{**plain, part: "other"}) for part in ("subject", "route", "key")]
    assert len({key.id, Key.of(b"another", **plain).id, *(other.id for other in others)}) == 5
    assert {other.fingerprint for other in others} == {key.fingerprint}
    assert Key.of(b"secret", **{**plain, "body": "other"}).id == key.id
    assert Key.of(b"secret", **{**plain, "body": "other"}).fingerprint != key.fingerprint
    assert Key.of(b"another", **plain).fingerprint != key.fingerprint
    assert Key.of(b"secret", **plain) == key
