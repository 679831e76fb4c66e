"""Spans on their way to a collector, by OTLP over HTTP. Imported only when there is a collector: it takes 0.2 s."""

import asyncio
import logging
import threading
from collections.abc import Callable, Sequence
from typing import Final

import structlog
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    set_span_in_context,
)

from libs.telemetry.spans import Span
from libs.tracing import Trace

QUEUE: Final = 4_096
"""Spans that wait for the collector, at most. More are dropped: a collector that is away costs this much memory."""

BATCH: Final = 512
DELAY_S: Final = 1.0
TIMEOUT_S: Final = 5.0
STOP_WITHIN_S: Final = 1.0

log = structlog.get_logger()


class Otlp:
    """Hands spans to a thread that sends them. Nothing here waits for the collector, or fails because of it.

    `count` gets what became of spans: an outcome and how many.
    """

    def __init__(self, service: str, endpoint: str, count: Callable[[str, int], None]) -> None:
        self._count = count
        self._delivery = _Delivery(endpoint, count)
        self._processor = BatchSpanProcessor(
            self._delivery,
            max_queue_size=QUEUE,
            schedule_delay_millis=DELAY_S * 1000,
            max_export_batch_size=BATCH,
        )
        self._ids = _GivenIds()
        provider = TracerProvider(
            sampler=ALWAYS_ON,  # whoever hands over a span has decided already
            resource=Resource.create({SERVICE_NAME: service}),
            id_generator=self._ids,
            shutdown_on_exit=False,
        )
        provider.add_span_processor(self._processor)
        self._tracer = provider.get_tracer("orderly")
        self._recorded = 0

    def export(self, span: Span) -> None:
        """Take a span that has ended."""
        if self._recorded - self._delivery.taken >= QUEUE:
            self._count("dropped", 1)
            return
        self._recorded += 1
        trace = span.trace
        self._ids.next = (int(trace.trace_id, 16), int(trace.span_id, 16))
        below = NonRecordingSpan(_context(trace.trace_id, trace.parent_id)) if trace.parent_id else None
        made = self._tracer.start_span(
            span.name,
            context=set_span_in_context(below, Context()) if below else Context(),
            kind=SpanKind[span.kind.value],
            attributes=span.attributes,
            links=[Link(_place(link)) for link in span.links],
            start_time=span.started_ns,
        )
        if span.error is not None:
            made.set_status(Status(StatusCode.ERROR))
        made.end(span.ended_ns)

    async def close(self) -> None:
        """Send what waits, for a moment; what the collector does not take meanwhile is lost."""
        if self._delivery.failing:
            self._delivery.shutdown()  # it would only try again
        stopping = threading.Thread(target=self._processor.shutdown, name="spans stop", daemon=True)
        stopping.start()
        await asyncio.to_thread(stopping.join, STOP_WITHIN_S)


class _GivenIds(IdGenerator):
    """Gives the next span the ids that were decided before it was made."""

    next = (0, 0)

    def generate_trace_id(self) -> int:
        return self.next[0]

    def generate_span_id(self) -> int:
        return self.next[1]


class _Delivery(SpanExporter):
    """Sends spans; counts what became of them, and says once when that goes wrong, and when it is mended."""

    def __init__(self, endpoint: str, count: Callable[[str, int], None]) -> None:
        self._endpoint = endpoint
        self._count = count
        self.failing = False
        self._said = _quietened()
        self._exporter = OTLPSpanExporter(endpoint=f"{endpoint}/v1/traces", timeout=TIMEOUT_S)
        self.taken = 0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.taken += len(spans)
        self._said.lines.clear()
        result = self._exporter.export(spans)
        failed = result is not SpanExportResult.SUCCESS
        self._count("failed" if failed else "exported", len(spans))
        if failed and not self.failing:
            # The first line says what went wrong, the later ones that trying again did not help.
            log.warning("spans are not delivered", endpoint=self._endpoint, error="".join(self._said.lines[:1]))
        elif self.failing and not failed:
            log.info("spans are delivered again", endpoint=self._endpoint)
        self.failing = failed
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()  # type: ignore[no-untyped-call] # the library types it not


class _Said(logging.Handler):
    """Keeps what the libraries complain about during one export, instead of a line of log for each."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def _quietened() -> _Said:
    said = _Said()
    for name in ("opentelemetry", "urllib3"):
        logger = logging.getLogger(name)
        logger.handlers = [said]
        logger.propagate = False
    return said


def _context(trace_id: str, span_id: str) -> SpanContext:
    return SpanContext(int(trace_id, 16), int(span_id, 16), is_remote=True, trace_flags=TraceFlags(TraceFlags.SAMPLED))


def _place(trace: Trace) -> SpanContext:
    return _context(trace.trace_id, trace.span_id)
