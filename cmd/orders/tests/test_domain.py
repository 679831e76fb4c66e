"""The state machine of an order: only along its edges, and what is past changes nothing."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from libs.ids import uuid7
from orders.domain import Order, OrderStatus, ask_again, cancel, confirm, note_refund, reject

PENDING, CONFIRMED, REJECTED, CANCELLED = OrderStatus
EDGES: Final = {
    "accepted": {(PENDING, CONFIRMED)},
    "declined": {(PENDING, REJECTED)},
    "cancel": {(PENDING, CANCELLED), (CONFIRMED, CANCELLED)},
    "refunded": {(CANCELLED, CANCELLED)},
}
STEPS = st.lists(st.sampled_from(sorted(EDGES)), max_size=12)


def order_that_is(status: OrderStatus, *, refunded_minor: int | None = None) -> Order:
    return Order(
        id=uuid7(),
        user_id=uuid7(),
        price_minor=15_000,
        description="a lamp",
        status=status,
        reason="insufficient_funds" if status is REJECTED else None,
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
        refunded_minor=refunded_minor,
    )


def take(step: str, order: Order, amount_minor: int = 15_000) -> Order | None:
    match step:
        case "accepted":
            return confirm(order)
        case "declined":
            return reject(order, "insufficient_funds")
        case "cancel":
            return cancel(order)
        case _:
            return note_refund(order, amount_minor)


@settings(deadline=None, max_examples=120)
@given(STEPS)
def test_whatever_comes_an_order_moves_along_its_edges_only(steps: list[str]) -> None:
    order = order_that_is(PENDING)
    for step in steps:
        after = take(step, order)
        if after is None:
            assert all(start is not order.status for start, _ in EDGES[step]) or order.refunded_minor is not None
            continue
        assert (order.status, after.status) in EDGES[step]
        assert after != order
        kept = replace(after, status=order.status, reason=order.reason, refunded_minor=order.refunded_minor)
        assert kept == order
        assert (after.reason is not None) == (after.status is REJECTED)
        assert after.refunded_minor is None or after.status is CANCELLED
        order = after


@settings(deadline=None, max_examples=120)
@given(STEPS)
def test_what_has_come_before_changes_nothing_when_it_comes_again(steps: list[str]) -> None:
    order, seen = order_that_is(PENDING), set()
    for step in steps:
        after = take(step, order)
        if step in seen:
            assert after is None
        if after is not None:
            seen.add(step)
            order = after
    assert seen <= {"accepted", "cancel", "refunded"} or seen == {"declined"}


@pytest.mark.parametrize(
    ("order", "settled"),
    [
        (order_that_is(PENDING), False),
        (order_that_is(CONFIRMED), True),
        (order_that_is(REJECTED), True),
        (order_that_is(CANCELLED), False),
        (order_that_is(CANCELLED, refunded_minor=0), True),
        (order_that_is(CANCELLED, refunded_minor=15_000), True),
    ],
    ids=lambda value: f"{value.status.value} {value.refunded_minor}" if isinstance(value, Order) else "",
)
def test_an_order_is_settled_once_nothing_more_has_to_follow(order: Order, settled: bool) -> None:
    assert order.settled is settled


def test_a_refund_of_nothing_settles_a_cancelled_order_once() -> None:
    order = note_refund(order_that_is(CANCELLED), 0)
    assert order is not None
    assert order.refunded_minor == 0
    assert note_refund(order, 15_000) is None


def test_a_rejection_keeps_its_reason() -> None:
    order = reject(order_that_is(PENDING), "account_not_open")
    assert order is not None
    assert order.reason == "account_not_open"


def test_asking_again_is_counted_and_changes_nothing_else() -> None:
    order = order_that_is(PENDING)
    assert ask_again(ask_again(order)) == replace(order, restated=2)
