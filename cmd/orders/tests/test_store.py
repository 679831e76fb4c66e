"""The orders in SQL, on both databases: what the port promises, and what the database itself refuses."""

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import insert, select
from sqlalchemy.exc import IntegrityError

from libs.ids import uuid7
from libs.tests.units import Workbench, on_postgres, shared_database, workbench
from orders import tables
from orders.app import service
from orders.domain import Order, OrderStatus
from orders.ports import Orders

database_url = shared_database()
NOW = datetime(2026, 1, 1, 12, 30, 15, 123456, tzinfo=UTC)


@pytest.fixture
async def bench(database_url: str) -> AsyncIterator[Workbench[Orders]]:
    async with workbench(database_url, service) as opened:
        yield opened


def order_of(user: UUID, **changes: Any) -> Order:
    order = Order(
        id=uuid7(),
        user_id=user,
        price_minor=15_000,
        description="a lamp",
        status=OrderStatus.PENDING,
        reason=None,
        created_at=NOW,
        traceparent="00-0123456789abcdef0123456789abcdef-0123456789abcdef-01",
    )
    return replace(order, **changes)


async def add(bench: Workbench[Orders], *orders: Order, due_at: datetime = NOW) -> None:
    async with bench.units.begin() as unit:
        await unit.store.add(orders, due_at=due_at)


async def due_at(bench: Workbench[Orders], order: Order) -> datetime | None:
    async with bench.database.reading() as connection:
        query = select(tables.orders.c.due_at).where(tables.orders.c.id == order.id)
        due: datetime | None = (await connection.execute(query)).scalar_one()
        return due


async def test_an_order_is_read_as_it_was_saved_and_by_its_owner_only(bench: Workbench[Orders]) -> None:
    order = order_of(uuid7())
    bare = order_of(uuid7(), description=None)
    await add(bench, order, bare)
    async with bench.units.read() as store:
        assert await store.find(order.id, order.user_id) == order
        assert await store.find(bare.id, bare.user_id) == bare
        assert await store.find(order.id, bare.user_id) is None
        assert await store.find(uuid7(), order.user_id) is None
        assert await store.find_all([order.id, bare.id, uuid7()]) == {order.id: order, bare.id: bare}


async def test_every_field_that_changes_is_saved(bench: Workbench[Orders]) -> None:
    user = uuid7()
    rejected, cancelled, other = order_of(user), order_of(user), order_of(user)
    await add(bench, rejected, cancelled, other)
    rejected = replace(rejected, status=OrderStatus.REJECTED, reason="insufficient_funds", restated=3)
    cancelled = replace(cancelled, status=OrderStatus.CANCELLED, refunded_minor=15_000)
    async with bench.units.begin() as unit:
        await unit.store.save([rejected, cancelled], due_at=NOW)
    async with bench.units.begin() as unit:
        locked = await unit.store.lock([rejected.id, cancelled.id, other.id, uuid7()])
    assert locked == {order.id: order for order in (rejected, cancelled, other)}


async def test_nothing_to_save_changes_nothing(bench: Workbench[Orders]) -> None:
    await add(bench, order_of(uuid7()))
    before = await bench.rows()
    async with bench.units.begin() as unit:
        await unit.store.add([], due_at=NOW)
        await unit.store.save([], due_at=NOW)
        assert await unit.store.lock([]) == {}
    assert await bench.rows() == before


async def test_orders_are_listed_page_by_page_newest_first(bench: Workbench[Orders]) -> None:
    user = uuid7()
    mine = [order_of(user) for _ in range(5)]
    await add(bench, *mine, order_of(uuid7()))
    pages, before = [], None
    async with bench.units.read() as store:
        while page := await store.page(user, before=before, limit=2):
            pages.append(list(page))
            before = page[-1].id
    newest_first = mine[::-1]
    assert pages == [newest_first[:2], newest_first[2:4], newest_first[4:]]


async def test_the_longest_overdue_come_first_and_at_most_the_limit(bench: Workbench[Orders]) -> None:
    orders = [order_of(uuid7()) for _ in range(4)]
    for order, seconds in zip(orders, (30, 10, 20, -1), strict=True):
        await add(bench, order, due_at=NOW - timedelta(seconds=seconds))
    async with bench.units.begin() as unit:
        assert await unit.store.overdue(NOW, limit=10) == [orders[0], orders[2], orders[1]]
        assert await unit.store.overdue(NOW, limit=2) == [orders[0], orders[2]]


@pytest.mark.parametrize(
    ("changes", "due"),
    [
        ({"status": OrderStatus.CONFIRMED}, None),
        ({"status": OrderStatus.REJECTED, "reason": "account_not_open"}, None),
        ({"status": OrderStatus.CANCELLED, "refunded_minor": 0}, None),
        ({"status": OrderStatus.CANCELLED}, NOW),
        ({"restated": 1}, NOW),
    ],
    ids=["confirmed", "rejected", "refunded", "cancelled", "restated"],
)
async def test_only_what_is_not_settled_is_ever_overdue(
    bench: Workbench[Orders], changes: dict[str, Any], due: datetime | None
) -> None:
    order = order_of(uuid7())
    await add(bench, order, due_at=NOW - timedelta(hours=1))
    changed = replace(order, **changes)
    async with bench.units.begin() as unit:
        await unit.store.save([changed], due_at=NOW)
    assert await due_at(bench, order) == due
    async with bench.units.begin() as unit:
        assert await unit.store.overdue(NOW, limit=10) == ([changed] if due else [])


@on_postgres
async def test_what_another_replica_holds_is_skipped_and_not_waited_for(bench: Workbench[Orders]) -> None:
    held, free = order_of(uuid7()), order_of(uuid7())
    await add(bench, held, free)
    async with bench.units.begin() as first, bench.units.begin() as second:
        assert set(await first.store.lock([held.id])) == {held.id}
        assert await second.store.overdue(NOW, limit=10) == [free]


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"price_minor": 0}, "order_has_a_price"),
        ({"price_minor": -1}, "order_has_a_price"),
        ({"status": "lost"}, "order_status"),
        ({"status": "rejected"}, "rejection_has_a_reason"),
        ({"reason": "insufficient_funds"}, "rejection_has_a_reason"),
    ],
)
async def test_the_database_refuses_an_order_that_contradicts_itself(
    bench: Workbench[Orders], changes: dict[str, Any], rule: str
) -> None:
    row = {
        "id": uuid7(),
        "user_id": uuid7(),
        "price_minor": 1,
        "status": "pending",
        "created_at": NOW,
        "traceparent": "",
        "restated": 0,
    }
    with pytest.raises(IntegrityError, match=rule):
        await bench.execute(insert(tables.orders), [row | changes])
    assert await bench.rows() == {"orders": []}


async def test_the_database_refuses_a_second_order_of_the_same_id(bench: Workbench[Orders]) -> None:
    order = order_of(uuid7())
    await add(bench, order)
    with pytest.raises(IntegrityError):
        await add(bench, replace(order, price_minor=1))
    async with bench.units.read() as store:
        assert await store.find(order.id, order.user_id) == order


async def test_the_oldest_pending_order_is_found_and_settled_ones_do_not_count(bench: Workbench[Orders]) -> None:
    async def oldest() -> datetime | None:
        async with bench.units.read() as store:
            return await store.oldest_pending()

    assert await oldest() is None
    settled = order_of(uuid7(), created_at=NOW - timedelta(hours=1))
    cancelled = order_of(uuid7(), created_at=NOW - timedelta(hours=1))
    await add(
        bench,
        settled,
        cancelled,
        order_of(uuid7(), created_at=NOW),
        order_of(uuid7(), created_at=NOW + timedelta(hours=1)),
    )
    async with bench.units.begin() as unit:
        moved = [replace(settled, status=OrderStatus.CONFIRMED), replace(cancelled, status=OrderStatus.CANCELLED)]
        await unit.store.save(moved, due_at=NOW)
    assert await oldest() == NOW


async def test_the_oldest_pending_order_is_found_without_reading_settled_ones(bench: Workbench[Orders]) -> None:
    async with bench.units.begin() as unit:
        many = [order_of(uuid7(), status=OrderStatus.CONFIRMED) for _ in range(2_000)]
        await unit.store.add(many, due_at=NOW)
        await unit.store.save(many, due_at=NOW)
    explain = "explain query plan" if bench.database.is_sqlite else "analyze orders; explain"
    *before, explaining = explain.split("; ")
    async with bench.database.writing() as connection:
        for statement in before:
            await connection.exec_driver_sql(statement)
        query = "select min(created_at) from orders where due_at is not null and status = 'pending'"
        plan = str((await connection.exec_driver_sql(f"{explaining} {query}")).all())
    assert "orders_due" in plan
