"""What orders answers over HTTP, about the caller's own orders."""

from datetime import datetime
from typing import TypeAlias
from uuid import UUID

from pydantic import BaseModel

from libs.ids import uuid7
from libs.money import Amount, Money
from libs.web.fields import Lines, Page, Request, cursor_id
from libs.web.routes import Answer, Call, Edge, Route
from orders import domain
from orders.domain import OrderStatus
from orders.handlers import Accepted, Cancellation, Placement, cancel_orders, no_such_order, place_orders
from orders.ports import Orders

OrdersEdge: TypeAlias = Edge[Orders]


class PlaceOrder(Request):
    """What to order, and for how much."""

    price: Amount
    description: Lines | None = None


class Order(BaseModel):
    """An order as it stands. `refunded` is null until a cancelled order is settled."""

    id: UUID
    status: OrderStatus
    reason: str | None
    price: Money
    refunded: Money | None
    description: str | None
    created_at: datetime

    @classmethod
    def of(cls, order: domain.Order) -> "Order":
        """Show an order."""
        return cls(
            id=order.id,
            status=order.status,
            reason=order.reason,
            price=order.price_minor,
            refunded=order.refunded_minor,
            description=order.description,
            created_at=order.created_at,
        )


class OrderPage(BaseModel):
    """A page of orders, newest first."""

    items: list[Order]
    next: str | None


async def place_order(call: Call[PlaceOrder], edge: OrdersEdge) -> Answer:
    """Place an order.

    Awaits what becomes of it: 201 with the outcome, or 202 while it is pending, and `Location` says where to look.
    """
    wanted = Placement(uuid7(), call.caller.user_id, call.input.price, call.input.description)
    accepted = await edge.execute(place_orders, call, wanted, returns=Accepted)
    order = await _settled(accepted.order_id, edge, look_first=call.replayed)
    status = 202 if order.status is OrderStatus.PENDING else 201
    return Answer(status, Order.of(order), {"Location": f"/client/orders/{order.id}"})


async def cancel_order(call: Call[None], edge: OrdersEdge) -> Answer:
    """Cancel an order.

    Awaits the refund for a while; it comes in any case.
    """
    wanted = Cancellation(call.id_in_path("order_id", "order"), call.caller.user_id)
    accepted = await edge.execute(cancel_orders, call, wanted, returns=Accepted)
    return Answer(200, Order.of(await _settled(accepted.order_id, edge, look_first=call.replayed)))


async def show_order(call: Call[None], edge: OrdersEdge) -> Answer:
    """Show one order."""
    async with edge.read() as orders:
        order = await orders.find(call.id_in_path("order_id", "order"), call.caller.user_id)
    if order is None:
        raise no_such_order()
    return Answer(200, Order.of(order))


async def list_orders(call: Call[Page], edge: OrdersEdge) -> Answer:
    """List the caller's orders."""
    limit = call.input.limit
    async with edge.read() as orders:
        found = await orders.page(call.caller.user_id, before=cursor_id(call.input.cursor), limit=limit + 1)
    shown = found[:limit]
    more = str(shown[-1].id) if len(found) > limit else None
    return Answer(200, OrderPage(items=[Order.of(order) for order in shown], next=more))


async def _settled(order_id: UUID, edge: OrdersEdge, *, look_first: bool) -> domain.Order:
    order = await edge.outcome(order_id, domain.Order, look_first=look_first)
    if order is None:
        raise no_such_order()
    return order


ROUTES = (
    Route("POST", "/orders", place_order, {201: Order, 202: Order}, body=PlaceOrder, headers=("Location",)),
    Route("GET", "/orders", list_orders, {200: OrderPage}, query=Page),
    Route("GET", "/orders/{order_id}", show_order, {200: Order}, refusals=("no_such_order",)),
    Route(
        "POST",
        "/orders/{order_id}/cancel",
        cancel_order,
        {200: Order},
        refusals=("no_such_order", "not_cancellable"),
    ),
)
