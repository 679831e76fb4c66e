"""Dead letters: messages that no repetition will mend, kept until somebody attends to them."""

from datetime import datetime

import orjson
from sqlalchemy.ext.asyncio import AsyncConnection

from libs.ids import uuid7
from libs.messaging.bus import Delivery
from libs.messaging.envelope import Outgoing
from libs.messaging.tables import dead_letters
from libs.storage.database import insert_new
from libs.tracing import Trace


def event_id_of(delivery: Delivery) -> str:
    """Name a message: its `ce-id`, or its place in the stream when it has none."""
    return delivery.headers.get("ce-id") or f"{delivery.stream}/{delivery.sequence}"


async def set_aside(
    connection: AsyncConnection, service: str, delivery: Delivery, error: BaseException, now: datetime
) -> Outgoing | None:
    """Keep the message with its error, in the caller's transaction; return the announcement to publish.

    None when it was set aside before.
    """
    event_id = event_id_of(delivery)
    trace = Trace.parse(delivery.headers.get("traceparent"))
    detail = f"{type(error).__name__}: {error}"[:2_000]
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
    return _announcement(service, delivery, event_id, detail, trace, now)


def _announcement(
    service: str, delivery: Delivery, event_id: str, error: str, trace: Trace, now: datetime
) -> Outgoing:
    message_id = uuid7()
    tokens = delivery.subject.split(".")
    entity = tokens[1] if len(tokens) > 1 else "message"
    kind = f"{service}.dead.{entity}"
    headers = {
        "ce-specversion": "1.0",
        "ce-id": str(message_id),
        "ce-type": kind,
        "ce-source": f"/{service}",
        "ce-time": now.isoformat().replace("+00:00", "Z"),
        "content-type": "application/json",
        "Nats-Msg-Id": str(message_id),
        "traceparent": trace.child().header,
    }
    payload = orjson.dumps({"event_id": event_id, "subject": delivery.subject, "error": error})
    return Outgoing(message_id, f"{kind}.{tokens[-1]}", payload, headers, now)
