"""Billing of the usual stack: wallets and a double-entry ledger."""

import uuid

from fastapi import HTTPException
from pydantic import BaseModel
from sqlalchemy import CheckConstraint
from sqlalchemy.orm import Mapped, mapped_column

from bench.usual.shared import (
    BILLING,
    ORDERS,
    SUBSCRIBED,
    Base,
    Caller,
    OrderPlaced,
    PaymentDecided,
    Session,
    decimal,
    minor,
    publish,
    router,
    service,
    state,
)

SALES, CASH = uuid.UUID(int=1), uuid.UUID(int=2)


class Wallet(Base):
    __tablename__ = "wallets"
    __table_args__ = (CheckConstraint("balance_minor >= 0"),)
    user_id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    balance_minor: Mapped[int]


class Payment(Base):
    __tablename__ = "payments"
    order_id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    user_id: Mapped[uuid.UUID]
    price_minor: Mapped[int]
    accepted: Mapped[bool]


class Entry(Base):
    __tablename__ = "entries"
    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=uuid.uuid4)
    transfer: Mapped[uuid.UUID] = mapped_column(index=True)
    account: Mapped[uuid.UUID] = mapped_column(index=True)
    amount_minor: Mapped[int]


class Deposit(BaseModel):
    amount: str


@router.post("/accounts/{user_id}", status_code=201)
async def open_account(user_id: uuid.UUID) -> None:
    async with Session() as session, session.begin():
        session.add(Wallet(user_id=user_id, balance_minor=0))


@router.post("/billing/deposits", status_code=201)
async def deposit(given: Deposit, user_id: Caller) -> dict[str, str]:
    amount, transfer = minor(given.amount), uuid.uuid4()
    async with Session() as session, session.begin():
        wallet = await session.get(Wallet, user_id, with_for_update=True)
        if wallet is None:
            raise HTTPException(404)
        wallet.balance_minor += amount
        session.add(Entry(transfer=transfer, account=user_id, amount_minor=amount))
        session.add(Entry(transfer=transfer, account=CASH, amount_minor=-amount))
    return {"id": str(transfer), "amount": given.amount, "balance": decimal(wallet.balance_minor)}


@router.get("/billing/account")
async def account(user_id: Caller) -> dict[str, str]:
    async with Session() as session:
        wallet = await session.get(Wallet, user_id)
    if wallet is None:
        raise HTTPException(404)
    return {"balance": decimal(wallet.balance_minor), "currency": "RUB"}


@router.subscriber("orders.order.placed", stream=ORDERS, durable="billing", **SUBSCRIBED)  # type: ignore[untyped-decorator] # of a dict
async def on_order_placed(placed: OrderPlaced) -> None:
    async with Session() as session, session.begin():
        wallet = await session.get(Wallet, placed.user_id, with_for_update=True)
        if await session.get(Payment, placed.order_id) is not None:
            return  # it has had its effect, and its answer is in the outbox
        accepted = wallet is not None and wallet.balance_minor >= placed.price_minor
        if wallet is not None and accepted:
            wallet.balance_minor -= placed.price_minor
            session.add(Entry(transfer=placed.order_id, account=placed.user_id, amount_minor=-placed.price_minor))
            session.add(Entry(transfer=placed.order_id, account=SALES, amount_minor=placed.price_minor))
        session.add(Payment(**placed.model_dump(), accepted=accepted))
        reason = None if accepted else ("insufficient_funds" if wallet else "account_not_open")
        decided = PaymentDecided(**placed.model_dump(), accepted=accepted, reason=reason)
        row = state(session, BILLING, "billing.payment.decided", decided)
    await publish(row)


app = service()
