"""What orders needs from the outside."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Protocol, TypeAlias
from uuid import UUID

from libs.messaging.unit import Unit
from orders.domain import Order


class Orders(Protocol):
    """The orders, within one transaction."""

    async def add(self, orders: Sequence[Order], *, due_at: datetime) -> None:
        """Save new orders, whose answer is overdue at `due_at`."""
        ...

    async def lock(self, order_ids: Collection[UUID]) -> Mapping[UUID, Order]:
        """Lock orders, in one order for everybody, until the transaction ends; return those there are."""
        ...

    async def save(self, orders: Sequence[Order], *, due_at: datetime) -> None:
        """Save changed orders. Those not settled are overdue at `due_at`; settled ones never."""
        ...

    async def overdue(self, by: datetime, *, limit: int) -> Sequence[Order]:
        """Lock orders whose answer was due by then, the longest overdue first; skips those another replica holds."""
        ...

    async def oldest_pending(self) -> datetime | None:
        """When the oldest order without outcome was placed; None when there is none."""
        ...

    async def find(self, order_id: UUID, owner: UUID) -> Order | None:
        """Read an order of `owner`."""
        ...

    async def find_all(self, order_ids: Collection[UUID]) -> Mapping[UUID, Order]:
        """Read orders, whoever owns them; return those there are."""
        ...

    async def page(self, owner: UUID, *, before: UUID | None, limit: int) -> Sequence[Order]:
        """Read orders of `owner`, newest first, those older than the order `before`."""
        ...


OrdersUnit: TypeAlias = Unit[Orders]
