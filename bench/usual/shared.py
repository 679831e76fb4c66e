"""What the services of the usual stack share: settings, sessions, the outbox, tokens."""

import asyncio
import logging
import os
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Annotated, Any

import jwt
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from fastapi import Depends, FastAPI, Header, HTTPException
from faststream import AckPolicy
from faststream.nats import JStream
from faststream.nats.fastapi import NatsRouter
from pydantic import BaseModel
from sqlalchemy import JSON, DateTime, Index, select, update
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

TUNED = os.environ.get("TUNED") == "1"
WORKERS: dict[str, Any] = {"max_workers": 64} if TUNED else {}
POOL: dict[str, Any] = {"pool_size": 32, "max_overflow": 0} if TUNED else {}
LOGS: dict[str, Any] = {"log_level": logging.DEBUG} if TUNED else {}
"""FastStream logs two lines a message at this level, and shows what is INFO or above."""

KEY = os.environ.get("JWT_KEY", "")
PUBLIC_KEY: Any = load_pem_public_key(os.environ["JWT_PUBLIC_KEY"].encode()) if "JWT_PUBLIC_KEY" in os.environ else ""
SWEEP_EVERY_S = 1.0
LEFT_BEHIND = timedelta(seconds=5)
TOGETHER_AT_MOST = 100

ORDERS = JStream("ORDERS", subjects=["orders.>"])
BILLING = JStream("BILLING", subjects=["billing.>"])
NOTIFICATIONS = JStream("NOTIFICATIONS", subjects=["notifications.>"])
SUBSCRIBED: dict[str, Any] = {"ack_policy": AckPolicy.NACK_ON_ERROR, **WORKERS}
"""By default FastStream rejects a message whose handler fails, and nobody sees it again: an order would hang."""


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
    type_annotation_map = {datetime: DateTime(timezone=True), dict[str, Any]: JSON}  # noqa: RUF012 - SQLAlchemy's way


class Outbox(Base):
    __tablename__ = "outbox"
    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=uuid.uuid4)
    subject: Mapped[str]
    stream: Mapped[str]
    payload: Mapped[dict[str, Any]]
    created_at: Mapped[datetime] = mapped_column(default=lambda: datetime.now(UTC))
    published_at: Mapped[datetime | None]


Index("outbox_unpublished", Outbox.created_at, postgresql_where=Outbox.published_at.is_(None))

engine = create_async_engine(os.environ.get("DATABASE_URL", "postgresql+asyncpg://"), **POOL)
Session = async_sessionmaker(engine, expire_on_commit=False)
router = NatsRouter(os.environ.get("NATS_URL", "nats://127.0.0.1:4222"), **LOGS)
committed: asyncio.Queue[Outbox] = asyncio.Queue()


def state(session: AsyncSession, stream: JStream, subject: str, fact: BaseModel) -> Outbox:
    """Write a fact into the outbox, in the caller's transaction."""
    row = Outbox(id=uuid.uuid4(), subject=subject, stream=stream.name, payload=fact.model_dump(mode="json"))
    session.add(row)
    return row


async def publish(row: Outbox) -> None:
    """Publish what was committed. What fails is left to the sweep.

    Tuned, nobody waits for it: what is committed meanwhile is published and marked together.
    """
    if TUNED:
        committed.put_nowait(row)
    else:
        await publish_and_mark([row])


async def publish_and_mark(rows: list[Outbox]) -> None:
    """Publish rows, and say so in one statement."""
    with suppress(Exception):
        await asyncio.gather(*(send(row) for row in rows))
        marked = update(Outbox).where(Outbox.id.in_([row.id for row in rows])).values(published_at=datetime.now(UTC))
        async with Session() as session, session.begin():
            await session.execute(marked, execution_options={"synchronize_session": False})


async def send(row: Outbox) -> None:
    """Publish one, and wait until the stream has it."""
    headers = {"Nats-Msg-Id": str(row.id)}
    await router.broker.publish(row.payload, row.subject, headers=headers, stream=row.stream)


async def relay_forever() -> None:
    """Publish what is committed, as it comes: the tuned way."""
    while True:
        rows = [await committed.get()]
        while not committed.empty() and len(rows) < TOGETHER_AT_MOST:
            rows.append(committed.get_nowait())
        await publish_and_mark(rows)


async def sweep_forever() -> None:
    """Publish what was left behind."""
    while True:
        await asyncio.sleep(SWEEP_EVERY_S)
        with suppress(Exception):
            unpublished = select(Outbox).where(
                Outbox.published_at.is_(None), Outbox.created_at < datetime.now(UTC) - LEFT_BEHIND
            )
            async with Session() as session:
                rows = list(await session.scalars(unpublished.order_by(Outbox.created_at).limit(TOGETHER_AT_MOST)))
            if rows:
                await publish_and_mark(rows)


@asynccontextmanager
async def running(_app: FastAPI) -> AsyncIterator[None]:
    """Make the tables, relay and sweep until the end. The router connects after this has begun."""
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    tasks = [asyncio.create_task(each) for each in (sweep_forever(), relay_forever())]
    yield
    for task in tasks:
        task.cancel()
    await engine.dispose()


def service() -> FastAPI:
    """Make the application of a service on the bus."""
    app = FastAPI(lifespan=running)
    app.include_router(router)
    return app


def subject_of(authorization: str) -> uuid.UUID:
    """Verify a token; tuned, once a minute. Raises `HTTPException` (401)."""
    try:
        token = authorization.removeprefix("Bearer ")
        return verified_lately(token, int(time.time()) // 60) if TUNED else verified(token)
    except jwt.PyJWTError:
        raise HTTPException(401) from None


def verified(token: str) -> uuid.UUID:
    claims = jwt.decode(token, PUBLIC_KEY, algorithms=["RS256"], audience="orderly")
    return uuid.UUID(claims["sub"])


@lru_cache(maxsize=10_000)
def verified_lately(token: str, _minute: int) -> uuid.UUID:
    return verified(token)


async def caller(authorization: Annotated[str, Header()] = "") -> uuid.UUID:
    """Say who is asking."""
    return subject_of(authorization)


Caller = Annotated[uuid.UUID, Depends(caller)]


def minor(amount: str) -> int:
    """Read a decimal amount in minor units."""
    whole, _, cents = amount.partition(".")
    return int(whole) * 100 + int((cents + "00")[:2])


def decimal(amount_minor: int) -> str:
    """Write minor units as a decimal amount."""
    return f"{amount_minor // 100}.{amount_minor % 100:02}"
