"""One look: what is read, and what looked wrong."""

from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from orderly.audit.reading import Snapshot
from orderly.audit.report import FOLLOWED, Limits

if TYPE_CHECKING:
    from orderly.audit.streams import State, Streams

Suspect = tuple[str, str]
"""A check, and the id of what looks wrong to it."""

TELL_EVERY = 5_000


@dataclass(slots=True)
class Look:
    """What one look of a part reads, and finds.

    `streams` and `states` are of one moment before the snapshots; they are not there when streams are left out.
    """

    snapshots: Mapping[str, Snapshot]
    limits: Limits
    tell: Callable[[int], None]
    streams: "Streams | None" = None
    states: "Mapping[str, State | None]" = field(default_factory=dict)
    now: datetime = field(default_factory=lambda: datetime.now(UTC))
    found: dict[Suspect, str] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    seen: Counter[str] = field(default_factory=Counter)
    more: set[str] = field(default_factory=set)

    def suspect(self, check: str, offender: str, what: str) -> None:
        """Note what looks wrong. Only the first `FOLLOWED` of a check are told apart."""
        if (check, offender) in self.found:
            return
        if self.counts[check] >= FOLLOWED:
            self.more.add(check)
            return
        self.counts[check] += 1
        self.found[check, offender] = what

    def examined(self, check: str, count: int) -> None:
        """Count what a check looked at."""
        self.seen[check] += count

    def step(self, number: int) -> None:
        """Say from time to time how far a long reading has got."""
        if number % TELL_EVERY == 0:
            self.tell(number)


@dataclass(frozen=True, slots=True)
class Part:
    """A reading that serves one check or several.

    `look` is given nothing at the first look, and later the ids that looked wrong: it may leave out the others.
    What it finds is wrong at once unless it `passes` by itself: facts under way, and what time may mend.
    """

    name: str
    checks: tuple[str, ...]
    databases: tuple[str, ...]
    look: Callable[[Look, Sequence[str] | None], Awaitable[None]]
    of_streams: bool = False
    passes: bool = True
