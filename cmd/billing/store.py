"""Billing's books in SQL. Works within the caller's transaction and never commits."""

from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Row, select
from sqlalchemy.ext.asyncio import AsyncConnection

from billing.domain import DeclineReason, Payment, PaymentOutcome, Refund, Transfer, TransferKind, Wallet
from billing.tables import payments, refunds, transfers, wallets
from libs.storage.sets import insert_all, insert_new, rows_among, update_all


class SqlBooks:
    """`billing.ports.Books` on SQLite or PostgreSQL."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def open_wallets(self, opened: Sequence[Wallet]) -> Collection[UUID]:
        """See `Books`."""
        now = datetime.now(UTC)
        rows = [
            {
                "user_id": wallet.user_id,
                "account_id": wallet.account_id,
                "balance_minor": wallet.balance_minor,
                "version": wallet.version,
                "opened_at": now,
            }
            for wallet in sorted(opened, key=lambda wallet: wallet.user_id)
        ]
        return await insert_new(self._connection, wallets, rows, key="user_id")

    async def wallets(self, user_ids: Collection[UUID]) -> Mapping[UUID, Wallet]:
        """See `Books`."""
        rows = await rows_among(self._connection, wallets.c.user_id, user_ids)
        return {row.user_id: _wallet(row) for row in rows}

    async def lock_wallets(self, user_ids: Collection[UUID]) -> Mapping[UUID, Wallet]:
        """See `Books`."""
        rows = await rows_among(self._connection, wallets.c.user_id, user_ids, lock=True)
        return {row.user_id: _wallet(row) for row in rows}

    async def record(self, changed: Sequence[Wallet], made: Sequence[Transfer]) -> None:
        """See `Books`."""
        if not made:
            return
        balances = [
            {"user_id": wallet.user_id, "balance_minor": wallet.balance_minor, "version": wallet.version}
            for wallet in changed
        ]
        await update_all(self._connection, wallets, balances, key="user_id")
        rows = [
            {
                "id": transfer.id,
                "kind": transfer.kind.value,
                "debit": transfer.debit,
                "credit": transfer.credit,
                "amount_minor": transfer.amount_minor,
                "wallet": transfer.wallet,
                "version": transfer.version,
                "balance_minor": transfer.balance_minor,
                "order_id": transfer.order_id,
                "at": transfer.at,
            }
            for transfer in made
        ]
        await insert_all(self._connection, transfers, rows)

    async def payments(self, order_ids: Collection[UUID]) -> Mapping[UUID, Payment]:
        """See `Books`."""
        rows = await rows_among(self._connection, payments.c.order_id, order_ids, lock=True)
        return {row.order_id: _payment(row) for row in rows}

    async def add_payments(self, decided: Sequence[Payment]) -> None:
        """See `Books`."""
        now = datetime.now(UTC)
        rows = [
            {
                "order_id": payment.order_id,
                "user_id": payment.user_id,
                "amount_minor": payment.amount_minor,
                "outcome": payment.outcome.value,
                "reason": payment.reason.value if payment.reason else None,
                "decided_at": now,
            }
            for payment in sorted(decided, key=lambda payment: payment.order_id)
        ]
        await insert_all(self._connection, payments, rows)

    async def refunds(self, order_ids: Collection[UUID]) -> Mapping[UUID, Refund]:
        """See `Books`."""
        rows = await rows_among(self._connection, refunds.c.order_id, order_ids)
        return {row.order_id: Refund(row.order_id, row.user_id, row.amount_minor) for row in rows}

    async def add_refunds(self, made: Sequence[Refund]) -> None:
        """See `Books`."""
        now = datetime.now(UTC)
        rows = [
            {
                "order_id": refund.order_id,
                "user_id": refund.user_id,
                "amount_minor": refund.amount_minor,
                "at": now,
            }
            for refund in sorted(made, key=lambda refund: refund.order_id)
        ]
        await insert_all(self._connection, refunds, rows)

    async def statement(self, account_id: UUID, *, below_version: int | None, limit: int) -> Sequence[Transfer]:
        """See `Books`."""
        query = select(transfers).where(transfers.c.wallet == account_id)
        if below_version is not None:
            query = query.where(transfers.c.version < below_version)
        query = query.order_by(transfers.c.version.desc()).limit(limit)
        return [_transfer(row) for row in await self._connection.execute(query)]


def _wallet(row: Row[Any]) -> Wallet:
    return Wallet(row.user_id, row.account_id, row.balance_minor, row.version)


def _payment(row: Row[Any]) -> Payment:
    reason = DeclineReason(row.reason) if row.reason else None
    return Payment(row.order_id, row.user_id, row.amount_minor, PaymentOutcome(row.outcome), reason)


def _transfer(row: Row[Any]) -> Transfer:
    return Transfer(
        id=row.id,
        kind=TransferKind(row.kind),
        debit=row.debit,
        credit=row.credit,
        amount_minor=row.amount_minor,
        wallet=row.wallet,
        version=row.version,
        balance_minor=row.balance_minor,
        at=row.at,
        order_id=row.order_id,
    )
