"""Restating: a question whose answer is overdue is stated again, as a new event with the header ``restated``.

Whoever answers does so from its stored decision, so an answer that was lost comes again and nothing happens twice.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from libs.tracing import Trace

AT_ONCE: Final = 100
"""How many questions one tick states again, at most."""

_FIRST: Final = timedelta(seconds=10)
_LONGEST: Final = timedelta(hours=1)


def due_again(restated: int, now: datetime) -> datetime:
    """When the answer is overdue to a question stated again `restated` times: after 10 s, then twice as long."""
    interval: timedelta = min(_FIRST * 2 ** min(restated, 16), _LONGEST)
    return now + interval


def overdue_by(now: datetime, handled_until: datetime) -> datetime:
    """Until when an answer must have been due for its question to be stated again.

    A question that still waits where it was asked, since it was stated after `handled_until`, is none of them.
    """
    return min(now - _FIRST, handled_until) + _FIRST


@dataclass(frozen=True, slots=True)
class Origin:
    """The cause of a restatement: what caused the question in the first place."""

    trace: Trace

    @classmethod
    def of(cls, traceparent: str) -> "Origin":
        """Read the place in the trace that was kept with the question."""
        return cls(Trace.parse(traceparent))
