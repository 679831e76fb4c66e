"""What orders states."""

from typing import ClassVar
from uuid import UUID

from pydantic import Field

from libs.contracts.billing import DeclineReason
from libs.contracts.fact import Fact
from libs.money import Money


class OrderPlaced(Fact):
    """A customer ordered. Billing answers with `PaymentAccepted` or `PaymentDeclined` for the same order."""

    type: ClassVar[str] = "orders.order.placed"
    keyed_by: ClassVar[tuple[str, ...]] = ("order_id",)

    order_id: UUID
    user_id: UUID
    price: Money
    description: str | None = Field(None, examples=["a lamp"])


class OrderConfirmed(Fact):
    """The order is paid for."""

    type: ClassVar[str] = "orders.order.confirmed"
    keyed_by: ClassVar[tuple[str, ...]] = ("order_id",)

    order_id: UUID
    user_id: UUID
    price: Money
    description: str | None = Field(None, examples=["a lamp"])


class OrderRejected(Fact):
    """The order was not paid for, and is over."""

    type: ClassVar[str] = "orders.order.rejected"
    keyed_by: ClassVar[tuple[str, ...]] = ("order_id",)

    order_id: UUID
    user_id: UUID
    price: Money
    description: str | None = Field(None, examples=["a lamp"])
    reason: DeclineReason


class OrderCancelled(Fact):
    """The customer took the order back. Billing answers with `PaymentRefunded` for the same order."""

    type: ClassVar[str] = "orders.order.cancelled"
    keyed_by: ClassVar[tuple[str, ...]] = ("order_id",)

    order_id: UUID
    user_id: UUID
    price: Money
    description: str | None = Field(None, examples=["a lamp"])
