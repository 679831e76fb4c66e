"""W3C Trace Context (https://www.w3.org/TR/trace-context/): which request caused what."""

import os
import re
from dataclasses import dataclass
from typing import Final, Self

_TRACEPARENT: Final = re.compile(r"(?!ff)([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_THIS_VERSION: Final = "00"
_SAMPLED: Final = 0x01
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
        if match is None or _ZEROS.fullmatch(match[2]) or _ZEROS.fullmatch(match[3]):
            return cls.start()
        if match[1] == _THIS_VERSION and match[5]:
            return cls.start()  # only later versions may go on after the flags
        return cls(match[2], match[3], f"{int(match[4], 16) & _SAMPLED:02x}")

    def child(self) -> Self:
        """Step into a new span of the same trace."""
        return type(self)(self.trace_id, os.urandom(8).hex(), self.flags)

    @property
    def header(self) -> str:
        """The ``traceparent`` header that hands this place on."""
        return f"00-{self.trace_id}-{self.span_id}-{self.flags}"
