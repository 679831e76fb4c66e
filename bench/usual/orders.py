"""Orders of the usual stack."""

import asyncio
import uuid
from datetime import UTC, datetime

from fastapi import HTTPException, Response
from pydantic import BaseModel
from sqlalchemy.orm import Mapped, mapped_column

from bench.usual.shared import (
    BILLING,
    ORDERS,
    SUBSCRIBED,
    Base,
    Caller,
    OrderPlaced,
    OrderSettled,
    PaymentDecided,
    Session,
    decimal,
    minor,
    publish,
    router,
    service,
    state,
)

PATIENCE_S = 10.0
"""Longer than ours: under load it takes longer, and to be asked again and again would cost it more than to wait."""


class Order(Base):
    __tablename__ = "orders"
    id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    user_id: Mapped[uuid.UUID] = mapped_column(index=True)
    price_minor: Mapped[int]
    status: Mapped[str]
    reason: Mapped[str | None]
    refunded_minor: Mapped[int | None]
    description: Mapped[str | None]
    created_at: Mapped[datetime]


waiting: dict[uuid.UUID, asyncio.Future[Order]] = {}


class PlaceOrder(BaseModel):
    price: str
    description: str | None = None


class ShownOrder(BaseModel):
    id: uuid.UUID
    status: str
    reason: str | None
    price: str
    refunded: str | None
    description: str | None
    created_at: datetime


def shown(order: Order) -> ShownOrder:
    return ShownOrder(
        id=order.id,
        status=order.status,
        reason=order.reason,
        price=decimal(order.price_minor),
        refunded=None if order.refunded_minor is None else decimal(order.refunded_minor),
        description=order.description,
        created_at=order.created_at,
    )


@router.post("/orders", status_code=201)
async def place_order(wanted: PlaceOrder, user_id: Caller, response: Response) -> ShownOrder:
    order = Order(
        id=uuid.uuid4(),
        user_id=user_id,
        price_minor=minor(wanted.price),
        status="pending",
        reason=None,
        refunded_minor=None,
        description=wanted.description,
        created_at=datetime.now(UTC),
    )
    placed = OrderPlaced(order_id=order.id, user_id=user_id, price_minor=order.price_minor)
    answer = waiting[order.id] = asyncio.get_running_loop().create_future()
    try:
        async with Session() as session, session.begin():
            session.add(order)
            row = state(session, ORDERS, "orders.order.placed", placed)
        await publish(row)
        await asyncio.wait([answer], timeout=PATIENCE_S)
    finally:
        waiting.pop(order.id, None)
    if not answer.done():
        response.status_code = 202
        return shown(order)
    return shown(answer.result())


@router.get("/orders/{order_id}")
async def show_order(order_id: uuid.UUID, user_id: Caller) -> ShownOrder:
    async with Session() as session:
        order = await session.get(Order, order_id)
    if order is None or order.user_id != user_id:
        raise HTTPException(404)
    return shown(order)


@router.subscriber("billing.payment.decided", stream=BILLING, durable="orders", **SUBSCRIBED)  # type: ignore[untyped-decorator] # of a dict
async def on_payment_decided(decided: PaymentDecided) -> None:
    row = None
    async with Session() as session, session.begin():
        order = await session.get(Order, decided.order_id, with_for_update=True)
        if order is not None and order.status == "pending":
            order.status, order.reason = ("confirmed", None) if decided.accepted else ("rejected", decided.reason)
            row = state(session, ORDERS, "orders.order.settled", OrderSettled(**decided.model_dump()))
    answer = waiting.get(decided.order_id)
    if order is not None and answer is not None and not answer.done():
        answer.set_result(order)
    if row is not None:
        await publish(row)


app = service()
