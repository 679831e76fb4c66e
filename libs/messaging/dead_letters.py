"""Dead letters: messages that no repetition will mend, kept until somebody attends to them.

Everything here works within the caller's transaction and never commits.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Final

import orjson
from sqlalchemy import ColumnElement, Row, func, insert, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from libs.contracts.dead_letters import DeadLetter as Announcement
from libs.ids import uuid7
from libs.messaging.bus import Delivery, matches
from libs.messaging.envelope import Outgoing, headers_of
from libs.messaging.tables import dead_letter_acts, dead_letters
from libs.storage.sets import delete_found, insert_new
from libs.tracing import Trace

LONGEST_ID: Final = 200
LONGEST_TEXT: Final = 2_000

RETENTION: Final = timedelta(days=30)
"""How long a dead letter is kept once it was attended to: longer than any stream could deliver its message again."""


class Deed(StrEnum):
    """What somebody did about a dead letter."""

    REPLAYED = "replayed"
    REPLAY_FAILED = "replay_failed"
    DISCARDED = "discarded"


@dataclass(frozen=True, slots=True)
class Act:
    """Who did what, and when; `note` is the reason of a discard, and the error of a replay that failed."""

    at: datetime
    by: str
    what: Deed
    note: str | None = None


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A message that was set aside, without what it carries."""

    id: str
    event_id: str
    subject: str
    error: str
    attempts: int
    trace_id: str
    created_at: datetime
    attended_at: datetime | None


@dataclass(frozen=True, slots=True)
class Contents:
    """What a dead letter carries, and what was done about it, oldest first."""

    payload: bytes
    headers: Mapping[str, str]
    acts: Sequence[Act]


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which dead letters somebody means: those nobody attended to, unless `attended`, that meet every condition.

    `subject` is a NATS pattern; `error` is a part of the error's text, in upper or lower case.
    """

    subject: str | None = None
    error: str | None = None
    since: datetime | None = None
    attended: bool = False


class CannotAttend(Exception):
    """There is no such dead letter, or somebody attended to it before. Nothing was done."""


def event_id_of(delivery: Delivery) -> str:
    """Name a message: its `ce-id`, or its place in the stream when it has none that could be one."""
    event_id = delivery.headers.get("ce-id", "")
    if 0 < len(event_id) <= LONGEST_ID and event_id.isprintable():
        return event_id
    return f"{delivery.stream}/{delivery.sequence}"


def id_of(service: str, event_id: str, subject: str, payload: bytes) -> str:
    """Name a dead letter of a service: the same for a message that is delivered again, also by a stream that was
    made anew, and another for another message that claims the same event id."""
    return hashlib.sha256(f"{service}\0{event_id}\0{subject}\0".encode() + payload).hexdigest()[:32]


def described(error: BaseException) -> str:
    """Write an error as it is kept: in one text of bounded length that both databases take."""
    return f"{type(error).__name__}: {error}"[:LONGEST_TEXT].replace("\0", "")  # PostgreSQL keeps no zero bytes


async def set_aside(
    connection: AsyncConnection, service: str, delivery: Delivery, error: BaseException, now: datetime
) -> Outgoing | None:
    """Keep the message with its error; return the announcement to publish, None when it was set aside before."""
    event_id = event_id_of(delivery)
    trace = Trace.parse(delivery.headers.get("traceparent"))
    detail = described(error)
    row = {
        "id": id_of(service, event_id, delivery.subject, delivery.payload),
        "event_id": event_id,
        "subject": delivery.subject,
        "payload": delivery.payload,
        "headers": orjson.dumps(dict(delivery.headers)).decode(),
        "error": detail,
        "attempts": delivery.attempt,
        "trace_id": trace.trace_id,
        "created_at": now,
    }
    if not await insert_new(connection, dead_letters, [row], key="id"):
        return None
    entity, about = delivery.subject.split(".")[1], delivery.subject.rsplit(".", 1)[-1]
    kind = f"{service}.dead.{entity}"
    message_id = uuid7()
    letter = Announcement(event_id=event_id, subject=delivery.subject, error=detail)
    headers = headers_of(message_id, kind, trace=trace, now=now)
    return Outgoing(message_id, f"{kind}.{about}", letter.model_dump_json().encode(), headers, now)


async def find(connection: AsyncConnection, wanted: Wanted) -> list[DeadLetter]:
    """List dead letters, oldest first."""
    conditions: list[ColumnElement[bool]] = []
    if not wanted.attended:
        conditions.append(dead_letters.c.attended_at.is_(None))
    if wanted.since is not None:
        conditions.append(dead_letters.c.created_at >= wanted.since)
    if wanted.error is not None:
        conditions.append(func.lower(dead_letters.c.error).contains(wanted.error.lower(), autoescape=True))
    found = await _listed(connection, *conditions)
    return [letter for letter in found if wanted.subject is None or matches(wanted.subject, letter.subject)]


async def named(connection: AsyncConnection, name: str) -> list[DeadLetter]:
    """List the dead letters that somebody may mean by the beginning of an id, or by a whole event id."""
    of_id = dead_letters.c.id.startswith(name.lower(), autoescape=True)
    return await _listed(connection, or_(of_id, dead_letters.c.event_id == name))


async def contents(connection: AsyncConnection, letter_id: str) -> Contents:
    """Read what a dead letter carries, and what was done about it. Raises `CannotAttend` when it is gone."""
    row = (await connection.execute(select(dead_letters).where(dead_letters.c.id == letter_id))).one_or_none()
    if row is None:
        raise CannotAttend("there is no such dead letter")
    query = (
        select(dead_letter_acts)
        .where(dead_letter_acts.c.dead_letter == letter_id)
        .order_by(dead_letter_acts.c.at, dead_letter_acts.c.id)
    )
    acts = [Act(act.at, act.by, Deed(act.what), act.note) for act in await connection.execute(query)]
    return Contents(row.payload, orjson.loads(row.headers), acts)


async def lock(connection: AsyncConnection, letter_id: str, *, again: bool) -> Row[Any]:
    """Lock a dead letter until the transaction ends. Raises `CannotAttend`, unless `again` for one attended to.

    SQLite ignores ``for update``: its transactions have locked the file from their begin.
    """
    query = select(dead_letters).where(dead_letters.c.id == letter_id).with_for_update()
    row = (await connection.execute(query)).one_or_none()
    if row is None:
        raise CannotAttend("there is no such dead letter")
    if row.attended_at is not None and not again:
        raise CannotAttend(f"somebody attended to it at {row.attended_at:%Y-%m-%d %H:%M:%S} UTC")
    return row


async def record(connection: AsyncConnection, letter_id: str, act: Act) -> None:
    """Record what was done about a dead letter; unless it was a replay that failed, it is attended to."""
    values = {"id": uuid7(), "dead_letter": letter_id, "at": act.at, "by": act.by, "what": act.what.value}
    await connection.execute(insert(dead_letter_acts).values(**values, note=act.note))
    if act.what is not Deed.REPLAY_FAILED:
        await connection.execute(update(dead_letters).where(dead_letters.c.id == letter_id).values(attended_at=act.at))


async def prune(connection: AsyncConnection, *, now: datetime, limit: int) -> int:
    """Delete up to `limit` dead letters attended to more than `RETENTION` ago, with their acts; return how many.

    Those that nobody attended to are kept for ever.
    """
    old = (
        select(dead_letters.c.id)
        .where(dead_letters.c.attended_at < now - RETENTION)
        .order_by(dead_letters.c.attended_at)
        .limit(limit)
    )
    return await delete_found(connection, dead_letters, old, key="id")


async def _listed(connection: AsyncConnection, *conditions: ColumnElement[bool]) -> list[DeadLetter]:
    columns = [dead_letters.c[name] for name in DeadLetter.__dataclass_fields__]
    query = select(*columns).where(*conditions).order_by(dead_letters.c.created_at, dead_letters.c.id)
    return [DeadLetter(*row) for row in await connection.execute(query)]
