"""What billing states."""

from enum import StrEnum
from typing import ClassVar
from uuid import UUID

from libs.contracts.fact import Fact
from libs.money import Money


class DeclineReason(StrEnum):
    """Why a payment was declined."""

    INSUFFICIENT_FUNDS = "insufficient_funds"
    ACCOUNT_NOT_OPEN = "account_not_open"
    ORDER_CANCELLED = "order_cancelled"


class AccountOpened(Fact):
    """A user has a billing account, with nothing on it."""

    type: ClassVar[str] = "billing.account.opened"

    user_id: UUID
    account_id: UUID


class AccountCredited(Fact):
    """A deposit arrived. `version` is the account's: it counts the transfers that touched it."""

    type: ClassVar[str] = "billing.account.credited"

    user_id: UUID
    account_id: UUID
    transfer_id: UUID
    amount: Money
    balance: Money
    version: int


class AccountDebited(Fact):
    """A withdrawal left. `version` is the account's: it counts the transfers that touched it."""

    type: ClassVar[str] = "billing.account.debited"

    user_id: UUID
    account_id: UUID
    transfer_id: UUID
    amount: Money
    balance: Money
    version: int


class PaymentAccepted(Fact):
    """The price of an order was taken from the account."""

    type: ClassVar[str] = "billing.payment.accepted"
    keyed_by: ClassVar[tuple[str, ...]] = ("order_id",)

    order_id: UUID
    user_id: UUID
    amount: Money


class PaymentDeclined(Fact):
    """The price of an order was not taken, and never will be."""

    type: ClassVar[str] = "billing.payment.declined"
    keyed_by: ClassVar[tuple[str, ...]] = ("order_id",)

    order_id: UUID
    user_id: UUID
    amount: Money
    reason: DeclineReason


class PaymentRefunded(Fact):
    """A cancelled order was settled: `amount` went back to the account (0.00 if nothing had been taken)."""

    type: ClassVar[str] = "billing.payment.refunded"
    keyed_by: ClassVar[tuple[str, ...]] = ("order_id",)

    order_id: UUID
    user_id: UUID
    amount: Money
