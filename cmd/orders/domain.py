"""The state machine of an order. Pure: values in, values out.

::

    pending ──payment accepted──▶ confirmed ──cancel──▶ cancelled
       │  └──payment declined──▶ rejected                   ▲
       └───────────────────cancel──────────────────────────┘

What is past is ignored: an answer to an order that has its outcome changes nothing.
"""

from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from uuid import UUID


class OrderStatus(StrEnum):
    """Where an order stands."""

    PENDING = "pending"
    CONFIRMED = "confirmed"
    REJECTED = "rejected"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class Order:
    """An order. `refunded_minor` is what billing gave back; None until it says so."""

    id: UUID
    user_id: UUID
    price_minor: int
    description: str | None
    status: OrderStatus
    reason: str | None
    created_at: datetime
    refunded_minor: int | None = None
    traceparent: str = ""
    restated: int = 0

    @property
    def settled(self) -> bool:
        """Whether everything that has to follow has followed."""
        if self.status is OrderStatus.CANCELLED:
            return self.refunded_minor is not None
        return self.status is not OrderStatus.PENDING


def confirm(order: Order) -> Order | None:
    """Billing took the price. None when that is past."""
    return replace(order, status=OrderStatus.CONFIRMED) if order.status is OrderStatus.PENDING else None


def reject(order: Order, reason: str) -> Order | None:
    """Billing declined. None when that is past."""
    if order.status is not OrderStatus.PENDING:
        return None
    return replace(order, status=OrderStatus.REJECTED, reason=reason)


def cancel(order: Order) -> Order | None:
    """The customer takes it back. None when there is nothing to take back."""
    if order.status not in (OrderStatus.PENDING, OrderStatus.CONFIRMED):
        return None
    return replace(order, status=OrderStatus.CANCELLED)


def note_refund(order: Order, amount_minor: int) -> Order | None:
    """Billing settled a cancelled order. None when that is past."""
    if order.status is not OrderStatus.CANCELLED or order.refunded_minor is not None:
        return None
    return replace(order, refunded_minor=amount_minor)


def ask_again(order: Order) -> Order:
    """The answer is overdue, and the question is stated once more."""
    return replace(order, restated=order.restated + 1)
