"""W3C Trace Context (https://www.w3.org/TR/trace-context/): which request caused what."""

import os
import re
from dataclasses import dataclass
from typing import Final, Self

_TRACEPARENT: Final = re.compile(r"(?!ff)[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?")
_ZEROS: Final = re.compile(r"0+")


@dataclass(frozen=True, slots=True)
class Trace:
    """A place in a trace: everything caused from here carries the same `trace_id`."""

    trace_id: str
    span_id: str
    flags: str = "01"

    @classmethod
    def start(cls) -> Self:
        """Begin a new trace."""
        return cls(os.urandom(16).hex(), os.urandom(8).hex())

    @classmethod
    def parse(cls, header: str | None) -> Self:
        """Read a ``traceparent`` header; a missing or malformed one begins a new trace, as the standard asks."""
        match = _TRACEPARENT.fullmatch(header or "")
        if match is None or _ZEROS.fullmatch(match[1]) or _ZEROS.fullmatch(match[2]):
            return cls.start()
        return cls(match[1], match[2], match[3])

    def child(self) -> Self:
        """Step into a new span of the same trace."""
        return type(self)(self.trace_id, os.urandom(8).hex(), self.flags)

    @property
    def header(self) -> str:
        """The ``traceparent`` header that hands this place on."""
        return f"00-{self.trace_id}-{self.span_id}-{self.flags}"
