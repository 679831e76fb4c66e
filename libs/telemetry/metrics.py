"""Metrics: the instruments of one process, in a registry of its own, named after Prometheus' conventions.

Labels come from tables in the code (routes, message types, streams), never from what somebody sends, so there are
never more series than the code has lines.
"""

from collections.abc import Callable
from typing import Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client import Gauge as PrometheusGauge
from prometheus_client.exposition import choose_encoder

disable_created_metrics()  # type: ignore[no-untyped-call] # would double the series; nobody asks when one began

METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
OTHER_METHOD: Final = "_OTHER"
UNMATCHED: Final = "unmatched"
"""The route of whatever matches none: one label for every path that somebody may think of."""

_SIZES: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Metrics:
    """What a process counts and measures.

    Children of labelled instruments are kept: looking one up costs as much as counting.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        GCCollector(registry=self.registry)
        self._requests = self._counter("http_requests", "Requests answered", "method", "route", "status")
        self._durations = self._histogram(
            "http_request_duration_seconds", "From request to answer", _SECONDS, "method", "route"
        )
        self.in_flight = 0
        self.watch("http_requests_in_flight", "Requests being answered", lambda: self.in_flight)
        self._batch_sizes = self._histogram(
            "batch_size", "Messages of a type, or commands of a kind, in one unit of work", _SIZES, "work"
        )
        self._batch_durations = self._histogram(
            "batch_duration_seconds", "From the beginning of a unit of work to its commit", _SECONDS, "work"
        )
        self._consumed = self._counter("messages_consumed", "What became of deliveries", "stream", "outcome")
        self._published = self._counter("messages_published", "Messages handed to the stream", "outcome")
        self._spans = self._counter("trace_spans", "What became of recorded spans", "outcome")
        self._answers: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}
        self._batches: dict[str, tuple[Histogram, Histogram]] = {}
        self._counts: dict[tuple[Counter, tuple[str, ...]], Counter] = {}

    def answered(self, method: str, route: str | None, status: int, seconds: float) -> None:
        """Count a request that was answered; `route` is its template, None when it matches none."""
        key = (method, route or UNMATCHED, status)
        known = self._answers.get(key)
        if known is None:
            labels = (method if method in METHODS else OTHER_METHOD, key[1])
            known = (self._requests.labels(*labels, str(status)), self._durations.labels(*labels))
            if labels[0] == method:  # what is made up by clients is looked up anew each time
                self._answers[key] = known
        known[0].inc()
        known[1].observe(seconds)

    def committed(self, work: str, size: int, seconds: float) -> None:
        """Measure a unit of work: `work` is the type of its messages, or the name of its command."""
        known = self._batches.get(work)
        if known is None:
            known = self._batches[work] = (self._batch_sizes.labels(work), self._batch_durations.labels(work))
        known[0].observe(size)
        known[1].observe(seconds)

    def consumed(self, stream: str, outcome: str, count: int = 1) -> None:
        """Count deliveries: ``handled``, ``redelivered`` (given back after a failure) or ``dead``."""
        self._count(self._consumed, count, stream, outcome)

    def published(self, outcome: str, count: int) -> None:
        """Count messages: ``stored`` by the stream, or ``failed``, which is tried again."""
        self._count(self._published, count, outcome)

    def spans(self, outcome: str, count: int) -> None:
        """Count spans: ``exported``, ``failed`` (the collector did not take them) or ``dropped`` (no room)."""
        self._count(self._spans, count, outcome)

    def watch(self, name: str, documentation: str, read: Callable[[], float]) -> None:
        """Have `read` called whenever somebody asks: for what is in memory and costs nothing."""
        PrometheusGauge(name, documentation, registry=self.registry).set_function(read)

    def gauge(self, name: str, documentation: str, *labels: str) -> PrometheusGauge:
        """Make a gauge that somebody sets from time to time."""
        return PrometheusGauge(name, documentation, labels, registry=self.registry)

    def text(self, accept: str = "") -> tuple[bytes, str]:
        """Write everything in the text format that an ``Accept`` header asks for; return it with its content type."""
        encode, content_type = choose_encoder(accept)
        return encode(self.registry), content_type

    def _count(self, counter: Counter, count: int, *labels: str) -> None:
        known = self._counts.get((counter, labels))
        if known is None:
            known = self._counts[counter, labels] = counter.labels(*labels)
        known.inc(count)

    def _counter(self, name: str, documentation: str, *labels: str) -> Counter:
        return Counter(name, documentation, labels, registry=self.registry)

    def _histogram(self, name: str, documentation: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
        return Histogram(name, documentation, labels, registry=self.registry, buckets=buckets)
