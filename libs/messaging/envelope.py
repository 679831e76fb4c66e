"""The envelope: CloudEvents 1.0 in binary mode (attributes are NATS headers), plus W3C trace context."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Generic, Protocol, TypeVar
from uuid import UUID

from pydantic import ValidationError

from libs.contracts import Fact
from libs.errors import FieldError, Kind, Refusal
from libs.ids import uuid7
from libs.tracing import Trace

FactT = TypeVar("FactT", bound=Fact)


class Cause(Protocol):
    """What a fact follows from: a request or another fact."""

    @property
    def trace(self) -> Trace:
        """Where in its trace the cause stands."""
        ...


@dataclass(frozen=True, slots=True)
class Origin:
    """A cause that is nothing but a place in a trace, its beginning by default: of what nobody asked for."""

    trace: Trace = field(default_factory=Trace.start)


@dataclass(frozen=True, slots=True)
class Event(Generic[FactT]):
    """A fact as it was received: what happened, and the envelope it came in."""

    fact: FactT
    id: str
    time: datetime
    trace: Trace
    """Where the handling of it stands: a span below the one that stated it."""
    restated: bool = False
    """Whether the publisher said it again because it misses the answer: then it wants one, even a second time."""


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A message on its way out: one row of the outbox."""

    id: UUID
    subject: str
    payload: bytes
    headers: Mapping[str, str]
    created_at: datetime
    trace: Trace | None = None
    """Where the statement stands, as its ``traceparent`` says; None for what was read back."""

    @property
    def key(self) -> str:
        """The id of what it is about: the subject's last token."""
        return self.subject.rpartition(".")[2]


def seal(fact: Fact, *, cause: Cause, now: datetime, restated: bool = False) -> Outgoing:
    """Put a fact into its envelope. Its id is new; the trace continues that of the cause."""
    message_id = uuid7()
    trace = cause.trace.child()
    headers = headers_of(message_id, fact.type, trace=trace, now=now)
    if restated:
        headers["restated"] = "1"
    payload = fact.model_dump_json(exclude_none=True).encode()
    return Outgoing(message_id, fact.subject, payload, headers, now, trace)


def headers_of(message_id: UUID, kind: str, *, trace: Trace, now: datetime) -> dict[str, str]:
    """Write the headers of a new message of type `kind`, stated at `trace`."""
    name = str(message_id)
    return {
        "ce-specversion": "1.0",
        "ce-id": name,
        "ce-type": kind,
        "ce-source": f"/{kind.split('.', 1)[0]}",
        "ce-time": now.isoformat().replace("+00:00", "Z"),
        "content-type": "application/json",
        "Nats-Msg-Id": name,
        "traceparent": trace.header,
    }


def stated_at(headers: Mapping[str, str]) -> datetime:
    """Read when a fact was stated; long ago when it does not say. Raises `ValueError`."""
    return datetime.fromisoformat(headers.get("ce-time", "1970-01-01T00:00:00Z")).astimezone(UTC)


def open_envelope(fact_type: type[FactT], payload: bytes, headers: Mapping[str, str]) -> Event[FactT]:
    """Read a message as the fact it claims to be. Raises `Refusal` (never transient) if it is not one."""
    try:
        fact = fact_type.model_validate_json(payload)
        time = stated_at(headers)
    except ValidationError as error:
        fields = [
            FieldError(".".join(str(part) for part in problem["loc"]), problem["msg"])
            for problem in error.errors(include_url=False, include_input=False)
        ]
        detail = "; ".join(": ".join(filter(None, (field.field, field.detail))) for field in fields)
        raise Refusal("unreadable_message", f"not a {fact_type.type}: {detail}", Kind.MALFORMED, fields) from error
    except (ValueError, OverflowError) as error:
        raise Refusal("unreadable_message", f"ce-time: {error}", Kind.MALFORMED) from error
    return Event(fact, headers.get("ce-id", ""), time, Trace.enter(headers.get("traceparent")), "restated" in headers)
