"""The orders in SQL. Works within the caller's transaction and never commits."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from sqlalchemy import Row, bindparam, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from libs.storage.sets import insert_all, newest_of, rows_among, update_all
from orders.domain import Order, OrderStatus
from orders.tables import orders

_ONE: Final = select(orders).where(orders.c.id == bindparam("order_id"), orders.c.user_id == bindparam("owner"))


class SqlOrders:
    """`orders.ports.Orders` on SQLite or PostgreSQL."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def add(self, placed: Sequence[Order], *, due_at: datetime) -> None:
        """See `Orders`."""
        rows = [
            {
                "id": order.id,
                "user_id": order.user_id,
                "price_minor": order.price_minor,
                "description": order.description,
                "status": order.status.value,
                "created_at": order.created_at,
                "traceparent": order.traceparent,
                "due_at": due_at,
                "restated": order.restated,
            }
            for order in placed
        ]
        await insert_all(self._connection, orders, rows)

    async def lock(self, order_ids: Collection[UUID]) -> Mapping[UUID, Order]:
        """See `Orders`."""
        return {row.id: _order(row) for row in await rows_among(self._connection, orders.c.id, order_ids, lock=True)}

    async def save(self, changed: Sequence[Order], *, due_at: datetime) -> None:
        """See `Orders`."""
        rows = [
            {
                "id": order.id,
                "status": order.status.value,
                "reason": order.reason,
                "refunded_minor": order.refunded_minor,
                "due_at": None if order.settled else due_at,
                "restated": order.restated,
            }
            for order in changed
        ]
        await update_all(self._connection, orders, rows, key="id")

    async def overdue(self, by: datetime, *, limit: int) -> Sequence[Order]:
        """See `Orders`."""
        query = (
            select(orders)
            .where(orders.c.due_at <= by)
            .order_by(orders.c.due_at)
            .limit(limit)
            .with_for_update(skip_locked=True)
        )
        return [_order(row) for row in await self._connection.execute(query)]

    async def oldest_pending(self) -> datetime | None:
        """See `Orders`."""
        # By `due_at`, whose index holds unsettled orders only: the others may be millions.
        query = select(func.min(orders.c.created_at)).where(
            orders.c.due_at.is_not(None), orders.c.status == OrderStatus.PENDING.value
        )
        oldest: datetime | None = (await self._connection.execute(query)).scalar_one()
        return oldest

    async def find(self, order_id: UUID, owner: UUID) -> Order | None:
        """See `Orders`."""
        row = (await self._connection.execute(_ONE, {"order_id": order_id, "owner": owner})).one_or_none()
        return _order(row) if row else None

    async def find_all(self, order_ids: Collection[UUID]) -> Mapping[UUID, Order]:
        """See `Orders`."""
        return {row.id: _order(row) for row in await rows_among(self._connection, orders.c.id, order_ids)}

    async def page(self, owner: UUID, *, before: UUID | None, limit: int) -> Sequence[Order]:
        """See `Orders`."""
        rows = await newest_of(self._connection, orders.c.user_id, owner, before=before, limit=limit)
        return [_order(row) for row in rows]


def _order(row: Row[Any]) -> Order:
    return Order(
        id=row.id,
        user_id=row.user_id,
        price_minor=row.price_minor,
        description=row.description,
        status=OrderStatus(row.status),
        reason=row.reason,
        created_at=row.created_at,
        refunded_minor=row.refunded_minor,
        traceparent=row.traceparent,
        restated=row.restated,
    )
