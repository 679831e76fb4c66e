"""What billing does about facts and commands: load, decide, save, publish."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar
from uuid import UUID

from billing.domain import (
    DeclineReason,
    Journal,
    Payment,
    PaymentOutcome,
    Refund,
    Transfer,
    Wallet,
    cancelled_before_payment,
)
from billing.ports import BillingUnit
from libs.contracts import billing as facts
from libs.contracts.auth import UserRegistered
from libs.contracts.orders import OrderCancelled, OrderPlaced
from libs.errors import Kind, Refusal
from libs.ids import uuid7
from libs.messaging.envelope import Event
from libs.web.commands import Command

QuestionT = TypeVar("QuestionT", UserRegistered, OrderPlaced, OrderCancelled)
MovementFact = TypeVar("MovementFact", facts.AccountCredited, facts.AccountDebited)


@dataclass(frozen=True, slots=True)
class Movement:
    """A deposit or a withdrawal somebody asks for; `transfer_id` will be its id."""

    transfer_id: UUID
    user_id: UUID
    amount_minor: int


@dataclass(frozen=True, slots=True)
class Moved:
    """A deposit or a withdrawal that was made, and the balance after it."""

    transfer_id: UUID
    amount_minor: int
    balance_minor: int


async def on_users_registered(events: Sequence[Event[UserRegistered]], unit: BillingUnit) -> None:
    """Open an account for everyone who has none; say again that it is open to whoever asks again."""
    asked = _one_each(events)
    wallets = [Wallet(user_id, account_id=uuid7(), balance_minor=0, version=0) for user_id in asked]
    new = await unit.store.open_wallets(wallets)
    again = [user_id for user_id, event in asked.items() if event.restated and user_id not in new]
    known = await unit.store.wallets(again) if again else {}
    opened = [wallet for wallet in wallets if wallet.user_id in new]
    for wallet in (*opened, *known.values()):
        fact = facts.AccountOpened(user_id=wallet.user_id, account_id=wallet.account_id)
        unit.publish(fact, cause=asked[wallet.user_id])


async def on_orders_placed(events: Sequence[Event[OrderPlaced]], unit: BillingUnit) -> None:
    """Take the price of each order, in stream order, where the money suffices."""
    asked = _one_each(events)
    wallets = await unit.store.lock_wallets({event.fact.user_id for event in events})
    known = await unit.store.payments(asked)
    journal = Journal(wallets.values(), unit.now)
    decided = [
        journal.pay(order_id, event.fact.user_id, event.fact.price)
        for order_id, event in asked.items()
        if order_id not in known
    ]
    await unit.store.add_payments(decided)
    await unit.store.record(journal.wallets, journal.transfers)
    again = [payment for payment in known.values() if asked[payment.order_id].restated]
    for payment in (*decided, *again):
        unit.publish(_answer(payment), cause=asked[payment.order_id])


async def on_orders_cancelled(events: Sequence[Event[OrderCancelled]], unit: BillingUnit) -> None:
    """Give back what was taken; where nothing was, make sure that nothing ever will be."""
    asked = _one_each(events)
    wallets = await unit.store.lock_wallets({event.fact.user_id for event in events})
    known = await unit.store.payments(asked)
    refunded = await unit.store.refunds(asked)
    tombstones = {
        order_id: cancelled_before_payment(order_id, event.fact.user_id, event.fact.price)
        for order_id, event in asked.items()
        if order_id not in known
    }
    journal = Journal(wallets.values(), unit.now)
    refunds = [
        journal.refund(uuid7(), (known.get(order_id) or tombstones[order_id]))
        for order_id in asked
        if order_id not in refunded
    ]
    await unit.store.add_payments(list(tombstones.values()))
    await unit.store.add_refunds(refunds)
    await unit.store.record(journal.wallets, journal.transfers)
    again = [refund for refund in refunded.values() if asked[refund.order_id].restated]
    for payment in tombstones.values():
        unit.publish(_not_taken(payment), cause=asked[payment.order_id])
    for refund in (*refunds, *again):
        unit.publish(_refunded(refund), cause=asked[refund.order_id])


async def deposit(commands: Sequence[Command[Movement]], unit: BillingUnit) -> Sequence[Moved | Refusal]:
    """Bring money in."""
    decided = await _decide(commands, Journal.deposit, unit)
    for command, transfer in decided:
        if isinstance(transfer, Transfer):
            unit.publish(_moved(facts.AccountCredited, transfer, command.body.user_id), cause=command)
    return [_result(transfer) for _, transfer in decided]


async def withdraw(commands: Sequence[Command[Movement]], unit: BillingUnit) -> Sequence[Moved | Refusal]:
    """Pay money out."""
    decided = await _decide(commands, Journal.withdraw, unit)
    for command, transfer in decided:
        if isinstance(transfer, Transfer):
            unit.publish(_moved(facts.AccountDebited, transfer, command.body.user_id), cause=command)
    return [_result(transfer) for _, transfer in decided]


async def _decide(
    commands: Sequence[Command[Movement]],
    move: Callable[[Journal, UUID, UUID, int], Transfer | DeclineReason],
    unit: BillingUnit,
) -> list[tuple[Command[Movement], Transfer | DeclineReason]]:
    wallets = await unit.store.lock_wallets({command.body.user_id for command in commands})
    journal = Journal(wallets.values(), unit.now)
    decided = [
        (command, move(journal, command.body.transfer_id, command.body.user_id, command.body.amount_minor))
        for command in commands
    ]
    await unit.store.record(journal.wallets, journal.transfers)
    return decided


def _result(decided: Transfer | DeclineReason) -> Moved | Refusal:
    if isinstance(decided, DeclineReason):
        return declined(decided)
    return Moved(decided.id, decided.amount_minor, decided.balance_minor)


def _one_each(events: Sequence[Event[QuestionT]]) -> dict[UUID, Event[QuestionT]]:
    """Of several events about one thing take one; one that was restated wants an answer, so it goes first."""
    asked: dict[UUID, Event[QuestionT]] = {}
    for event in events:
        if event.restated or event.fact.key not in asked:
            asked[event.fact.key] = event
    return asked


def _answer(payment: Payment) -> facts.PaymentAccepted | facts.PaymentDeclined:
    if payment.outcome is PaymentOutcome.ACCEPTED:
        return facts.PaymentAccepted(order_id=payment.order_id, user_id=payment.user_id, amount=payment.amount_minor)
    return _not_taken(payment)


def _not_taken(payment: Payment) -> facts.PaymentDeclined:
    return facts.PaymentDeclined(
        order_id=payment.order_id,
        user_id=payment.user_id,
        amount=payment.amount_minor,
        reason=facts.DeclineReason(payment.reason or DeclineReason.INSUFFICIENT_FUNDS),
    )


def _refunded(refund: Refund) -> facts.PaymentRefunded:
    return facts.PaymentRefunded(order_id=refund.order_id, user_id=refund.user_id, amount=refund.amount_minor)


def _moved(fact: type[MovementFact], transfer: Transfer, user_id: UUID) -> MovementFact:
    return fact(
        user_id=user_id,
        account_id=transfer.wallet,
        transfer_id=transfer.id,
        amount=transfer.amount_minor,
        balance=transfer.balance_minor,
        version=transfer.version,
    )


def declined(reason: DeclineReason) -> Refusal:
    """Make the refusal of a movement of money."""
    if reason is DeclineReason.ACCOUNT_NOT_OPEN:
        return Refusal("account_not_open", "the billing account is not open yet; try again shortly", Kind.NOT_FOUND)
    return Refusal(reason.value, "the account holds less than that", Kind.CONFLICT)
