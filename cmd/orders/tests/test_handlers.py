"""Orders' handlers over the real store, on both databases: every answer moves an order on once."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, TypeAlias
from uuid import UUID

import pytest
from sqlalchemy import select, update

from libs.contracts import Fact
from libs.contracts.billing import DeclineReason, PaymentAccepted, PaymentDeclined, PaymentRefunded
from libs.contracts.orders import OrderCancelled, OrderConfirmed, OrderPlaced, OrderRejected
from libs.errors import Kind, Refusal
from libs.ids import uuid7
from libs.messaging.bus import NOTHING_WAITS
from libs.messaging.envelope import Event
from libs.messaging.restating import AT_ONCE
from libs.tests.units import Workbench, asked, heard, shared_database, workbench
from orders import handlers, tables
from orders.app import service
from orders.domain import Order, OrderStatus
from orders.handlers import Accepted, Cancellation, Placement
from orders.ports import Orders, OrdersUnit

database_url = shared_database()
Handler: TypeAlias = Callable[[Sequence[Event[Any]], OrdersUnit], Awaitable[None]]
PRICE = 15_000


async def ask_again(unit: OrdersUnit) -> None:
    """Ask again, while nothing waits at billing."""
    await handlers.restate_overdue(unit, NOTHING_WAITS)


@pytest.fixture
async def bench(database_url: str) -> AsyncIterator[Workbench[Orders]]:
    async with workbench(database_url, service) as opened:
        yield opened


async def place(bench: Workbench[Orders], user: UUID | None = None) -> Order:
    """Place an order."""
    wanted = Placement(uuid7(), user or uuid7(), PRICE, "a lamp")
    await bench.carry_out(handlers.place_orders, wanted)
    return await read(bench, wanted.order_id, wanted.user_id)


async def cancel(bench: Workbench[Orders], order: Order) -> None:
    """Cancel an order."""
    (answer,) = await bench.carry_out(handlers.cancel_orders, Cancellation(order.id, order.user_id))
    assert answer == Accepted(order.id)


async def read(bench: Workbench[Orders], order_id: UUID, user: UUID) -> Order:
    async with bench.units.read() as store:
        order = await store.find(order_id, user)
    assert order is not None
    return order


async def again(bench: Workbench[Orders], order: Order) -> Order:
    return await read(bench, order.id, order.user_id)


def about(order: Order) -> dict[str, Any]:
    """Say what every fact about an order says."""
    return {"order_id": order.id, "user_id": order.user_id, "price": PRICE, "description": "a lamp"}


def accepted(order: Order) -> PaymentAccepted:
    return PaymentAccepted(order_id=order.id, user_id=order.user_id, amount=PRICE)


def declined(order: Order, reason: DeclineReason = DeclineReason.INSUFFICIENT_FUNDS) -> PaymentDeclined:
    return PaymentDeclined(order_id=order.id, user_id=order.user_id, amount=PRICE, reason=reason)


def refunded(order: Order, amount: int = PRICE) -> PaymentRefunded:
    return PaymentRefunded(order_id=order.id, user_id=order.user_id, amount=amount)


def is_refused(answer: object, slug: str, kind: Kind) -> bool:
    return isinstance(answer, Refusal) and (answer.slug, answer.kind) == (slug, kind)


async def test_an_order_is_placed_pending_and_stated(bench: Workbench[Orders]) -> None:
    wanted = Placement(uuid7(), uuid7(), PRICE, None)
    assert await bench.carry_out(handlers.place_orders, wanted) == [Accepted(wanted.order_id)]
    order = await read(bench, wanted.order_id, wanted.user_id)
    assert (order.status, order.price_minor, order.description) == (OrderStatus.PENDING, PRICE, None)
    assert [event.fact for event in bench.stated] == [
        OrderPlaced(order_id=wanted.order_id, user_id=wanted.user_id, price=PRICE)
    ]
    assert not bench.stated[0].restated


async def test_orders_placed_together_are_answered_one_by_one(bench: Workbench[Orders]) -> None:
    user = uuid7()
    wanted = [Placement(uuid7(), user, price, None) for price in (100, 200, 300)]
    assert await bench.carry_out(handlers.place_orders, *wanted) == [Accepted(one.order_id) for one in wanted]
    prices = [event.fact.price for event in bench.stated if isinstance(event.fact, OrderPlaced)]
    assert prices == [100, 200, 300]


async def test_an_accepted_payment_confirms_the_order(bench: Workbench[Orders]) -> None:
    order = await place(bench)
    stated = await bench.hear(handlers.on_payments_accepted, accepted(order))
    assert stated == [OrderConfirmed(**about(order))]
    assert (await again(bench, order)).status is OrderStatus.CONFIRMED


@pytest.mark.parametrize("reason", DeclineReason)
async def test_a_declined_payment_rejects_the_order_with_its_reason(
    bench: Workbench[Orders], reason: DeclineReason
) -> None:
    order = await place(bench)
    stated = await bench.hear(handlers.on_payments_declined, declined(order, reason))
    assert stated == [OrderRejected(**about(order), reason=reason)]
    rejected = await again(bench, order)
    assert (rejected.status, rejected.reason) == (OrderStatus.REJECTED, reason.value)


async def test_the_outcome_continues_the_trace_of_the_answer(bench: Workbench[Orders]) -> None:
    answer = heard(accepted(await place(bench)))
    await bench.hear(handlers.on_payments_accepted, answer)
    assert [event.trace.trace_id for event in bench.stated] == [answer.trace.trace_id]


async def test_a_batch_of_answers_moves_each_order_by_its_own(bench: Workbench[Orders]) -> None:
    first, second, third = [await place(bench) for _ in range(3)]
    reasons = {second.id: DeclineReason.ACCOUNT_NOT_OPEN, third.id: DeclineReason.INSUFFICIENT_FUNDS}
    stated = await bench.hear(
        handlers.on_payments_declined, *(declined(order, reasons[order.id]) for order in (second, third))
    )
    assert stated == [OrderRejected(**about(order), reason=reasons[order.id]) for order in (second, third)]
    assert (await again(bench, first)).status is OrderStatus.PENDING


async def test_a_pending_order_can_be_cancelled(bench: Workbench[Orders]) -> None:
    order = await place(bench)
    await cancel(bench, order)
    assert [event.fact for event in bench.stated] == [OrderCancelled(**about(order))]
    assert (await again(bench, order)).status is OrderStatus.CANCELLED
    assert await bench.hear(handlers.on_payments_refunded, refunded(order, 0)) == []
    assert (await again(bench, order)).refunded_minor == 0


async def test_a_confirmed_order_can_be_cancelled(bench: Workbench[Orders]) -> None:
    order = await place(bench)
    await bench.hear(handlers.on_payments_accepted, accepted(order))
    await cancel(bench, order)
    assert [event.fact for event in bench.stated] == [OrderCancelled(**about(order))]
    assert await bench.hear(handlers.on_payments_refunded, refunded(order)) == []
    cancelled = await again(bench, order)
    assert (cancelled.status, cancelled.refunded_minor) == (OrderStatus.CANCELLED, PRICE)


async def test_a_rejected_order_cannot_be_cancelled(bench: Workbench[Orders]) -> None:
    order = await place(bench)
    await bench.hear(handlers.on_payments_declined, declined(order))
    before = await bench.rows()
    (answer,) = await bench.carry_out(handlers.cancel_orders, Cancellation(order.id, order.user_id))
    assert is_refused(answer, "not_cancellable", Kind.CONFLICT)
    assert bench.stated == []
    assert await bench.rows() == before


async def test_of_two_cancellations_in_one_batch_the_second_is_too_late(bench: Workbench[Orders]) -> None:
    order, other = await place(bench), await place(bench)
    wanted = [Cancellation(one.id, one.user_id) for one in (order, order, other)]
    first, second, third = await bench.carry_out(handlers.cancel_orders, *wanted)
    assert (first, third) == (Accepted(order.id), Accepted(other.id))
    assert is_refused(second, "not_cancellable", Kind.CONFLICT)
    assert [event.fact for event in bench.stated] == [OrderCancelled(**about(one)) for one in (order, other)]


async def test_a_foreign_order_and_one_that_is_not_there_cannot_be_told_apart(bench: Workbench[Orders]) -> None:
    order = await place(bench)
    before = await bench.rows()
    wanted = [Cancellation(order.id, uuid7()), Cancellation(uuid7(), order.user_id)]
    answers = await bench.carry_out(handlers.cancel_orders, *wanted)
    assert all(is_refused(answer, "no_such_order", Kind.NOT_FOUND) for answer in answers)
    assert len({str(answer) for answer in answers}) == 1
    assert bench.stated == []
    assert await bench.rows() == before


async def order_after(bench: Workbench[Orders], kind: str) -> tuple[Handler, Fact]:
    """Let an answer of a kind have its effect; return it and its handler."""
    order = await place(bench)
    answers: dict[str, tuple[Handler, Fact]] = {
        "accepted": (handlers.on_payments_accepted, accepted(order)),
        "declined": (handlers.on_payments_declined, declined(order)),
        "refunded": (handlers.on_payments_refunded, refunded(order)),
    }
    if kind == "refunded":
        await cancel(bench, order)
    handler, fact = answers[kind]
    await bench.hear(handler, fact)
    return handler, fact


@pytest.mark.parametrize("kind", ["accepted", "declined", "refunded"])
async def test_an_answer_that_is_delivered_again_changes_nothing(bench: Workbench[Orders], kind: str) -> None:
    handler, fact = await order_after(bench, kind)
    before = await bench.rows()
    assert await bench.hear(handler, fact) == []
    assert await bench.hear(handler, fact, fact) == []
    assert await bench.rows() == before


async def test_an_answer_that_is_twice_in_a_batch_has_one_effect(bench: Workbench[Orders]) -> None:
    first, second = await place(bench), await place(bench)
    assert len(await bench.hear(handlers.on_payments_accepted, accepted(first), accepted(first))) == 1
    assert len(await bench.hear(handlers.on_payments_declined, declined(second), declined(second))) == 1
    await cancel(bench, first)
    await bench.hear(handlers.on_payments_refunded, refunded(first), refunded(first, 1))
    assert (await again(bench, first)).refunded_minor == PRICE


@pytest.mark.parametrize("kind", ["accepted", "declined", "refunded"])
async def test_an_answer_to_an_outcome_that_is_past_changes_nothing(bench: Workbench[Orders], kind: str) -> None:
    _, fact = await order_after(bench, kind)
    assert isinstance(fact, PaymentAccepted | PaymentDeclined | PaymentRefunded)
    before = await bench.rows()
    order = await read(bench, fact.order_id, fact.user_id)
    assert await bench.hear(handlers.on_payments_accepted, accepted(order)) == []
    assert await bench.hear(handlers.on_payments_declined, declined(order)) == []
    assert await bench.hear(handlers.on_payments_refunded, refunded(order, 1)) == []
    assert await bench.rows() == before


async def test_an_answer_about_an_order_that_is_not_there_is_passed_over(bench: Workbench[Orders]) -> None:
    order = await place(bench)
    unknown = PaymentAccepted(order_id=uuid7(), user_id=order.user_id, amount=PRICE)
    stated = await bench.hear(handlers.on_payments_accepted, unknown, accepted(order))
    assert stated == [OrderConfirmed(**about(order))]


async def test_whoever_waits_for_an_order_is_told_what_each_answer_left(bench: Workbench[Orders]) -> None:
    order = await place(bench)
    answers: list[tuple[Handler, Fact]] = [
        (handlers.on_payments_accepted, accepted(order)),
        (handlers.on_payments_declined, declined(order)),
        (handlers.on_payments_refunded, refunded(order)),
    ]
    for handler, fact in answers:
        async with bench.units.begin() as unit:
            await handler([heard(fact)], unit)
        assert unit.told == {order.id: await again(bench, order)}


@pytest.mark.parametrize("first", ["cancel", "accepted"])
async def test_a_cancellation_and_an_acceptance_at_once_both_count(bench: Workbench[Orders], first: str) -> None:
    order = await place(bench)

    async def take_back(unit: OrdersUnit) -> None:
        await handlers.cancel_orders([asked(Cancellation(order.id, order.user_id))], unit)

    async def pay(unit: OrdersUnit) -> None:
        await handlers.on_payments_accepted([heard(accepted(order))], unit)

    works = [take_back, pay] if first == "cancel" else [pay, take_back]
    assert await bench.overlap(*works) is None
    assert (await again(bench, order)).status is OrderStatus.CANCELLED
    expected = [] if first == "cancel" else [OrderCancelled(**about(order))]
    assert [event.fact for event in bench.stated] == expected


async def test_two_cancellations_at_once_have_one_effect(bench: Workbench[Orders]) -> None:
    order = await place(bench)

    async def take_back(unit: OrdersUnit) -> None:
        await handlers.cancel_orders([asked(Cancellation(order.id, order.user_id))], unit)

    assert await bench.overlap(take_back, take_back) is None
    assert bench.stated == []


async def make_overdue(bench: Workbench[Orders]) -> None:
    """Let the time of every answer that is awaited be over."""
    late = datetime.now(UTC) - timedelta(seconds=1)
    await bench.execute(update(tables.orders).where(tables.orders.c.due_at.is_not(None)).values(due_at=late))


async def due_of(bench: Workbench[Orders], order: Order) -> datetime:
    """Read when the answer to an order is overdue."""
    async with bench.database.reading() as connection:
        query = select(tables.orders.c.due_at).where(tables.orders.c.id == order.id)
        due: datetime = (await connection.execute(query)).scalar_one()
    return due


async def patience_with(bench: Workbench[Orders], order: Order) -> float:
    """Read in how many seconds the answer to an order is overdue."""
    return (await due_of(bench, order) - datetime.now(UTC)).total_seconds()


@pytest.mark.parametrize("status", ["pending", "cancelled"])
async def test_an_overdue_order_is_restated_at_growing_intervals(bench: Workbench[Orders], status: str) -> None:
    order = await place(bench)
    if status == "cancelled":
        await cancel(bench, order)
    (question,) = bench.stated
    patience = [await patience_with(bench, order)]
    for _ in range(3):
        assert await bench.do(ask_again) == []
        await make_overdue(bench)
        assert await bench.do(ask_again) == [question.fact]
        (event,) = bench.stated
        assert event.restated
        assert event.id != question.id
        assert event.trace.trace_id == order.traceparent.split("-")[1]
        patience.append(await patience_with(bench, order))
    assert [round(seconds, -1) for seconds in patience] == [10, 20, 40, 80]
    assert (await again(bench, order)).restated == 3


async def test_the_interval_ends_at_an_hour_however_often_was_asked(bench: Workbench[Orders]) -> None:
    order = await place(bench)
    await bench.execute(update(tables.orders).values(restated=1_000))
    await make_overdue(bench)
    await bench.do(ask_again)
    assert round(await patience_with(bench, order), -2) == 3_600


async def test_what_still_waits_at_billing_is_not_asked_again(bench: Workbench[Orders]) -> None:
    order = await place(bench)
    await make_overdue(bench)
    asked_at = await due_of(bench, order) - timedelta(seconds=10)
    for handled_until, restated in ((asked_at - timedelta(microseconds=1), 0), (asked_at, 1)):
        stated = await bench.do(partial(handlers.restate_overdue, handled_until=handled_until))
        assert len(stated) == restated


@pytest.mark.parametrize("kind", ["accepted", "declined", "refunded"])
async def test_a_settled_order_is_never_restated(bench: Workbench[Orders], kind: str) -> None:
    await order_after(bench, kind)
    async with bench.database.reading() as connection:
        assert (await connection.execute(select(tables.orders.c.due_at))).scalars().all() == [None]
    await make_overdue(bench)
    assert await bench.do(ask_again) == []


async def test_a_confirmed_order_that_is_cancelled_awaits_its_refund(bench: Workbench[Orders]) -> None:
    order = await place(bench)
    await bench.hear(handlers.on_payments_accepted, accepted(order))
    await cancel(bench, order)
    await make_overdue(bench)
    assert await bench.do(ask_again) == [OrderCancelled(**about(order))]
    await bench.hear(handlers.on_payments_refunded, refunded(order))
    await make_overdue(bench)
    assert await bench.do(ask_again) == []


async def test_replicas_that_restate_at_once_restate_each_order_once(bench: Workbench[Orders]) -> None:
    orders = [await place(bench), await place(bench)]
    await make_overdue(bench)
    assert await bench.overlap(ask_again, ask_again) is None
    assert [(await again(bench, order)).restated for order in orders] == [1, 1]


async def test_one_tick_restates_so_many_orders_at_most(bench: Workbench[Orders]) -> None:
    wanted = [Placement(uuid7(), uuid7(), PRICE, None) for _ in range(AT_ONCE + 1)]
    await bench.carry_out(handlers.place_orders, *wanted)
    await make_overdue(bench)
    assert len(await bench.do(ask_again)) == AT_ONCE
    assert len(await bench.do(ask_again)) == 1
