"""The rules of money: whatever happens in whatever order, none is lost and none is made."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from hypothesis import given, settings
from hypothesis import strategies as st

from billing.domain import (
    CASH,
    SALES,
    DeclineReason,
    Journal,
    Payment,
    PaymentOutcome,
    Refund,
    Transfer,
    TransferKind,
    Wallet,
    cancelled_before_payment,
)
from libs.contracts import billing as facts
from libs.ids import uuid7

NOW = datetime(2026, 1, 1, tzinfo=UTC)
OTHER_SIDES = {
    TransferKind.DEPOSIT: CASH,
    TransferKind.WITHDRAWAL: CASH,
    TransferKind.PAYMENT: SALES,
    TransferKind.REFUND: SALES,
}


@dataclass(frozen=True)
class Step:
    """Something that somebody asks of billing. Orders and users are numbers, so that steps meet."""

    what: str
    user: int
    order: int
    amount_minor: int


STEPS = st.builds(
    Step,
    what=st.sampled_from(["deposit", "withdraw", "pay", "cancel"]),
    user=st.integers(0, 2),
    order=st.integers(0, 5),
    amount_minor=st.integers(1, 300),
)
BATCHES = st.lists(st.lists(STEPS, min_size=1, max_size=6), max_size=12)
"""Batches of steps. The same order is paid for and cancelled again and again: those are the duplicates."""


@dataclass
class Books:
    """What stays from batch to batch. User 2 has no account."""

    wallets: dict[UUID, Wallet] = field(default_factory=dict)
    transfers: list[Transfer] = field(default_factory=list)
    payments: dict[UUID, Payment] = field(default_factory=dict)
    refunds: dict[UUID, Refund] = field(default_factory=dict)
    users: list[UUID] = field(default_factory=lambda: [uuid7() for _ in range(3)])
    orders: list[UUID] = field(default_factory=lambda: [uuid7() for _ in range(6)])

    def __post_init__(self) -> None:
        self.wallets = {user: Wallet(user, uuid7(), 0, 0) for user in self.users[:2]}

    def play(self, batch: Iterable[Step]) -> None:
        """Decide one batch, and keep what it changed."""
        journal = Journal(self.wallets.values(), NOW)
        for step in batch:
            self._decide(step, journal)
        self.transfers += journal.transfers
        self.wallets |= {wallet.user_id: wallet for wallet in journal.wallets}

    def _decide(self, step: Step, journal: Journal) -> None:
        user, order = self.users[step.user], self.orders[step.order]
        if step.what == "deposit":
            journal.deposit(uuid7(), user, step.amount_minor)
        elif step.what == "withdraw":
            journal.withdraw(uuid7(), user, step.amount_minor)
        elif step.what == "pay" and order not in self.payments:
            self.payments[order] = journal.pay(order, user, step.amount_minor)
        elif step.what == "cancel" and order not in self.refunds:
            payment = self.payments.setdefault(order, cancelled_before_payment(order, user, step.amount_minor))
            self.refunds[order] = journal.refund(uuid7(), payment)

    def sums(self) -> dict[UUID, int]:
        """Sum the entries of every account, both sides of every transfer."""
        sums: dict[UUID, int] = defaultdict(int)
        for transfer in self.transfers:
            sums[transfer.debit] -= transfer.amount_minor
            sums[transfer.credit] += transfer.amount_minor
        return sums


@settings(deadline=None, max_examples=50)
@given(BATCHES)
def test_money_is_conserved_whatever_happens_in_whatever_order(batches: list[list[Step]]) -> None:
    books = Books()
    for batch in batches:
        books.play(batch)
    sums = books.sums()
    assert sum(sums.values()) == 0
    for wallet in books.wallets.values():
        assert wallet.balance_minor == sums.pop(wallet.account_id, 0)
        assert wallet.balance_minor >= 0
    assert set(sums) <= {CASH, SALES}
    in_hand = sum(wallet.balance_minor for wallet in books.wallets.values())
    assert sums.get(CASH, 0) == -(in_hand + sums.get(SALES, 0))


@settings(deadline=None, max_examples=50)
@given(BATCHES)
def test_the_transfers_of_a_wallet_form_a_chain_without_gaps(batches: list[list[Step]]) -> None:
    books = Books()
    for batch in batches:
        books.play(batch)
    for wallet in books.wallets.values():
        chain = [transfer for transfer in books.transfers if transfer.wallet == wallet.account_id]
        assert [transfer.version for transfer in chain] == list(range(1, wallet.version + 1))
        balance_minor = 0
        for transfer in chain:
            balance_minor += transfer.change_minor
            assert transfer.balance_minor == balance_minor >= 0
            assert transfer.amount_minor > 0
            assert {transfer.debit, transfer.credit} == {wallet.account_id, OTHER_SIDES[transfer.kind]}


@settings(deadline=None, max_examples=50)
@given(BATCHES)
def test_a_cancelled_order_gives_back_what_it_took_and_once(batches: list[list[Step]]) -> None:
    books = Books()
    for batch in batches:
        books.play(batch)
    for order in books.orders:
        moved = {transfer.kind: transfer for transfer in books.transfers if transfer.order_id == order}
        assert len(moved) == sum(transfer.order_id == order for transfer in books.transfers)
        payment, refund = books.payments.get(order), books.refunds.get(order)
        taken = payment.amount_minor if payment and payment.outcome is PaymentOutcome.ACCEPTED else 0
        assert (TransferKind.PAYMENT in moved) == (taken > 0)
        if taken:
            assert moved[TransferKind.PAYMENT].change_minor == -taken
        assert (TransferKind.REFUND in moved) == (taken > 0 and refund is not None)
        if refund:
            assert refund.amount_minor == taken
            assert sum(transfer.change_minor for transfer in moved.values()) == 0


@settings(deadline=None, max_examples=40)
@given(st.lists(STEPS, max_size=30), st.integers(1, 7))
def test_how_steps_are_cut_into_batches_changes_nothing(steps: list[Step], size: int) -> None:
    together, apart = Books(), Books()
    together.play(steps)
    for start in range(0, len(steps), size):
        apart.play(steps[start : start + size])

    def outcome(books: Books) -> list[object]:
        wallets = [(books.wallets[user].balance_minor, books.wallets[user].version) for user in books.users[:2]]
        changes = [(transfer.kind, transfer.version, transfer.change_minor) for transfer in books.transfers]
        payments = [books.payments.get(order) for order in books.orders]
        refunds = [books.refunds.get(order) for order in books.orders]
        decided = [payment and (payment.outcome, payment.reason, payment.amount_minor) for payment in payments]
        return [wallets, changes, decided, [refund and refund.amount_minor for refund in refunds]]

    assert outcome(together) == outcome(apart)


def journal_with(balance_minor: int) -> tuple[Journal, Wallet]:
    """Make a journal over one wallet that holds `balance_minor`."""
    wallet = Wallet(uuid7(), uuid7(), balance_minor, version=7)
    return Journal([wallet], NOW), wallet


def test_a_price_of_exactly_what_is_there_is_taken() -> None:
    journal, wallet = journal_with(500)
    payment = journal.pay(uuid7(), wallet.user_id, 500)
    assert payment.outcome is PaymentOutcome.ACCEPTED
    assert payment.reason is None
    assert journal.wallets == [replace(wallet, balance_minor=0, version=8)]


def test_a_price_of_one_cent_more_is_declined_and_takes_nothing() -> None:
    journal, wallet = journal_with(500)
    order = uuid7()
    payment = journal.pay(order, wallet.user_id, 501)
    declined = Payment(order, wallet.user_id, 501, PaymentOutcome.DECLINED, DeclineReason.INSUFFICIENT_FUNDS)
    assert payment == declined
    assert journal.wallets == []
    assert journal.transfers == []


def test_later_decisions_see_what_earlier_ones_left() -> None:
    journal, wallet = journal_with(0)
    journal.deposit(uuid7(), wallet.user_id, 500)
    first, second = (journal.pay(uuid7(), wallet.user_id, 300) for _ in range(2))
    back = journal.refund(uuid7(), first)
    third = journal.pay(uuid7(), wallet.user_id, 300)
    assert [first.outcome, second.outcome, third.outcome] == ["accepted", "declined", "accepted"]
    assert back.amount_minor == 300
    assert [transfer.change_minor for transfer in journal.transfers] == [500, -300, 300, -300]


def test_a_payment_carries_the_id_of_its_order() -> None:
    journal, wallet = journal_with(500)
    order = uuid7()
    journal.pay(order, wallet.user_id, 100)
    (transfer,) = journal.transfers
    assert (transfer.id, transfer.order_id, transfer.kind) == (order, order, TransferKind.PAYMENT)
    assert (transfer.debit, transfer.credit) == (wallet.account_id, SALES)
    assert (transfer.version, transfer.balance_minor, transfer.at) == (8, 400, NOW)


def test_a_withdrawal_takes_at_most_what_is_there() -> None:
    journal, wallet = journal_with(500)
    assert journal.withdraw(uuid7(), wallet.user_id, 501) is DeclineReason.INSUFFICIENT_FUNDS
    made = journal.withdraw(uuid7(), wallet.user_id, 500)
    assert isinstance(made, Transfer)
    assert (made.debit, made.credit, made.balance_minor) == (wallet.account_id, CASH, 0)


def test_nothing_happens_to_somebody_without_an_account() -> None:
    journal, nobody = Journal([], NOW), uuid7()
    assert journal.deposit(uuid7(), nobody, 100) is DeclineReason.ACCOUNT_NOT_OPEN
    assert journal.withdraw(uuid7(), nobody, 100) is DeclineReason.ACCOUNT_NOT_OPEN
    assert journal.pay(uuid7(), nobody, 100).reason is DeclineReason.ACCOUNT_NOT_OPEN
    assert journal.transfers == []


def test_a_declined_payment_gives_back_nothing() -> None:
    journal, wallet = journal_with(500)
    order = uuid7()
    tombstone = cancelled_before_payment(order, wallet.user_id, 300)
    declined = Payment(order, wallet.user_id, 300, PaymentOutcome.DECLINED, DeclineReason.ORDER_CANCELLED)
    assert tombstone == declined
    assert journal.refund(uuid7(), tombstone) == Refund(order, wallet.user_id, 0)
    assert journal.transfers == []


def test_a_transfer_says_everything_about_what_moved() -> None:
    journal, wallet = journal_with(0)
    deposit, withdrawal, order, refund = (uuid7() for _ in range(4))

    def moved(transfer_id: UUID, kind: TransferKind, **values: Any) -> Transfer:
        return Transfer(id=transfer_id, kind=kind, wallet=wallet.account_id, at=NOW, **values)

    brought = journal.deposit(deposit, wallet.user_id, 500)
    taken = journal.withdraw(withdrawal, wallet.user_id, 100)
    payment = journal.pay(order, wallet.user_id, 300)
    assert journal.refund(refund, payment) == Refund(order, wallet.user_id, 300)

    into_cash = {"debit": wallet.account_id, "credit": CASH}
    from_cash = {"debit": CASH, "credit": wallet.account_id}
    to_sales = {"debit": wallet.account_id, "credit": SALES, "order_id": order}
    from_sales = {"debit": SALES, "credit": wallet.account_id, "order_id": order}
    assert journal.transfers == [
        moved(deposit, TransferKind.DEPOSIT, amount_minor=500, version=8, balance_minor=500, **from_cash),
        moved(withdrawal, TransferKind.WITHDRAWAL, amount_minor=100, version=9, balance_minor=400, **into_cash),
        moved(order, TransferKind.PAYMENT, amount_minor=300, version=10, balance_minor=100, **to_sales),
        moved(refund, TransferKind.REFUND, amount_minor=300, version=11, balance_minor=400, **from_sales),
    ]
    assert [brought, taken] == journal.transfers[:2]


def test_every_reason_to_decline_can_be_stated() -> None:
    assert {reason.value for reason in DeclineReason} == {reason.value for reason in facts.DeclineReason}
