"""Notifications of the usual stack: one letter for each outcome."""

import uuid

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Mapped, mapped_column

from bench.usual.shared import (
    NOTIFICATIONS,
    ORDERS,
    WORKERS,
    Base,
    Caller,
    LetterStored,
    OrderSettled,
    Session,
    publish,
    router,
    service,
    state,
)


class Letter(Base):
    __tablename__ = "letters"
    id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    order_id: Mapped[uuid.UUID] = mapped_column(unique=True)
    user_id: Mapped[uuid.UUID] = mapped_column(index=True)
    kind: Mapped[str]
    body: Mapped[str]


@router.get("/notifications")
async def letters(user_id: Caller) -> dict[str, list[dict[str, str]]]:
    async with Session() as session:
        found = await session.scalars(select(Letter).where(Letter.user_id == user_id).order_by(Letter.id).limit(20))
        items = [
            {"id": str(one.id), "kind": one.kind, "order_id": str(one.order_id), "body": one.body} for one in found
        ]
    return {"items": items}


@router.subscriber("orders.order.settled", stream=ORDERS, durable="notifications", **WORKERS)  # type: ignore[untyped-decorator] # of a dict
async def on_order_settled(settled: OrderSettled) -> None:
    letter = Letter(
        id=uuid.uuid4(),
        order_id=settled.order_id,
        user_id=settled.user_id,
        kind="joy" if settled.accepted else "sorrow",
        body="Your order is confirmed." if settled.accepted else f"We are sorry: {settled.reason}.",
    )
    try:
        async with Session() as session, session.begin():
            session.add(letter)
            stored = LetterStored(letter_id=letter.id, order_id=letter.order_id)
            row = state(session, NOTIFICATIONS, "notifications.letter.stored", stored)
    except IntegrityError:
        return  # it has been written before
    await publish(row)


app = service()
