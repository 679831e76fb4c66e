"""The telemetry of one process: its metrics, its spans, and the collector they go to."""

import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol, Self

from libs.telemetry.metrics import Metrics
from libs.telemetry.spans import SILENT, Kind, Spans
from libs.tracing import Trace


class TelemetrySettings(Protocol):
    """The settings that telemetry follows."""

    @property
    def otel_exporter_otlp_endpoint(self) -> str | None:
        """Base URL of the collector; None: there is none."""
        ...

    @property
    def otel_service_name(self) -> str | None:
        """What to be called in traces; None: as usual."""
        ...

    @property
    def traces_per_second(self) -> float:
        """How many traces to begin in a second, at most."""
        ...


async def _nothing() -> None:
    pass


class Telemetry:
    """What a process measures and records. Without arguments: metrics that nobody asks for, no spans."""

    def __init__(
        self,
        metrics: Metrics | None = None,
        spans: Spans = SILENT,
        close: Callable[[], Awaitable[None]] = _nothing,
    ) -> None:
        self.metrics = metrics or Metrics()
        self.spans = spans
        self.close = close
        """Deliver what is recorded; takes two seconds at most, whatever the collector does."""

    @classmethod
    def of(cls, service: str, settings: TelemetrySettings, *, edge: bool = False) -> Self:
        """Make the telemetry of a process; `edge` for the one that strangers talk to."""
        if settings.otel_exporter_otlp_endpoint is None:
            return cls()
        from libs.telemetry.otlp import Otlp  # noqa: PLC0415 - takes 0.2 s, and most processes do without

        metrics = Metrics()
        otlp = Otlp(settings.otel_service_name or service, settings.otel_exporter_otlp_endpoint, metrics.spans)
        spans = Spans(otlp.export, per_second=settings.traces_per_second, edge=edge)
        return cls(metrics, spans, otlp.close)

    @contextmanager
    def committing(self, work: str, members: Sequence[Trace]) -> Iterator[None]:
        """Measure and record commands that are carried out together; `members` are the requests that asked."""
        started_ns, error = time.time_ns(), None
        try:
            yield
            self.metrics.committed(work, len(members), (time.time_ns() - started_ns) / 1e9)
        except BaseException as failure:
            error = type(failure).__name__
            raise
        finally:
            self.spans.add_batch(
                members, work, Kind.INTERNAL, started_ns, {"orderly.batch.size": len(members)}, error=error
            )
