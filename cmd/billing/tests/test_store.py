"""The books in SQL, on both databases: what the ports promise, and what the database itself refuses."""

import re
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import insert, select, text, update
from sqlalchemy.exc import IntegrityError

from billing.app import service
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
)
from billing.ports import Books
from billing.tables import payments, refunds, transfers, wallets
from libs.ids import uuid7
from libs.storage import is_lost_race
from libs.tests.units import Workbench, shared_database, workbench

database_url = shared_database()
NOW = datetime(2026, 1, 1, 12, 30, 15, 123456, tzinfo=UTC)


@pytest.fixture
async def bench(database_url: str) -> AsyncIterator[Workbench[Books]]:
    async with workbench(database_url, service) as opened:
        yield opened


@pytest.fixture
async def wallet(bench: Workbench[Books]) -> Wallet:
    """A wallet with 5.00 on it."""
    opened = Wallet(uuid7(), uuid7(), 0, 0)
    async with bench.units.begin() as unit:
        await unit.store.open_wallets([opened])
        journal = Journal([opened], NOW)
        journal.deposit(uuid7(), opened.user_id, 500)
        await unit.store.record(journal.wallets, journal.transfers)
    return journal.wallets[0]


def row_of(wallet: Wallet, **changes: Any) -> dict[str, Any]:
    """Make a row of `transfers` that follows what the wallet has, and is right but for `changes`."""
    row = {
        "id": uuid7(),
        "kind": "payment",
        "debit": wallet.account_id,
        "credit": SALES,
        "amount_minor": 100,
        "wallet": wallet.account_id,
        "version": wallet.version + 1,
        "balance_minor": wallet.balance_minor - 100,
        "order_id": uuid7(),
        "at": NOW,
    }
    return row | changes


async def test_a_wallet_is_opened_once(bench: Workbench[Books]) -> None:
    ann, bob = uuid7(), uuid7()
    first = Wallet(ann, uuid7(), 0, 0)
    async with bench.units.begin() as unit:
        assert set(await unit.store.open_wallets([first])) == {ann}
        again = [Wallet(ann, uuid7(), 0, 0), Wallet(bob, uuid7(), 0, 0)]
        assert set(await unit.store.open_wallets(again)) == {bob}
        assert set(await unit.store.open_wallets([])) == set()
    async with bench.units.read() as books:
        known = await books.wallets([ann, bob, uuid7()])
    assert known == {ann: first, bob: again[1]}


async def test_locked_wallets_are_those_there_are(bench: Workbench[Books], wallet: Wallet) -> None:
    async with bench.units.begin() as unit:
        assert await unit.store.lock_wallets({wallet.user_id, uuid7()}) == {wallet.user_id: wallet}
        assert await unit.store.lock_wallets(set()) == {}


async def test_what_is_recorded_is_read_again(bench: Workbench[Books], wallet: Wallet) -> None:
    order = uuid7()
    async with bench.units.begin() as unit:
        journal = Journal([wallet], NOW)
        payment = journal.pay(order, wallet.user_id, 200)
        journal.refund(uuid7(), payment)
        journal.withdraw(uuid7(), wallet.user_id, 50)
        await unit.store.record(journal.wallets, journal.transfers)
    async with bench.units.read() as books:
        statement = await books.statement(wallet.account_id, below_version=None, limit=10)
        known = await books.wallets([wallet.user_id])
    assert list(statement[:3]) == journal.transfers[::-1]
    assert statement[3].kind is TransferKind.DEPOSIT
    assert known == {wallet.user_id: replace(wallet, balance_minor=450, version=4)}


async def test_nothing_to_record_changes_nothing(bench: Workbench[Books], wallet: Wallet) -> None:
    before = await bench.rows()
    async with bench.units.begin() as unit:
        await unit.store.record([], [])
        await unit.store.add_payments([])
        await unit.store.add_refunds([])
    assert await bench.rows() == before


async def test_a_statement_is_read_page_by_page_newest_first(bench: Workbench[Books], wallet: Wallet) -> None:
    async with bench.units.begin() as unit:
        journal = Journal([wallet], NOW)
        for _ in range(4):
            journal.deposit(uuid7(), wallet.user_id, 1)
        await unit.store.record(journal.wallets, journal.transfers)
    versions = []
    async with bench.units.read() as books:
        below = None
        while page := await books.statement(wallet.account_id, below_version=below, limit=2):
            versions.append([transfer.version for transfer in page])
            below = page[-1].version
        assert await books.statement(uuid7(), below_version=None, limit=2) == []
    assert versions == [[5, 4], [3, 2], [1]]


async def test_decisions_are_read_as_they_were_saved(bench: Workbench[Books]) -> None:
    user = uuid7()
    accepted = Payment(uuid7(), user, 100, PaymentOutcome.ACCEPTED)
    declined = Payment(uuid7(), user, 200, PaymentOutcome.DECLINED, DeclineReason.ORDER_CANCELLED)
    nothing, something = Refund(declined.order_id, user, 0), Refund(accepted.order_id, user, 100)
    async with bench.units.begin() as unit:
        await unit.store.add_payments([accepted, declined])
        await unit.store.add_refunds([nothing, something])
    async with bench.units.begin() as unit:
        orders = [accepted.order_id, declined.order_id, uuid7()]
        assert await unit.store.payments(orders) == {accepted.order_id: accepted, declined.order_id: declined}
        assert await unit.store.refunds(orders) == {accepted.order_id: something, declined.order_id: nothing}


async def test_a_second_decision_on_an_order_has_lost_a_race_and_keeps_nothing(bench: Workbench[Books]) -> None:
    user, order = uuid7(), uuid7()
    async with bench.units.begin() as unit:
        await unit.store.add_payments([Payment(order, user, 100, PaymentOutcome.ACCEPTED)])
        await unit.store.add_refunds([Refund(order, user, 100)])
    before = await bench.rows()
    other = Payment(uuid7(), user, 100, PaymentOutcome.ACCEPTED)
    late = Payment(order, user, 100, PaymentOutcome.DECLINED, DeclineReason.INSUFFICIENT_FUNDS)
    with pytest.raises(IntegrityError) as lost:
        async with bench.units.begin() as unit:
            await unit.store.add_payments([other, late])
    assert is_lost_race(lost.value)
    with pytest.raises(IntegrityError) as lost:
        async with bench.units.begin() as unit:
            await unit.store.add_refunds([Refund(other.order_id, user, 100), Refund(order, user, 100)])
    assert is_lost_race(lost.value)
    assert await bench.rows() == before


async def refuses(bench: Workbench[Books], statement: Any, rows: list[dict[str, Any]], rule: str) -> None:
    """Check that the database refuses because of `rule` (the databases name keys differently), and keeps nothing."""
    before = await bench.rows()
    with pytest.raises(IntegrityError) as refused:
        await bench.execute(statement, rows)
    assert re.search(rule, str(refused.value.orig))
    assert await bench.rows() == before


async def test_the_database_refuses_a_wallet_below_zero(bench: Workbench[Books], wallet: Wallet) -> None:
    below = update(wallets).where(wallets.c.user_id == wallet.user_id).values(balance_minor=-1)
    with pytest.raises(IntegrityError, match="wallet_never_below_zero"):
        await bench.execute(below)
    await refuses(bench, insert(transfers), [row_of(wallet, balance_minor=-1)], "balance_never_below_zero")


@pytest.mark.parametrize("amount_minor", [0, -1])
async def test_the_database_refuses_a_transfer_that_moves_nothing_or_backwards(
    bench: Workbench[Books], wallet: Wallet, amount_minor: int
) -> None:
    row = row_of(wallet, amount_minor=amount_minor)
    await refuses(bench, insert(transfers), [row], "transfer_moves_something")


async def test_the_database_refuses_a_transfer_with_one_side(bench: Workbench[Books], wallet: Wallet) -> None:
    row = row_of(wallet, credit=wallet.account_id)
    await refuses(bench, insert(transfers), [row], "transfer_has_two_sides")


@pytest.mark.parametrize("side", ["debit", "credit"])
async def test_the_database_refuses_a_transfer_that_lacks_a_side(
    bench: Workbench[Books], wallet: Wallet, side: str
) -> None:
    await refuses(bench, insert(transfers), [row_of(wallet, **{side: None})], side)


async def test_the_database_refuses_a_transfer_past_its_wallet(bench: Workbench[Books], wallet: Wallet) -> None:
    row = row_of(wallet, debit=CASH)
    await refuses(bench, insert(transfers), [row], "transfer_touches_its_wallet")


async def test_the_database_refuses_a_kind_of_transfer_that_is_not_known(
    bench: Workbench[Books], wallet: Wallet
) -> None:
    await refuses(bench, insert(transfers), [row_of(wallet, kind="gift")], "transfer_kind")


async def test_the_database_refuses_two_transfers_after_the_same_one(bench: Workbench[Books], wallet: Wallet) -> None:
    await refuses(bench, insert(transfers), [row_of(wallet), row_of(wallet)], "version|transfer_follows_transfer")


async def test_the_database_refuses_a_second_transfer_of_an_order_and_kind(
    bench: Workbench[Books], wallet: Wallet
) -> None:
    first = row_of(wallet)
    second = row_of(wallet, order_id=first["order_id"], version=wallet.version + 2)
    await refuses(bench, insert(transfers), [first, second], "order_id|transfer_once_per_order")
    refund = second | {"kind": "refund", "debit": SALES, "credit": wallet.account_id}
    await bench.execute(insert(transfers), [first, refund])
    deposits = [
        row_of(wallet, version=version, order_id=None, kind="deposit", debit=CASH, credit=wallet.account_id)
        for version in (wallet.version + 3, wallet.version + 4)
    ]
    await bench.execute(insert(transfers), deposits)


async def test_the_database_refuses_a_second_payment_and_a_second_refund_for_an_order(bench: Workbench[Books]) -> None:
    order, user = uuid7(), uuid7()
    payment = {
        "order_id": order,
        "user_id": user,
        "amount_minor": 100,
        "outcome": "accepted",
        "reason": None,
        "decided_at": NOW,
    }
    await refuses(bench, insert(payments), [payment, payment], "payments.order_id|payments_pkey")
    refund = {"order_id": order, "user_id": user, "amount_minor": 100, "at": NOW}
    await refuses(bench, insert(refunds), [refund, refund], "refunds.order_id|refunds_pkey")
    await refuses(bench, insert(refunds), [refund | {"amount_minor": -1}], "refund_gives")


@pytest.mark.parametrize(
    ("outcome", "reason", "rule"),
    [
        ("declined", None, "decline_has_a_reason"),
        ("accepted", "insufficient_funds", "decline_has_a_reason"),
        ("perhaps", None, "payment_outcome"),
    ],
)
async def test_the_database_refuses_an_outcome_that_contradicts_itself(
    bench: Workbench[Books], outcome: str, reason: str | None, rule: str
) -> None:
    row = {
        "order_id": uuid7(),
        "user_id": uuid7(),
        "amount_minor": 100,
        "outcome": outcome,
        "reason": reason,
        "decided_at": NOW,
    }
    await refuses(bench, insert(payments), [row], rule)


async def test_the_database_refuses_a_second_account_and_a_shared_one(bench: Workbench[Books], wallet: Wallet) -> None:
    row = {"user_id": wallet.user_id, "account_id": uuid7(), "balance_minor": 0, "version": 0, "opened_at": NOW}
    await refuses(bench, insert(wallets), [row], "user_id|wallets_pkey")
    await refuses(bench, insert(wallets), [row | {"user_id": uuid7(), "account_id": wallet.account_id}], "account_id")


async def test_the_view_shows_both_entries_of_every_transfer(bench: Workbench[Books], wallet: Wallet) -> None:
    await bench.execute(insert(transfers), [row_of(wallet)])
    async with bench.database.reading() as connection:
        sums = await connection.execute(
            text("select account_id, sum(amount_minor) as total, count(*) as many from entries group by account_id")
        )
        entries = {UUID(str(row.account_id)): (row.total, row.many) for row in sums}
        count = len((await connection.execute(select(transfers))).all())
    assert count == 2
    assert entries == {CASH: (-500, 1), SALES: (100, 1), wallet.account_id: (400, 2)}


async def test_a_moment_comes_back_as_it_was_saved(bench: Workbench[Books], wallet: Wallet) -> None:
    async with bench.units.read() as books:
        (transfer,) = await books.statement(wallet.account_id, below_version=None, limit=1)
    assert isinstance(transfer, Transfer)
    assert transfer.at == NOW
    assert transfer.at.utcoffset() is not None
