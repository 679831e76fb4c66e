"""The rules of money. Pure: values in, values out; amounts are integers of minor units, above zero.

Double entry: a transfer moves one amount from one account to another, so its two entries sum to zero by
construction. Every transfer here touches exactly one wallet; the other side is a system account.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Final
from uuid import UUID

CASH: Final = UUID("00000000-0000-7000-8000-0000000000c1")
"""The world outside: deposits come from here, withdrawals go here. Its balance is minus all wallets and sales."""

SALES: Final = UUID("00000000-0000-7000-8000-0000000000c2")
"""What customers paid for their orders."""


class TransferKind(StrEnum):
    """Why money moved."""

    DEPOSIT = "deposit"
    WITHDRAWAL = "withdrawal"
    PAYMENT = "payment"
    REFUND = "refund"


class PaymentOutcome(StrEnum):
    """What became of the price of an order."""

    ACCEPTED = "accepted"
    DECLINED = "declined"


class DeclineReason(StrEnum):
    """Why a price was not taken."""

    INSUFFICIENT_FUNDS = "insufficient_funds"
    ACCOUNT_NOT_OPEN = "account_not_open"
    ORDER_CANCELLED = "order_cancelled"


@dataclass(frozen=True, slots=True)
class Wallet:
    """A user's account. `version` counts the transfers that touched it."""

    user_id: UUID
    account_id: UUID
    balance_minor: int
    version: int


@dataclass(frozen=True, slots=True)
class Transfer:
    """An amount that moved from `debit` to `credit`, and what the wallet among the two was left with."""

    id: UUID
    kind: TransferKind
    debit: UUID
    credit: UUID
    amount_minor: int
    wallet: UUID
    version: int
    balance_minor: int
    at: datetime
    order_id: UUID | None = None

    @property
    def change_minor(self) -> int:
        """What it changed in the wallet: below zero when money left."""
        return self.amount_minor if self.credit == self.wallet else -self.amount_minor


@dataclass(frozen=True, slots=True)
class Payment:
    """The decision on the price of one order. There is one for each order, ever."""

    order_id: UUID
    user_id: UUID
    amount_minor: int
    outcome: PaymentOutcome
    reason: DeclineReason | None = None


@dataclass(frozen=True, slots=True)
class Refund:
    """What went back for a cancelled order: its price if it had been taken, otherwise nothing."""

    order_id: UUID
    user_id: UUID
    amount_minor: int


class Journal:
    """What one batch does to the wallets it has locked: one decision after the other, in the order given.

    Later decisions see what earlier ones left. Nothing is written; `wallets` and `transfers` are what to save.
    """

    def __init__(self, wallets: Iterable[Wallet], at: datetime) -> None:
        self._wallets = {wallet.user_id: wallet for wallet in wallets}
        self._at = at
        self._touched: set[UUID] = set()
        self.transfers: list[Transfer] = []

    @property
    def wallets(self) -> list[Wallet]:
        """The wallets that changed, as they are now."""
        return [self._wallets[user_id] for user_id in sorted(self._touched)]

    def deposit(self, transfer_id: UUID, user_id: UUID, amount_minor: int) -> Transfer | DeclineReason:
        """Bring money in, or say why not."""
        moved = self._move(TransferKind.DEPOSIT, transfer_id, user_id, CASH, amount_minor)
        return moved or DeclineReason.ACCOUNT_NOT_OPEN

    def withdraw(self, transfer_id: UUID, user_id: UUID, amount_minor: int) -> Transfer | DeclineReason:
        """Take money out, or say why not."""
        refused = self._refused(user_id, amount_minor)
        if refused:
            return refused
        moved = self._move(TransferKind.WITHDRAWAL, transfer_id, user_id, CASH, -amount_minor)
        assert moved is not None
        return moved

    def pay(self, order_id: UUID, user_id: UUID, price_minor: int) -> Payment:
        """Decide whether the price of an order is taken. The whole price, or nothing."""
        refused = self._refused(user_id, price_minor)
        if refused:
            return Payment(order_id, user_id, price_minor, PaymentOutcome.DECLINED, refused)
        self._move(TransferKind.PAYMENT, order_id, user_id, SALES, -price_minor, order_id=order_id)
        return Payment(order_id, user_id, price_minor, PaymentOutcome.ACCEPTED)

    def refund(self, transfer_id: UUID, payment: Payment) -> Refund:
        """Give back what was taken for an order."""
        if payment.outcome is PaymentOutcome.DECLINED:
            return Refund(payment.order_id, payment.user_id, 0)
        amount_minor = payment.amount_minor
        self._move(TransferKind.REFUND, transfer_id, payment.user_id, SALES, amount_minor, order_id=payment.order_id)
        return Refund(payment.order_id, payment.user_id, payment.amount_minor)

    def _refused(self, user_id: UUID, amount_minor: int) -> DeclineReason | None:
        wallet = self._wallets.get(user_id)
        if wallet is None:
            return DeclineReason.ACCOUNT_NOT_OPEN
        return DeclineReason.INSUFFICIENT_FUNDS if wallet.balance_minor < amount_minor else None

    def _move(
        self,
        kind: TransferKind,
        transfer_id: UUID,
        user_id: UUID,
        other: UUID,
        change_minor: int,
        *,
        order_id: UUID | None = None,
    ) -> Transfer | None:
        wallet = self._wallets.get(user_id)
        if wallet is None:
            return None
        wallet = replace(wallet, balance_minor=wallet.balance_minor + change_minor, version=wallet.version + 1)
        incoming = change_minor > 0
        transfer = Transfer(
            id=transfer_id,
            kind=kind,
            debit=other if incoming else wallet.account_id,
            credit=wallet.account_id if incoming else other,
            amount_minor=abs(change_minor),
            wallet=wallet.account_id,
            version=wallet.version,
            balance_minor=wallet.balance_minor,
            at=self._at,
            order_id=order_id,
        )
        self._wallets[user_id] = wallet
        self._touched.add(user_id)
        self.transfers.append(transfer)
        return transfer


def cancelled_before_payment(order_id: UUID, user_id: UUID, price_minor: int) -> Payment:
    """Decide a payment that must never happen: its order was cancelled before its price was asked for."""
    return Payment(order_id, user_id, price_minor, PaymentOutcome.DECLINED, DeclineReason.ORDER_CANCELLED)
