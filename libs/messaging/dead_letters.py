"""Dead letters: messages that no repetition will mend, kept until somebody attends to them."""

from datetime import datetime
from typing import Final

import orjson
from sqlalchemy.ext.asyncio import AsyncConnection

from libs.contracts.dead_letters import DeadLetter
from libs.ids import uuid7
from libs.messaging.bus import Delivery
from libs.messaging.envelope import Outgoing, headers_of
from libs.messaging.tables import dead_letters
from libs.storage.database import insert_new
from libs.tracing import Trace

LONGEST_ID: Final = 200


def event_id_of(delivery: Delivery) -> str:
    """Name a message: its `ce-id`, or its place in the stream when it has none that could be one."""
    event_id = delivery.headers.get("ce-id", "")
    if 0 < len(event_id) <= LONGEST_ID and event_id.isprintable():
        return event_id
    return f"{delivery.stream}/{delivery.sequence}"


async def set_aside(
    connection: AsyncConnection, service: str, delivery: Delivery, error: BaseException, now: datetime
) -> Outgoing | None:
    """Keep the message with its error, in the caller's transaction; return the announcement to publish.

    None when it was set aside before.
    """
    event_id = event_id_of(delivery)
    trace = Trace.parse(delivery.headers.get("traceparent"))
    detail = f"{type(error).__name__}: {error}"[:2_000].replace("\0", "")  # PostgreSQL keeps no zero bytes in text
    row = {
        "event_id": event_id,
        "subject": delivery.subject,
        "payload": delivery.payload,
        "headers": orjson.dumps(dict(delivery.headers)).decode(),
        "error": detail,
        "attempts": delivery.attempt,
        "trace_id": trace.trace_id,
        "created_at": now,
    }
    if not await insert_new(connection, dead_letters, [row], key="event_id"):
        return None
    entity, about = delivery.subject.split(".")[1], delivery.subject.rsplit(".", 1)[-1]
    kind = f"{service}.dead.{entity}"
    message_id = uuid7()
    letter = DeadLetter(event_id=event_id, subject=delivery.subject, error=detail)
    headers = headers_of(message_id, kind, trace=trace, now=now)
    return Outgoing(message_id, f"{kind}.{about}", letter.model_dump_json().encode(), headers, now)
