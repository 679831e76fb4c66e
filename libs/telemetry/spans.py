"""Spans: which traces are recorded, and what is said about each step of theirs.

The ids of a span are those of its `Trace`, which travels in the ``traceparent`` header. So whatever is caused
further on finds its parent among the spans.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final, TypeAlias

from libs.tracing import Trace

Attributes: TypeAlias = Mapping[str, str | int]


class Kind(Enum):
    """What a span is to the spans around it, in OpenTelemetry's words."""

    INTERNAL = "INTERNAL"
    SERVER = "SERVER"
    CLIENT = "CLIENT"
    PRODUCER = "PRODUCER"
    CONSUMER = "CONSUMER"


@dataclass(frozen=True, slots=True)
class Span:
    """A step that has ended. `error` names what it failed with; times are nanoseconds since 1970."""

    trace: Trace
    name: str
    kind: Kind
    started_ns: int
    ended_ns: int
    attributes: Attributes
    links: Sequence[Trace] = ()
    error: str | None = None


class Allowance:
    """A token bucket: grants at most `per_second` a second, and as many at once after a quiet second."""

    def __init__(self, per_second: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_second = per_second
        self._room = max(per_second, 1.0) if per_second else 0.0
        self._clock = clock
        self._tokens = self._room
        self._filled = clock()

    def take(self) -> bool:
        """Grant one more, or not."""
        if not self._room:
            return False
        now = self._clock()
        self._tokens = min(self._room, self._tokens + (now - self._filled) * self._per_second)
        self._filled = now
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True


class Spans:
    """The spans of one process. Without `export` none are recorded, and traces that begin here are unsampled.

    A trace is sampled where it begins, at most `per_second` of them a second, and followed from there on. `edge`
    is the door to strangers: their wish to be sampled is granted within the same allowance, or else their traces
    would be as many as they like.
    """

    def __init__(
        self, export: Callable[[Span], None] | None = None, *, per_second: float = 0.0, edge: bool = False
    ) -> None:
        self._export = export
        self._edge = edge and export is not None
        self._allowance = Allowance(per_second if export else 0.0)

    @property
    def on(self) -> bool:
        """Whether any spans are recorded."""
        return self._export is not None

    def enter(self, header: str | None) -> Trace:
        """Step into a new span: below the one that a ``traceparent`` header names, or the first of a new trace."""
        trace = Trace.enter(header)
        if trace.parent_id is not None and not self._edge:
            return trace
        return trace if trace.sampled and self._allowance.take() else trace.unsampled()

    def wants(self, trace: Trace | None) -> bool:
        """Whether the spans of a trace are recorded. Ask before working out attributes."""
        return self._export is not None and trace is not None and trace.sampled

    def add(
        self,
        trace: Trace,
        name: str,
        kind: Kind,
        started_ns: int,
        attributes: Attributes,
        *,
        links: Sequence[Trace] = (),
        error: str | None = None,
    ) -> None:
        """Record a step that began at `started_ns` and ends now, if its trace is wanted."""
        if self._export is not None and trace.sampled:
            if error is not None:
                attributes = {**attributes, "error.type": error}
            self._export(Span(trace, name, kind, started_ns, time.time_ns(), attributes, links, error))

    def add_batch(
        self,
        members: Iterable[Trace],
        name: str,
        kind: Kind,
        started_ns: int,
        attributes: Attributes,
        *,
        error: str | None = None,
    ) -> None:
        """Record work done for several at once: a span below the first that is sampled, with links to all of them."""
        if self._export is None:
            return
        links = [member for member in members if member.sampled]
        if links:
            self.add(links[0].child(), name, kind, started_ns, attributes, links=links, error=error)


SILENT: Final = Spans()
"""Records nothing."""
