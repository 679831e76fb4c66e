"""The transactional outbox: a fact is a row of the transaction that made it true, and is published after."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

import orjson
from sqlalchemy import Row, exists, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from libs.messaging.envelope import Outgoing
from libs.messaging.tables import outbox, streams
from libs.storage.sets import delete_found, insert_all, update_all

RETENTION: Final = timedelta(days=8)
"""Published rows are kept longer than any stream (7 days), so a stream can be made anew from them."""

CLEARED_AT_ONCE: Final = 1_000


async def write(connection: AsyncConnection, messages: Sequence[Outgoing]) -> None:
    """Write the messages into the outbox, in the caller's transaction."""
    await insert_all(connection, outbox, [_to_row(message) for message in messages])


async def unpublished(
    connection: AsyncConnection, *, before: datetime, limit: int, after: datetime | None = None
) -> list[Outgoing]:
    """Read rows that no stream has acknowledged, written before `before` (and since `after`), oldest first.

    Rows are selected by what they lack, never by "id greater than the last seen": concurrent transactions
    commit out of id order, and such a cursor would skip rows.
    """
    query = (
        select(outbox)
        .where(outbox.c.published_at.is_(None), outbox.c.created_at < before)
        .order_by(outbox.c.id)
        .limit(limit)
    )
    if after is not None:
        query = query.where(outbox.c.id >= _first_id(after))
    return [_from_row(row) for row in await connection.execute(query)]


async def mark_published(connection: AsyncConnection, sequences: Sequence[tuple[UUID, int]], *, now: datetime) -> None:
    """Record where the stream keeps each message."""
    rows = [{"id": row_id, "published_at": now, "sequence": sequence} for row_id, sequence in sequences]
    await update_all(connection, outbox, rows, key="id")


async def clear_marks(connection: AsyncConnection) -> int:
    """Forget, in the caller's transaction, that any row was published; return how many were.

    A step at a time: one statement about millions of rows would be cut off by its time limit, at every attempt.
    """
    marked = outbox.c.published_at.is_not(None)
    cleared, after = 0, UUID(int=0)
    while True:
        rest = (outbox.c.id > after, marked)
        query = select(outbox.c.id).where(*rest).order_by(outbox.c.id).limit(CLEARED_AT_ONCE)
        ids = (await connection.execute(query)).scalars().all()
        if not ids:
            return cleared
        step = update(outbox).where(*rest, outbox.c.id <= ids[-1]).values(published_at=None, sequence=None)
        cleared += (await connection.execute(step)).rowcount
        after = ids[-1]


async def prune(connection: AsyncConnection, *, now: datetime, limit: int) -> int:
    """Delete up to `limit` rows published more than `RETENTION` ago; return how many were."""
    cutoff = now - RETENTION
    # Everything was published since the stream was begun. Without this condition, what was published again would be
    # read through at every attempt until its time comes, and that is the whole outbox.
    younger = exists().where(streams.c.begun_at >= cutoff)
    old = (
        select(outbox.c.id)
        .where(outbox.c.id < _first_id(cutoff), outbox.c.published_at < cutoff, ~younger)
        .order_by(outbox.c.id)
        .limit(limit)
    )
    return await delete_found(connection, outbox, old, key="id")


def _first_id(moment: datetime) -> UUID:
    """Make the lowest id of a moment. Ids begin with their time, so the primary key finds rows by age."""
    return UUID(int=int(moment.timestamp() * 1000) << 80)


def _to_row(message: Outgoing) -> dict[str, Any]:
    return {
        "id": message.id,
        "subject": message.subject,
        "payload": message.payload.decode(),
        "headers": orjson.dumps(dict(message.headers)).decode(),
        "created_at": message.created_at,
    }


def _from_row(row: Row[Any]) -> Outgoing:
    return Outgoing(row.id, row.subject, row.payload.encode(), orjson.loads(row.headers), row.created_at)
