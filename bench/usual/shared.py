"""What the services of the usual stack share: settings, sessions, the outbox, tokens, requests to each other."""

import asyncio
import json
import os
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import jwt
from fastapi import Depends, FastAPI, Header, HTTPException
from faststream.nats import JStream
from faststream.nats.fastapi import NatsRouter
from pydantic import BaseModel
from sqlalchemy import Index, Text, select
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

TUNED = os.environ.get("TUNED") == "1"
WORKERS: dict[str, Any] = {"max_workers": 64} if TUNED else {}
POOL: dict[str, Any] = {"pool_size": 32, "max_overflow": 0} if TUNED else {}
KEY = os.environ.get("JWT_KEY", "")
PUBLIC_KEY = os.environ.get("JWT_PUBLIC_KEY", "")
SWEEP_EVERY_S = 1.0
LEFT_BEHIND = timedelta(seconds=2)

ORDERS = JStream("ORDERS", subjects=["orders.>"])
BILLING = JStream("BILLING", subjects=["billing.>"])
NOTIFICATIONS = JStream("NOTIFICATIONS", subjects=["notifications.>"])


class OrderPlaced(BaseModel):
    order_id: uuid.UUID
    user_id: uuid.UUID
    price_minor: int


class PaymentDecided(BaseModel):
    order_id: uuid.UUID
    user_id: uuid.UUID
    price_minor: int
    accepted: bool
    reason: str | None = None


class OrderSettled(PaymentDecided):
    pass


class LetterStored(BaseModel):
    letter_id: uuid.UUID
    order_id: uuid.UUID


class Base(DeclarativeBase):
    pass


class Outbox(Base):
    __tablename__ = "outbox"
    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=uuid.uuid4)
    subject: Mapped[str]
    stream: Mapped[str]
    payload: Mapped[str] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(default=lambda: datetime.now(UTC).replace(tzinfo=None))
    published_at: Mapped[datetime | None]


Index("outbox_unpublished", Outbox.created_at, postgresql_where=Outbox.published_at.is_(None))

engine = create_async_engine(os.environ.get("DATABASE_URL", "postgresql+asyncpg://"), **POOL)
Session = async_sessionmaker(engine, expire_on_commit=False)
router = NatsRouter(os.environ.get("NATS_URL", "nats://127.0.0.1:4222"))


def state(session: AsyncSession, stream: JStream, subject: str, fact: BaseModel) -> Outbox:
    """Write a fact into the outbox, in the caller's transaction."""
    row = Outbox(id=uuid.uuid4(), subject=subject, stream=stream.name, payload=fact.model_dump_json())
    session.add(row)
    return row


async def publish(*rows: Outbox) -> None:
    """Publish what was committed, and mark it. What fails is left to the sweep."""
    with suppress(Exception):
        for row in rows:
            await router.broker.publish(
                json.loads(row.payload), row.subject, headers={"Nats-Msg-Id": str(row.id)}, stream=row.stream
            )
        async with Session() as session, session.begin():
            for row in rows:
                stored = await session.get(Outbox, row.id)
                if stored is not None:
                    stored.published_at = datetime.now(UTC).replace(tzinfo=None)


async def sweep_forever() -> None:
    """Publish what was left behind."""
    while True:
        await asyncio.sleep(SWEEP_EVERY_S)
        with suppress(Exception):
            before = datetime.now(UTC).replace(tzinfo=None) - LEFT_BEHIND
            unpublished = select(Outbox).where(Outbox.published_at.is_(None), Outbox.created_at < before)
            async with Session() as session:
                rows = list(await session.scalars(unpublished.order_by(Outbox.created_at).limit(100)))
            await publish(*rows)


@asynccontextmanager
async def running(app: FastAPI) -> AsyncIterator[None]:
    """Make the tables, connect, and sweep until the end."""
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    async with router.lifespan_context(app):
        sweeping = asyncio.create_task(sweep_forever())
        yield
        sweeping.cancel()
    await engine.dispose()


def service() -> FastAPI:
    """Make the application of a service on the bus."""
    app = FastAPI(lifespan=running)
    app.include_router(router)
    return app


async def caller(authorization: Annotated[str, Header()] = "") -> uuid.UUID:
    """Say who is asking."""
    try:
        claims = jwt.decode(authorization.removeprefix("Bearer "), PUBLIC_KEY, algorithms=["RS256"], audience="orderly")
    except jwt.PyJWTError:
        raise HTTPException(401) from None
    return uuid.UUID(claims["sub"])


Caller = Annotated[uuid.UUID, Depends(caller)]


def minor(amount: str) -> int:
    """Read a decimal amount in minor units."""
    whole, _, cents = amount.partition(".")
    return int(whole) * 100 + int((cents + "00")[:2])


def decimal(amount_minor: int) -> str:
    """Write minor units as a decimal amount."""
    return f"{amount_minor // 100}.{amount_minor % 100:02}"
