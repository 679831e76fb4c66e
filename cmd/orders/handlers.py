"""What orders does about facts and commands: load, decide, save, publish."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar
from uuid import UUID

from libs.contracts import orders as facts
from libs.contracts.billing import PaymentAccepted, PaymentDeclined, PaymentRefunded
from libs.errors import Kind, Refusal
from libs.messaging.envelope import Event
from libs.messaging.restating import AT_ONCE, Origin, due_again, overdue_by
from libs.telemetry.gauges import age_s
from libs.web.commands import Command
from orders.domain import Order, OrderStatus, ask_again, cancel, confirm, note_refund, reject
from orders.ports import Orders, OrdersUnit

AnswerT = TypeVar("AnswerT", PaymentAccepted, PaymentDeclined, PaymentRefunded)


@dataclass(frozen=True, slots=True)
class Placement:
    """An order somebody wants to place; `order_id` will be its id."""

    order_id: UUID
    user_id: UUID
    price_minor: int
    description: str | None


@dataclass(frozen=True, slots=True)
class Cancellation:
    """An order its owner wants to take back."""

    order_id: UUID
    user_id: UUID


@dataclass(frozen=True, slots=True)
class Accepted:
    """The order a command was about. How it stands is read after billing's answer."""

    order_id: UUID


async def place_orders(commands: Sequence[Command[Placement]], unit: OrdersUnit) -> Sequence[Accepted | Refusal]:
    """Write the orders down as pending, and state that they were placed."""
    placed = [
        Order(
            id=command.body.order_id,
            user_id=command.body.user_id,
            price_minor=command.body.price_minor,
            description=command.body.description,
            status=OrderStatus.PENDING,
            reason=None,
            created_at=unit.now,
            traceparent=command.trace.header,
        )
        for command in commands
    ]
    await unit.store.add(placed, due_at=due_again(0, unit.now))
    for order, command in zip(placed, commands, strict=True):
        unit.publish(_placed(order), cause=command)
    return [Accepted(order.id) for order in placed]


async def cancel_orders(commands: Sequence[Command[Cancellation]], unit: OrdersUnit) -> Sequence[Accepted | Refusal]:
    """Take orders back; billing gives back what it took."""
    known = dict(await unit.store.lock({command.body.order_id for command in commands}))
    changed: list[Order] = []
    results: list[Accepted | Refusal] = []
    for command in commands:
        order = known.get(command.body.order_id)
        if order is None or order.user_id != command.body.user_id:
            results.append(no_such_order())
            continue
        cancelled = cancel(order)
        if cancelled is None:
            results.append(Refusal("not_cancellable", f"the order is {order.status.value}", Kind.CONFLICT))
            continue
        known[order.id] = cancelled
        changed.append(cancelled)
        unit.publish(_cancelled(cancelled), cause=command)
        results.append(Accepted(order.id))
    await unit.store.save(changed, due_at=due_again(0, unit.now))
    return results


async def on_payments_accepted(events: Sequence[Event[PaymentAccepted]], unit: OrdersUnit) -> None:
    """Confirm the orders that were paid for."""
    for order, event in await _advance(events, lambda order, _fact: confirm(order), unit):
        fact = facts.OrderConfirmed(
            order_id=order.id, user_id=order.user_id, price=order.price_minor, description=order.description
        )
        unit.publish(fact, cause=event)


async def on_payments_declined(events: Sequence[Event[PaymentDeclined]], unit: OrdersUnit) -> None:
    """Reject the orders that were not paid for."""
    for order, event in await _advance(events, lambda order, fact: reject(order, fact.reason.value), unit):
        fact = facts.OrderRejected(
            order_id=order.id,
            user_id=order.user_id,
            price=order.price_minor,
            description=order.description,
            reason=event.fact.reason,
        )
        unit.publish(fact, cause=event)


async def on_payments_refunded(events: Sequence[Event[PaymentRefunded]], unit: OrdersUnit) -> None:
    """Note what went back for cancelled orders. Nothing follows from it."""
    await _advance(events, lambda order, fact: note_refund(order, fact.amount), unit)


async def restate_overdue(unit: OrdersUnit, handled_until: datetime) -> None:
    """Ask billing again about orders whose answer is overdue; it answers from what it has decided.

    A bounded number at a time; the rest waits for the next tick.
    """
    overdue = await unit.store.overdue(overdue_by(unit.now, handled_until), limit=AT_ONCE)
    for order in overdue:
        fact = _placed(order) if order.status is OrderStatus.PENDING else _cancelled(order)
        unit.publish(fact, cause=Origin.of(order.traceparent), restated=True)
        asked = ask_again(order)
        await unit.store.save([asked], due_at=due_again(asked.restated, unit.now))


async def oldest_pending_s(orders: Orders) -> float:
    """How many seconds the oldest order has waited for its outcome; 0 when none waits."""
    return age_s(await orders.oldest_pending())


async def _advance(
    events: Sequence[Event[AnswerT]], decide: Callable[[Order, AnswerT], Order | None], unit: OrdersUnit
) -> list[tuple[Order, Event[AnswerT]]]:
    """Let each answer move its order on; return the orders that moved, each with the answer that moved it."""
    known = dict(await unit.store.lock({event.fact.order_id for event in events}))
    moved = []
    for event in events:
        order = known.get(event.fact.order_id)
        if order is None:
            continue  # not ours, or older than our database: nothing to move
        after = decide(order, event.fact)
        if after is not None:
            known[order.id] = after
            moved.append((after, event))
        unit.tell(order.id, known[order.id])
    await unit.store.save([order for order, _ in moved], due_at=due_again(0, unit.now))
    return moved


def _placed(order: Order) -> facts.OrderPlaced:
    return facts.OrderPlaced(
        order_id=order.id, user_id=order.user_id, price=order.price_minor, description=order.description
    )


def _cancelled(order: Order) -> facts.OrderCancelled:
    return facts.OrderCancelled(
        order_id=order.id, user_id=order.user_id, price=order.price_minor, description=order.description
    )


def no_such_order() -> Refusal:
    """Make the refusal for an order that is not there, or not the caller's."""
    return Refusal("no_such_order", "there is no such order", Kind.NOT_FOUND)
