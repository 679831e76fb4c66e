"""What billing needs from the outside."""

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol, TypeAlias
from uuid import UUID

from billing.domain import Payment, Refund, Transfer, Wallet
from libs.messaging.unit import Unit


class Books(Protocol):
    """The accounts and the ledger, within one transaction."""

    async def open_wallets(self, wallets: Sequence[Wallet]) -> Collection[UUID]:
        """Add wallets for users who have none; return the users whose wallet is new."""
        ...

    async def wallets(self, user_ids: Collection[UUID]) -> Mapping[UUID, Wallet]:
        """Read wallets without locking them."""
        ...

    async def lock_wallets(self, user_ids: Collection[UUID]) -> Mapping[UUID, Wallet]:
        """Lock the wallets of these users, in one order for everybody, until the transaction ends; return them."""
        ...

    async def record(self, wallets: Sequence[Wallet], transfers: Sequence[Transfer]) -> None:
        """Save what changed."""
        ...

    async def payments(self, order_ids: Collection[UUID]) -> Mapping[UUID, Payment]:
        """Read the decisions there are, as they stand after the wallets were locked."""
        ...

    async def add_payments(self, payments: Sequence[Payment]) -> None:
        """Save decisions. The unit of work fails, and begins anew, when another replica decided one meanwhile."""
        ...

    async def refunds(self, order_ids: Collection[UUID]) -> Mapping[UUID, Refund]:
        """Read the refunds there are."""
        ...

    async def add_refunds(self, refunds: Sequence[Refund]) -> None:
        """Save refunds. The unit of work fails, and begins anew, when another replica saved one meanwhile."""
        ...

    async def statement(self, account_id: UUID, *, below_version: int | None, limit: int) -> Sequence[Transfer]:
        """Read an account's transfers, newest first, those below `below_version`."""
        ...


BillingUnit: TypeAlias = Unit[Books]
