"""Spans and measurements of messages, by OpenTelemetry's semantic conventions for messaging.

A message has a span where it is stated (`create`) and one where each service handles it (`process`), both in its own
trace. What is done with several at once (`send`, a unit of work) is one span, with links to those of the messages.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from libs.contracts import stream_of
from libs.messaging.bus import Durable
from libs.messaging.envelope import Event, Outgoing
from libs.telemetry.process import Telemetry
from libs.telemetry.spans import Kind, Spans
from libs.tracing import Trace


def created(spans: Spans, messages: Sequence[Outgoing]) -> None:
    """Record that messages were stated, after the commit that made them true."""
    for message in messages if spans.on else ():
        if message.trace is not None and spans.wants(message.trace):
            kind = message.headers["ce-type"]
            attributes = {
                **_about("create", kind, message.subject, message_id=str(message.id)),
                "messaging.message.body.size": len(message.payload),
            }
            began_ns = int(message.created_at.timestamp() * 1e9)
            spans.add(message.trace, f"create {kind}", Kind.PRODUCER, began_ns, attributes)


@contextmanager
def sending(telemetry: Telemetry, messages: Sequence[Outgoing]) -> Iterator[None]:
    """Measure and record that messages are handed to their stream, which acknowledges them."""
    started_ns, error = time.time_ns(), None
    try:
        yield
    except BaseException as failure:
        error = type(failure).__name__
        raise
    finally:
        telemetry.metrics.published("failed" if error else "stored", len(messages))
        if telemetry.spans.on:
            _sent(telemetry.spans, messages, started_ns, error)


@contextmanager
def processing(telemetry: Telemetry, durable: Durable, events: Mapping[str, Sequence[Event[Any]]]) -> Iterator[None]:
    """Measure and record a unit of work: `events` by their type."""
    started_ns, error = time.time_ns(), None
    try:
        yield
        seconds = (time.time_ns() - started_ns) / 1e9
        for kind, some in events.items():
            if some:
                telemetry.metrics.committed(kind, len(some), seconds)
                telemetry.metrics.consumed(durable.stream, "handled", len(some))
    except BaseException as failure:
        error = type(failure).__name__
        raise
    finally:
        if telemetry.spans.on:
            _processed(telemetry.spans, durable, [one for some in events.values() for one in some], started_ns, error)


def _sent(spans: Spans, messages: Sequence[Outgoing], started_ns: int, error: str | None) -> None:
    # Also what was read back from the outbox: its headers say where it was stated.
    headers = [message.headers.get("traceparent", "") for message in messages]
    members = [Trace.parse(header) for header in headers if header.endswith("-01")]
    stream = stream_of(messages[0].subject.split(".", 1)[0])
    attributes: dict[str, str | int] = {
        "messaging.system": "nats",
        "messaging.operation.type": "send",
        "messaging.operation.name": "publish",
        "messaging.destination.name": stream,
        "messaging.batch.message_count": len(messages),
    }
    spans.add_batch(members, f"publish {stream}", Kind.CLIENT, started_ns, attributes, error=error)


def _processed(
    spans: Spans, durable: Durable, events: Sequence[Event[Any]], started_ns: int, error: str | None
) -> None:
    group = {"messaging.consumer.group.name": durable.name}
    attributes: dict[str, str | int] = {
        "messaging.system": "nats",
        "messaging.operation.type": "process",
        "messaging.operation.name": "process",
        "messaging.destination.name": durable.stream,
        "messaging.batch.message_count": len(events),
        **group,
    }
    members = [event.trace for event in events]
    spans.add_batch(members, f"process {durable.stream}", Kind.CONSUMER, started_ns, attributes, error=error)
    for event in events:
        if spans.wants(event.trace):
            kind = event.fact.type
            about = {**_about("process", kind, event.fact.subject, message_id=event.id), **group}
            spans.add(event.trace, f"process {kind}", Kind.CONSUMER, started_ns, about, error=error)


def _about(operation: str, kind: str, subject: str, *, message_id: str) -> dict[str, str | int]:
    return {
        "messaging.system": "nats",
        "messaging.operation.type": operation,
        "messaging.operation.name": operation,
        "messaging.destination.name": subject,
        "messaging.destination.template": f"{kind}.{{id}}",
        "messaging.message.id": message_id,
    }
