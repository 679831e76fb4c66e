"""W3C Trace Context (https://www.w3.org/TR/trace-context/): which request caused what."""

import re
from dataclasses import dataclass
from typing import Final, Self

from libs.ids import random_8

_TRACEPARENT: Final = re.compile(r"(?!ff)([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_THIS_VERSION: Final = "00"
_SAMPLED: Final = 0x01
_UNSAMPLED: Final = "00"
_NO_TRACE: Final = "0" * 32
_NO_SPAN: Final = "0" * 16


@dataclass(frozen=True, slots=True)
class Trace:
    """A place in a trace: everything caused from here carries the same `trace_id`.

    `parent_id` is the span this one was entered from; None where the trace begins, and for the place of somebody
    else, of which no more is known than its header.
    """

    trace_id: str
    span_id: str
    flags: str = "01"
    parent_id: str | None = None

    @classmethod
    def start(cls) -> Self:
        """Begin a new trace."""
        return cls((random_8() + random_8()).hex(), random_8().hex())

    @classmethod
    def parse(cls, header: str | None) -> Self:
        """Read a ``traceparent`` header; a missing or malformed one begins a new trace, as the standard asks."""
        match = _match(header)
        return cls(match[2], match[3], _flags(match)) if match else cls.start()

    @classmethod
    def enter(cls, header: str | None) -> Self:
        """Step into a new span: below the one that a ``traceparent`` header names, or the first of a new trace."""
        match = _match(header)
        return cls(match[2], random_8().hex(), _flags(match), match[3]) if match else cls.start()

    def child(self) -> Self:
        """Step into a new span of the same trace."""
        return type(self)(self.trace_id, random_8().hex(), self.flags, self.span_id)

    @property
    def sampled(self) -> bool:
        """Whether its spans are to be recorded."""
        return self.flags != _UNSAMPLED

    def unsampled(self) -> Self:
        """The same place in a trace whose spans nobody records."""
        return type(self)(self.trace_id, self.span_id, _UNSAMPLED, self.parent_id)

    @property
    def header(self) -> str:
        """The ``traceparent`` header that hands this place on."""
        return f"00-{self.trace_id}-{self.span_id}-{self.flags}"


def _match(header: str | None) -> "re.Match[str] | None":
    match = _TRACEPARENT.fullmatch(header or "")
    if match is None or match[2] == _NO_TRACE or match[3] == _NO_SPAN:
        return None
    if match[1] == _THIS_VERSION and match[5]:
        return None  # only later versions may go on after the flags
    return match


def _flags(match: "re.Match[str]") -> str:
    return f"{int(match[4], 16) & _SAMPLED:02x}"
