"""Billing's handlers over the real books, on both databases: each cause has its effect once."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import select, text

from billing import handlers
from billing.app import service
from billing.domain import CASH, SALES
from billing.handlers import Moved, Movement
from billing.ports import BillingUnit, Books
from billing.tables import transfers
from libs.contracts import Fact
from libs.contracts.auth import UserRegistered
from libs.contracts.billing import (
    AccountCredited,
    AccountDebited,
    AccountOpened,
    DeclineReason,
    PaymentAccepted,
    PaymentDeclined,
    PaymentRefunded,
)
from libs.contracts.orders import OrderCancelled, OrderPlaced
from libs.errors import Kind, Refusal
from libs.ids import uuid7
from libs.messaging.envelope import Event
from libs.storage import is_lost_race
from libs.tests.units import Workbench, heard, on_postgres, shared_database, workbench

database_url = shared_database()
Handler: TypeAlias = Callable[[Sequence[Event[Any]], BillingUnit], Awaitable[None]]


@pytest.fixture
async def bench(database_url: str) -> AsyncIterator[Workbench[Books]]:
    async with workbench(database_url, service) as opened:
        yield opened


def registered(user: UUID) -> UserRegistered:
    return UserRegistered(user_id=user, login="ann", email="ann@example.org")


def placed(user: UUID, price: int, order: UUID | None = None) -> OrderPlaced:
    return OrderPlaced(order_id=order or uuid7(), user_id=user, price=price)


def cancelled(order: OrderPlaced) -> OrderCancelled:
    return OrderCancelled(order_id=order.order_id, user_id=order.user_id, price=order.price)


def accepted(order: OrderPlaced) -> PaymentAccepted:
    return PaymentAccepted(order_id=order.order_id, user_id=order.user_id, amount=order.price)


def declined(order: OrderPlaced, reason: DeclineReason) -> PaymentDeclined:
    return PaymentDeclined(order_id=order.order_id, user_id=order.user_id, amount=order.price, reason=reason)


def refunded(order: OrderPlaced, amount: int) -> PaymentRefunded:
    return PaymentRefunded(order_id=order.order_id, user_id=order.user_id, amount=amount)


async def account_of(bench: Workbench[Books], amount: int = 0) -> UUID:
    """Open an account for somebody new, and bring `amount` in."""
    user = uuid7()
    await bench.hear(handlers.on_users_registered, registered(user))
    if amount:
        await bench.carry_out(handlers.deposit, Movement(uuid7(), user, amount))
    return user


async def balance_of(bench: Workbench[Books], user: UUID) -> int:
    async with bench.units.read() as books:
        return (await books.wallets([user]))[user].balance_minor


async def check_books(bench: Workbench[Books]) -> None:
    """Check that every wallet is the sum of its entries, that all entries sum to zero, and that no link is missing."""
    async with bench.database.reading() as connection:
        entries = await connection.execute(text("select coalesce(sum(amount_minor), 0) from entries"))
        assert entries.scalar_one() == 0
        wallets = await connection.execute(
            text(
                "select w.balance_minor, w.version, coalesce(sum(e.amount_minor), 0) as total, count(e.amount_minor) "
                "as many from wallets w left join entries e on e.account_id = w.account_id "
                "group by w.account_id, w.balance_minor, w.version"
            )
        )
        for wallet in wallets:
            assert wallet.balance_minor == wallet.total >= 0
            assert wallet.version == wallet.many


async def test_everyone_who_registers_gets_one_empty_account(bench: Workbench[Books]) -> None:
    ann, bob = uuid7(), uuid7()
    stated = await bench.hear(handlers.on_users_registered, registered(ann), registered(bob))
    async with bench.units.read() as books:
        wallets = await books.wallets([ann, bob])
    assert stated == [AccountOpened(user_id=user, account_id=wallets[user].account_id) for user in (ann, bob)]
    assert {(wallet.balance_minor, wallet.version) for wallet in wallets.values()} == {(0, 0)}


async def test_an_order_that_the_account_can_pay_is_accepted(bench: Workbench[Books]) -> None:
    user = await account_of(bench, 500)
    order = placed(user, 300)
    assert await bench.hear(handlers.on_orders_placed, order) == [accepted(order)]
    assert await balance_of(bench, user) == 200
    await check_books(bench)


async def test_the_answer_continues_the_trace_of_the_question(bench: Workbench[Books]) -> None:
    question = heard(placed(await account_of(bench), 300))
    await bench.hear(handlers.on_orders_placed, question)
    (answer,) = bench.stated
    assert answer.trace.trace_id == question.trace.trace_id
    assert answer.trace.span_id != question.trace.span_id
    assert not answer.restated


async def test_an_order_of_somebody_without_an_account_is_declined(bench: Workbench[Books]) -> None:
    order = placed(uuid7(), 300)
    stated = await bench.hear(handlers.on_orders_placed, order)
    assert stated == [declined(order, DeclineReason.ACCOUNT_NOT_OPEN)]
    await bench.hear(handlers.on_users_registered, registered(order.user_id))
    assert await bench.hear(handlers.on_orders_placed, order) == []


async def test_in_a_batch_of_several_users_only_the_poor_one_is_declined(bench: Workbench[Books]) -> None:
    rich, poor, other = await account_of(bench, 900), await account_of(bench, 299), await account_of(bench, 300)
    orders = [placed(rich, 300), placed(poor, 300), placed(other, 300), placed(rich, 600)]
    stated = await bench.hear(handlers.on_orders_placed, *orders)
    assert stated == [
        accepted(orders[0]),
        declined(orders[1], DeclineReason.INSUFFICIENT_FUNDS),
        accepted(orders[2]),
        accepted(orders[3]),
    ]
    assert [await balance_of(bench, user) for user in (rich, poor, other)] == [0, 299, 0]
    await check_books(bench)


async def test_of_two_orders_for_the_last_coin_the_first_gets_it(bench: Workbench[Books]) -> None:
    user = await account_of(bench, 100)
    first, second = placed(user, 100), placed(user, 100)
    stated = await bench.hear(handlers.on_orders_placed, first, second)
    assert stated == [accepted(first), declined(second, DeclineReason.INSUFFICIENT_FUNDS)]
    assert await balance_of(bench, user) == 0
    await check_books(bench)


async def test_a_cancelled_order_gives_the_money_back(bench: Workbench[Books]) -> None:
    user = await account_of(bench, 500)
    order = placed(user, 300)
    await bench.hear(handlers.on_orders_placed, order)
    assert await bench.hear(handlers.on_orders_cancelled, cancelled(order)) == [refunded(order, 300)]
    assert await balance_of(bench, user) == 500
    await check_books(bench)


async def test_an_order_that_is_placed_and_cancelled_in_one_unit_leaves_the_money_where_it_was(
    bench: Workbench[Books],
) -> None:
    user = await account_of(bench, 500)
    order, other = placed(user, 300), placed(user, 400)
    async with bench.units.begin() as unit:
        await handlers.on_orders_placed([heard(order)], unit)
        await handlers.on_orders_cancelled([heard(cancelled(order))], unit)
        await handlers.on_orders_placed([heard(other)], unit)
    assert [event.fact for event in bench.stated] == [accepted(order), refunded(order, 300), accepted(other)]
    assert await balance_of(bench, user) == 100
    await check_books(bench)


async def test_an_order_cancelled_before_it_arrives_is_declined_for_good(bench: Workbench[Books]) -> None:
    user = await account_of(bench, 500)
    order = placed(user, 300)
    stated = await bench.hear(handlers.on_orders_cancelled, cancelled(order))
    assert stated == [declined(order, DeclineReason.ORDER_CANCELLED), refunded(order, 0)]
    before = await bench.rows()
    assert await bench.hear(handlers.on_orders_placed, order) == []
    assert await bench.rows() == before
    assert await balance_of(bench, user) == 500


async def test_a_declined_order_that_is_cancelled_gives_back_nothing(bench: Workbench[Books]) -> None:
    user = await account_of(bench, 100)
    order = placed(user, 300)
    await bench.hear(handlers.on_orders_placed, order)
    assert await bench.hear(handlers.on_orders_cancelled, cancelled(order)) == [refunded(order, 0)]
    assert await balance_of(bench, user) == 100


async def test_a_cancellation_by_somebody_without_an_account_is_settled(bench: Workbench[Books]) -> None:
    order = placed(uuid7(), 300)
    stated = await bench.hear(handlers.on_orders_cancelled, cancelled(order))
    assert stated == [declined(order, DeclineReason.ORDER_CANCELLED), refunded(order, 0)]


@dataclass(frozen=True)
class Delivery:
    """A fact that was handled, its handler, and what billing answers when it is asked again."""

    fact: Fact
    handler: Handler
    answer: Fact


async def handled(bench: Workbench[Books], kind: str) -> Delivery:
    """Handle a fact of a kind for the first time."""
    user = await account_of(bench, 500)
    order = placed(user, 600 if kind == "declined" else 300)
    match kind:
        case "registered":
            async with bench.units.read() as books:
                wallet = (await books.wallets([user]))[user]
            opened = AccountOpened(user_id=user, account_id=wallet.account_id)
            return Delivery(registered(user), handlers.on_users_registered, opened)
        case "accepted":
            delivery = Delivery(order, handlers.on_orders_placed, accepted(order))
        case "declined":
            answer = declined(order, DeclineReason.INSUFFICIENT_FUNDS)
            delivery = Delivery(order, handlers.on_orders_placed, answer)
        case "cancelled":
            await bench.hear(handlers.on_orders_placed, order)
            delivery = Delivery(cancelled(order), handlers.on_orders_cancelled, refunded(order, 300))
        case _:
            delivery = Delivery(cancelled(order), handlers.on_orders_cancelled, refunded(order, 0))
    await bench.hear(delivery.handler, delivery.fact)
    return delivery


KINDS = pytest.mark.parametrize("kind", ["registered", "accepted", "declined", "cancelled", "cancelled early"])


@KINDS
async def test_what_is_delivered_again_changes_nothing(bench: Workbench[Books], kind: str) -> None:
    delivery = await handled(bench, kind)
    before = await bench.rows()
    assert await bench.hear(delivery.handler, delivery.fact) == []
    assert await bench.hear(delivery.handler, delivery.fact, delivery.fact) == []
    assert await bench.rows() == before


@KINDS
async def test_a_restated_question_is_answered_again_without_a_new_effect(bench: Workbench[Books], kind: str) -> None:
    delivery = await handled(bench, kind)
    before = await bench.rows()
    again = heard(delivery.fact, restated=True)
    assert await bench.hear(delivery.handler, again) == [delivery.answer]
    assert await bench.hear(delivery.handler, delivery.fact, again) == [delivery.answer]
    assert await bench.hear(delivery.handler, again, delivery.fact) == [delivery.answer]
    assert await bench.rows() == before


@pytest.mark.parametrize("restated", [False, True])
async def test_what_comes_twice_in_its_first_batch_has_one_effect(bench: Workbench[Books], *, restated: bool) -> None:
    user, newcomer = await account_of(bench, 500), uuid7()
    order, early = placed(user, 200), placed(user, 200)

    async def twice(handler: Handler, fact: Fact) -> list[Fact]:
        return await bench.hear(handler, fact, heard(fact, restated=restated))

    (opened,) = await twice(handlers.on_users_registered, registered(newcomer))
    assert isinstance(opened, AccountOpened)
    assert await twice(handlers.on_orders_placed, order) == [accepted(order)]
    assert await balance_of(bench, user) == 300
    assert await twice(handlers.on_orders_cancelled, cancelled(order)) == [refunded(order, 200)]
    assert await balance_of(bench, user) == 500
    tombstone = declined(early, DeclineReason.ORDER_CANCELLED)
    assert await twice(handlers.on_orders_cancelled, cancelled(early)) == [tombstone, refunded(early, 0)]
    await check_books(bench)


async def test_a_restated_question_that_never_arrived_is_decided_now(bench: Workbench[Books]) -> None:
    user = await account_of(bench, 500)
    order = placed(user, 200)
    assert await bench.hear(handlers.on_orders_placed, heard(order, restated=True)) == [accepted(order)]
    assert await balance_of(bench, user) == 300


async def test_deposits_and_withdrawals_are_made_in_order_and_stated(bench: Workbench[Books]) -> None:
    user = await account_of(bench)
    first, second, third = (Movement(uuid7(), user, amount) for amount in (500, 200, 301))
    moved = await bench.carry_out(handlers.deposit, first, second)
    assert moved == [Moved(first.transfer_id, 500, 500), Moved(second.transfer_id, 200, 700)]
    async with bench.units.read() as books:
        account = (await books.wallets([user]))[user].account_id
    assert [event.fact for event in bench.stated] == [
        AccountCredited(
            user_id=user,
            account_id=account,
            transfer_id=movement.transfer_id,
            amount=movement.amount_minor,
            balance=balance,
            version=version,
        )
        for movement, balance, version in ((first, 500, 1), (second, 700, 2))
    ]
    (taken,) = await bench.carry_out(handlers.withdraw, third)
    assert taken == Moved(third.transfer_id, 301, 399)
    (debited,) = [event.fact for event in bench.stated]
    assert isinstance(debited, AccountDebited)
    assert (debited.amount, debited.balance, debited.version) == (301, 399, 3)
    await check_books(bench)


async def test_one_withdrawal_too_many_is_refused_alone(bench: Workbench[Books]) -> None:
    user = await account_of(bench, 500)
    answers = await bench.carry_out(handlers.withdraw, *(Movement(uuid7(), user, 200) for _ in range(3)))
    assert [isinstance(answer, Moved) for answer in answers] == [True, True, False]
    refusal = answers[2]
    assert isinstance(refusal, Refusal)
    assert (refusal.slug, refusal.kind) == ("insufficient_funds", Kind.CONFLICT)
    assert len(bench.stated) == 2
    assert await balance_of(bench, user) == 100


async def test_who_has_no_account_can_move_nothing(bench: Workbench[Books]) -> None:
    rich, nobody = await account_of(bench, 500), uuid7()
    for handler in (handlers.deposit, handlers.withdraw):
        refusal, moved = await bench.carry_out(handler, Movement(uuid7(), nobody, 100), Movement(uuid7(), rich, 100))
        assert isinstance(refusal, Refusal)
        assert (refusal.slug, refusal.kind) == ("account_not_open", Kind.NOT_FOUND)
        assert isinstance(moved, Moved)
    assert await balance_of(bench, rich) == 500


async def test_units_at_once_on_one_wallet_lose_no_update(bench: Workbench[Books]) -> None:
    user = await account_of(bench, 1_000)
    orders = [placed(user, 150) for _ in range(4)]
    await asyncio.gather(
        *(bench.hear(handlers.on_orders_placed, order) for order in orders),
        *(bench.carry_out(handlers.deposit, Movement(uuid7(), user, 10)) for _ in range(4)),
    )
    assert await balance_of(bench, user) == 1_000 - 4 * 150 + 4 * 10
    await check_books(bench)


async def test_a_unit_sees_what_the_one_it_waited_for_took(bench: Workbench[Books]) -> None:
    user = await account_of(bench, 100)
    first, second = placed(user, 100), placed(user, 100)
    lost = await bench.overlap(
        lambda unit: handlers.on_orders_placed([heard(first)], unit),
        lambda unit: handlers.on_orders_placed([heard(second)], unit),
    )
    assert lost is None
    assert [event.fact for event in bench.stated] == [declined(second, DeclineReason.INSUFFICIENT_FUNDS)]
    assert await balance_of(bench, user) == 0
    await check_books(bench)


async def test_opposite_batches_of_the_same_wallets_do_not_block_each_other(bench: Workbench[Books]) -> None:
    users = [await account_of(bench, 1_000) for _ in range(6)]
    batches = [[placed(user, 10) for user in some] for some in (users, users[::-1], users, users[::-1])]
    stated = await asyncio.gather(*(bench.hear(handlers.on_orders_placed, *batch) for batch in batches))
    assert len(stated) == 4
    assert {await balance_of(bench, user) for user in users} == {960}
    await check_books(bench)


@on_postgres
@pytest.mark.parametrize("account", ["open", "missing"])
@pytest.mark.parametrize("first", ["placed", "cancelled"])
@pytest.mark.parametrize("second", ["placed", "cancelled"])
async def test_two_units_that_decide_one_order_at_once_have_one_effect(
    bench: Workbench[Books], first: str, second: str, account: str
) -> None:
    user = await account_of(bench, 500) if account == "open" else uuid7()
    order = placed(user, 300)
    steps: dict[str, tuple[Handler, Fact]] = {
        "placed": (handlers.on_orders_placed, order),
        "cancelled": (handlers.on_orders_cancelled, cancelled(order)),
    }
    (first_handler, first_fact), (second_handler, second_fact) = steps[first], steps[second]
    lost = await bench.overlap(
        lambda unit: first_handler([heard(first_fact)], unit),
        lambda unit: second_handler([heard(second_fact)], unit),
    )
    # Whoever lost the race begins anew, and then finds what the other has decided.
    assert lost is None or is_lost_race(lost)
    await bench.hear(second_handler, second_fact)
    before = await bench.rows()
    assert await bench.hear(first_handler, first_fact) == []
    assert await bench.hear(second_handler, second_fact) == []
    assert await bench.rows() == before
    if account == "open":
        assert await balance_of(bench, user) == (200 if "cancelled" not in (first, second) else 500)
    await check_books(bench)
    await check_orders(bench, {order.order_id})


async def test_two_units_that_open_one_account_at_once_open_one(bench: Workbench[Books]) -> None:
    user = uuid7()
    lost = await bench.overlap(
        lambda unit: handlers.on_users_registered([heard(registered(user))], unit),
        lambda unit: handlers.on_users_registered([heard(registered(user))], unit),
    )
    assert lost is None
    assert bench.stated == []
    async with bench.units.read() as books:
        wallet = (await books.wallets([user]))[user]
    (again,) = await bench.hear(handlers.on_users_registered, heard(registered(user), restated=True))
    assert again == AccountOpened(user_id=user, account_id=wallet.account_id)


STEPS = st.tuples(
    st.sampled_from(["deposit", "withdraw", "placed", "cancelled"]), st.integers(0, 4), st.integers(1, 90)
)


@settings(deadline=None, max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(STEPS, st.integers(1, 3)), max_size=25))
def test_money_is_conserved_however_often_whatever_is_delivered(
    tmp_path: Path, steps: list[tuple[tuple[str, int, int], int]]
) -> None:
    async def play() -> None:
        async with workbench(f"sqlite:///{tmp_path / 'books.db'}", service) as bench:
            users = [await account_of(bench, 100), await account_of(bench), uuid7()]
            orders = [placed(users[number % 3], 30 + number) for number in range(5)]
            for (what, number, amount), times in steps:
                order, movement = orders[number], Movement(uuid7(), users[number % 3], amount)
                if what == "placed":
                    await bench.hear(handlers.on_orders_placed, *[order] * times)
                elif what == "cancelled":
                    await bench.hear(handlers.on_orders_cancelled, *[cancelled(order)] * times)
                else:
                    handler = handlers.deposit if what == "deposit" else handlers.withdraw
                    await bench.carry_out(handler, movement)
            await check_books(bench)
            await check_orders(bench, {order.order_id for order in orders})

    asyncio.run(play())


async def check_orders(bench: Workbench[Books], orders: set[UUID]) -> None:
    """Check that every order has taken its price at most once, and given back at most what it took."""
    async with bench.database.reading() as connection:
        rows = (await connection.execute(select(transfers).where(transfers.c.order_id.in_(orders)))).all()
    for order in orders:
        moved = [(row.kind, row.amount_minor, row.debit == SALES) for row in rows if row.order_id == order]
        assert len(moved) <= 2
        assert len({amount for _, amount, _ in moved}) <= 1
        assert sorted(kind for kind, _, _ in moved) in ([], ["payment"], ["payment", "refund"])
        assert all(from_sales == (kind == "refund") for kind, _, from_sales in moved)
    assert not any(CASH in (row.debit, row.credit) for row in rows)
