"""Spans on their way to a collector that is there, away, slow, or ill: real HTTP, and nobody waits for it."""

import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import structlog

from libs.local.servers import free_port
from libs.settings import HttpSettings
from libs.telemetry import Kind, Telemetry, otlp
from libs.telemetry.otlp import Otlp
from libs.telemetry.spans import Span
from libs.telemetry.tests.collector import Collector, collecting
from libs.tests.eventually import eventually
from libs.tracing import Trace


@pytest.fixture
async def collector() -> AsyncIterator[Collector]:
    async with collecting() as running:
        yield running


@pytest.fixture
def logged() -> Iterator[list[Any]]:
    with structlog.testing.capture_logs() as lines:
        yield lines


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Send every span when it is there, instead of some together a second later."""
    monkeypatch.setattr(otlp, "BATCH", 1)


class Sender:
    """Spans for an endpoint, and what became of them."""

    def __init__(self, endpoint: str) -> None:
        self.became: Counter[str] = Counter()
        self.otlp = Otlp("billing", endpoint, self.count)

    def count(self, outcome: str, count: int) -> None:
        self.became[outcome] += count

    def send(self, count: int = 1) -> None:
        for _ in range(count):
            self.otlp.export(Span(Trace.start(), "step", Kind.SERVER, 1, 2, {}))


async def test_a_span_arrives_as_it_was_recorded(collector: Collector) -> None:
    parent, other = Trace.start(), Trace.start()
    span = Span(parent.child(), "step", Kind.CONSUMER, 1_000, 2_000, {"a": "b", "n": 3}, [other, parent], "KeyError")
    sender = Sender(collector.endpoint)
    sender.otlp.export(Span(parent, "above", Kind.SERVER, 900, 3_000, {}))
    sender.otlp.export(span)
    await sender.otlp.close()
    above, arrived = collector.spans
    assert (above.trace_id, above.span_id, above.parent_id) == (parent.trace_id, parent.span_id, "")
    assert (arrived.trace_id, arrived.span_id, arrived.parent_id) == (
        parent.trace_id,
        span.trace.span_id,
        parent.span_id,
    )
    assert (arrived.service, arrived.name, arrived.attributes) == ("billing", "step", {"a": "b", "n": 3})
    assert (arrived.started_ns, arrived.ended_ns) == (1_000, 2_000)
    assert (above.kind, arrived.kind) == (2, 5)  # SERVER, CONSUMER
    assert (above.failed, arrived.failed) == (False, True)
    assert arrived.links == [(other.trace_id, other.span_id), (parent.trace_id, parent.span_id)]
    assert sender.became == {"exported": 2}


async def test_the_variables_of_opentelemetry_are_followed(
    collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"{collector.endpoint}/")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-team=orderly")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test")
    for name, called in ((None, "gateway"), ("door", "door")):
        if name:
            monkeypatch.setenv("OTEL_SERVICE_NAME", name)
        telemetry = Telemetry.of("gateway", HttpSettings.from_environment())
        telemetry.spans.add(telemetry.spans.enter(None), "step", Kind.SERVER, 1, {})
        await telemetry.close()
        assert collector.resources[-1]["service.name"] == called
        assert collector.resources[-1]["deployment.environment.name"] == "test"
        assert collector.headers[-1]["x-team"] == "orderly"
        assert b'trace_spans_total{outcome="exported"} 1.0' in telemetry.metrics.text()[0]


@pytest.mark.usefixtures("at_once")
async def test_a_collector_that_is_away_is_mentioned_once_and_its_spans_are_counted(logged: list[Any]) -> None:
    sender = Sender(f"http://127.0.0.1:{free_port()}")
    sender.send(3)
    await eventually(lambda: sender.became["failed"] >= 1, within_s=15)
    started = time.monotonic()
    await sender.otlp.close()
    assert time.monotonic() - started < 2
    (line,) = logged
    assert (line["event"], line["log_level"]) == ("spans are not delivered", "warning")
    assert "onnection" in line["error"]


@pytest.mark.usefixtures("at_once")
async def test_a_collector_that_is_ill_is_mentioned_once_and_again_when_it_is_well(
    collector: Collector, logged: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    sender = Sender(collector.endpoint)
    collector.status = 500
    sender.send(5)
    await eventually(lambda: sender.became["failed"] == 5)
    collector.status = 200
    sender.send(2)
    await eventually(lambda: sender.became["exported"] == 2)
    await sender.otlp.close()
    assert [line["event"] for line in logged] == ["spans are not delivered", "spans are delivered again"]
    assert "500" in logged[0]["error"]
    assert caplog.records == []


async def test_a_collector_that_hangs_costs_a_bounded_queue_and_a_bounded_stop(
    collector: Collector, logged: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(otlp, "QUEUE", 8)
    monkeypatch.setattr(otlp, "BATCH", 4)
    collector.hangs = True
    sender = Sender(collector.endpoint)
    sender.send(4)
    await eventually(lambda: collector.asked == 1)
    started = time.monotonic()
    sender.send(20)
    assert time.monotonic() - started < 0.5
    assert sender.became == {"dropped": 12}  # eight wait
    await sender.otlp.close()
    assert time.monotonic() - started < 2
    assert logged == []
