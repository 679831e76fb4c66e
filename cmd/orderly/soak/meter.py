"""When orders were confirmed, as people were told over HTTP: that stays true whatever the broker forgets."""

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise


@dataclass(frozen=True, slots=True)
class Pause:
    """The time from one confirmed order to the next, in seconds since the beginning."""

    begin_s: float
    end_s: float

    @property
    def seconds(self) -> float:
        """How long it was."""
        return self.end_s - self.begin_s


@dataclass(slots=True)
class Meter:
    """Takes the time of every confirmed order, in seconds since it was made."""

    confirmed_s: list[float] = field(default_factory=list)
    _began: float = field(default_factory=time.monotonic)

    def now_s(self) -> float:
        """Say how long it has run."""
        return time.monotonic() - self._began

    def confirmed(self) -> None:
        """Note that an order is confirmed."""
        self.confirmed_s.append(self.now_s())


def each_second(confirmed_s: Sequence[float], seconds: float) -> list[int]:
    """Count the orders of each second. The last one may be less than a second long, and is left out then."""
    counts = Counter(int(one) for one in confirmed_s)
    return [counts[second] for second in range(int(seconds))]


def pauses(confirmed_s: Sequence[float], seconds: float) -> list[Pause]:
    """List the times between confirmed orders, the first from the beginning, the last up to the end."""
    within = [one for one in confirmed_s if one < seconds]
    return [Pause(begin, end) for begin, end in pairwise([0.0, *within, seconds])]


def worst(some: Sequence[Pause], begin_s: float, end_s: float) -> Pause:
    """Find the longest pause of which some part lies between two moments; what was before the first is cut off."""
    touching = [pause for pause in some if pause.begin_s < end_s and pause.end_s > begin_s]
    cut = [Pause(max(pause.begin_s, begin_s), pause.end_s) for pause in touching]
    return max(cut, key=lambda pause: pause.seconds, default=Pause(begin_s, begin_s))


def clock(seconds: float) -> str:
    """Write a moment as minutes and seconds."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02}"
