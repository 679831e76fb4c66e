"""Messages: each has a span where it is stated and where it is handled, and only what was committed was stated."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from libs.contracts.orders import OrderPlaced
from libs.messaging.bus import BusUnavailable, Durable
from libs.messaging.envelope import Origin, Outgoing, open_envelope, seal
from libs.messaging.memory import MemoryBus
from libs.messaging.relay import Relay
from libs.messaging.tests.stage import opened, order_placed
from libs.messaging.unit import Units
from libs.storage import Database
from libs.telemetry import Kind, Metrics, Span, Spans, Telemetry
from libs.telemetry.messaging import processing, sending
from libs.telemetry.tests.test_metrics import series, value
from libs.tests.units import on_sqlite
from libs.tracing import Trace

CAUSE = Trace.start()
DURABLE = Durable("ORDERS", "billing", ("orders.order.placed.*",))


@pytest.fixture
def recorded() -> list[Span]:
    return []


@pytest.fixture
def telemetry(recorded: list[Span]) -> Telemetry:
    return Telemetry(Metrics(), Spans(recorded.append))


@pytest.fixture
async def database(database_url: str, tmp_path: Path) -> AsyncIterator[Database]:
    async with opened(database_url, tmp_path / "migrations") as database:
        yield database


def stated(cause: Trace = CAUSE) -> Outgoing:
    return seal(order_placed(), cause=Origin(cause), now=datetime.now(UTC))


@on_sqlite
async def test_what_is_rolled_back_was_never_stated(
    database: Database, telemetry: Telemetry, recorded: list[Span]
) -> None:
    units = Units(database, lambda connection: connection, Relay(database, MemoryBus(), "orders"), telemetry=telemetry)

    async def fail() -> None:
        async with units.begin() as unit:
            unit.publish(order_placed(), cause=Origin(CAUSE))
            raise KeyError

    with pytest.raises(KeyError):
        await fail()
    assert recorded == []
    async with units.begin() as unit:
        unit.publish(order_placed(), cause=Origin(CAUSE))
        unit.publish(order_placed(), cause=Origin(CAUSE.unsampled()))
    (span,) = recorded
    assert (span.name, span.kind, span.trace.parent_id) == ("create orders.order.placed", Kind.PRODUCER, CAUSE.span_id)
    assert span.trace.header == unit.outgoing[0].headers["traceparent"]
    assert span.attributes["messaging.message.id"] == str(unit.outgoing[0].id)
    assert span.started_ns <= span.ended_ns


def test_what_is_read_back_from_the_outbox_is_linked_to_where_it_was_stated(
    telemetry: Telemetry, recorded: list[Span]
) -> None:
    message = stated()
    assert message.trace is not None
    swept = Outgoing(message.id, message.subject, message.payload, message.headers, message.created_at)
    with sending(telemetry, [stated(CAUSE.unsampled()), swept]):
        pass
    (span,) = recorded
    assert (span.name, span.kind) == ("publish ORDERS", Kind.CLIENT)
    assert [link.span_id for link in span.links] == [message.trace.span_id]
    assert span.trace.parent_id == message.trace.span_id
    assert span.attributes["messaging.batch.message_count"] == 2
    assert value(telemetry.metrics, "messages_published_total", outcome="stored") == 2


def test_what_has_no_place_in_a_trace_gets_none(telemetry: Telemetry, recorded: list[Span]) -> None:
    message = stated()
    with sending(telemetry, [Outgoing(message.id, message.subject, message.payload, {}, message.created_at)]):
        pass
    assert recorded == []


def test_what_could_not_be_published_is_a_failure(telemetry: Telemetry, recorded: list[Span]) -> None:
    with pytest.raises(BusUnavailable), sending(telemetry, [stated()]):
        raise BusUnavailable("away")
    assert [span.error for span in recorded] == ["BusUnavailable"]
    assert value(telemetry.metrics, "messages_published_total", outcome="failed") == 1


def test_each_message_is_handled_in_its_own_trace(telemetry: Telemetry, recorded: list[Span]) -> None:
    messages = [stated(), stated(Trace.start()), stated(CAUSE.unsampled())]
    events = [open_envelope(OrderPlaced, one.payload, one.headers) for one in messages]
    with processing(telemetry, DURABLE, {OrderPlaced.type: events, "orders.order.cancelled": []}):
        pass
    batch, first, second = recorded
    assert [one.trace for one in (first, second)] == [event.trace for event in events[:2]]
    assert batch.links == [event.trace for event in events[:2]]
    for span, message in zip((first, second), messages, strict=False):
        assert message.trace is not None
        assert (span.trace.trace_id, span.trace.parent_id) == (message.trace.trace_id, message.trace.span_id)
        assert (span.name, span.kind) == ("process orders.order.placed", Kind.CONSUMER)
        assert span.attributes["messaging.destination.name"] == message.subject
    assert (batch.name, batch.attributes["messaging.batch.message_count"]) == ("process ORDERS", 3)
    assert value(telemetry.metrics, "messages_consumed_total", stream="ORDERS", outcome="handled") == 3
    assert value(telemetry.metrics, "batch_size_sum", work="orders.order.placed") == 3
    assert not [name for name, labels in series(telemetry.metrics) if ("work", "orders.order.cancelled") in labels]


def test_what_could_not_be_handled_is_a_failure_and_not_counted_as_handled(
    telemetry: Telemetry, recorded: list[Span]
) -> None:
    message = stated()
    event = open_envelope(OrderPlaced, message.payload, message.headers)
    with pytest.raises(KeyError), processing(telemetry, DURABLE, {OrderPlaced.type: [event]}):
        raise KeyError
    assert [span.error for span in recorded] == ["KeyError", "KeyError"]
    assert "messages_consumed_total" not in {name for name, _ in series(telemetry.metrics)}
