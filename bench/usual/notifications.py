"""Notifications of the usual stack: one letter for each outcome."""

import uuid
from datetime import UTC, datetime

from pydantic import BaseModel
from sqlalchemy import Index, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Mapped, mapped_column

from bench.usual.shared import (
    NOTIFICATIONS,
    ORDERS,
    SUBSCRIBED,
    Base,
    Caller,
    LetterStored,
    OrderSettled,
    Session,
    decimal,
    publish,
    router,
    service,
    state,
)


class Contact(Base):
    __tablename__ = "contacts"
    user_id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    login: Mapped[str]
    email: Mapped[str]


class Letter(Base):
    __tablename__ = "letters"
    id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    order_id: Mapped[uuid.UUID] = mapped_column(unique=True)
    user_id: Mapped[uuid.UUID]
    kind: Mapped[str]
    recipient: Mapped[str | None]
    subject: Mapped[str]
    body: Mapped[str]
    created_at: Mapped[datetime]


Index("letters_of_user", Letter.user_id, Letter.created_at.desc())


class NewContact(BaseModel):
    login: str
    email: str


class ShownLetter(BaseModel):
    id: uuid.UUID
    kind: str
    order_id: uuid.UUID
    recipient: str | None
    subject: str
    body: str
    created_at: datetime


class Letters(BaseModel):
    items: list[ShownLetter]
    next: datetime | None


@router.post("/contacts/{user_id}", status_code=201)
async def add_contact(user_id: uuid.UUID, given: NewContact) -> None:
    async with Session() as session, session.begin():
        session.add(Contact(user_id=user_id, login=given.login, email=given.email))


@router.get("/notifications")
async def letters(user_id: Caller, cursor: datetime | None = None, limit: int = 20) -> Letters:
    query = select(Letter).where(Letter.user_id == user_id)
    if cursor is not None:
        query = query.where(Letter.created_at < cursor)
    async with Session() as session:
        found = list(await session.scalars(query.order_by(Letter.created_at.desc()).limit(limit + 1)))
    items = [ShownLetter.model_validate(letter, from_attributes=True) for letter in found[:limit]]
    return Letters(items=items, next=items[-1].created_at if len(found) > limit else None)


@router.subscriber("orders.order.settled", stream=ORDERS, durable="notifications", **SUBSCRIBED)  # type: ignore[untyped-decorator] # of a dict
async def on_order_settled(settled: OrderSettled) -> None:
    try:
        async with Session() as session, session.begin():
            letter = written(settled, await session.get(Contact, settled.user_id))
            session.add(letter)
            stored = LetterStored(letter_id=letter.id, order_id=letter.order_id)
            row = state(session, NOTIFICATIONS, "notifications.letter.stored", stored)
    except IntegrityError:
        return  # it has been written before
    await publish(row)


def written(settled: OrderSettled, contact: Contact | None) -> Letter:
    price = decimal(settled.price_minor)
    if settled.accepted:
        subject = "Your order is confirmed"
        text = f"We are happy to confirm your order for {price}. It is paid for and on its way."
    else:
        subject = "We could not take your order"
        text = f"We are sorry: your order for {price} was rejected, because of {settled.reason}."
    return Letter(
        id=uuid.uuid4(),
        order_id=settled.order_id,
        user_id=settled.user_id,
        kind="joy" if settled.accepted else "sorrow",
        recipient=contact.email if contact else None,
        subject=subject,
        body=f"{f'Dear {contact.login},' if contact else 'Hello,'}\n\n{text}\n\nOrderly",
        created_at=datetime.now(UTC),
    )


app = service()
