"""What a soak came to: for people's eyes see `view` and `plot`; here what it is made of, and as JSON."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from orderly.audit import Report as Audited
from orderly.audit.report import as_json as audit_as_json
from orderly.faults import Fault
from orderly.soak import memory
from orderly.soak.memory import Life
from orderly.soak.meter import Pause, each_second, pauses, worst

NAMED: Final = 20
"""Contradictions that a report names, the first ones."""

SAMPLES_AT_MOST: Final = 120
"""Measurements of the memory of one process that a report has, over its whole life."""


@dataclass(frozen=True, slots=True)
class Happened:
    """A fault that was caused, from its beginning until it was mended, in seconds since the beginning."""

    number: int
    fault: Fault
    whom: str
    begin_s: float
    end_s: float

    @property
    def says(self) -> str:
        """What happened, and to whom where that was left to chance."""
        return f"{self.fault.says} ({self.whom})" if self.whom else self.fault.says


@dataclass(frozen=True, slots=True)
class Report:
    """A soak. `seconds` is how long the load lasted; afterwards everything had `settle_s` to settle, and did or not."""

    at: datetime
    database: str
    replicas: int
    seed: int
    seconds: float
    settled: bool
    settle_s: float
    people: int
    statuses: Mapping[int, int]
    outcomes: Mapping[str, int]
    confirmed_s: Sequence[float]
    faults: Sequence[Happened]
    sent_again: int
    replayed: int
    handled_again: int
    contradictions: Sequence[str]
    lives: Sequence[Life]
    audited: Audited | None
    troubles: Sequence[str] = field(default_factory=list)
    """What kept the soak itself from going on, such as a broker that did not start again."""

    @property
    def clean(self) -> bool:
        """Whether everything settled, HTTP and the books agree, and the audit is clean. Memory is judged apart."""
        audited = self.audited is not None and self.audited.clean
        return audited and self.settled and not self.contradictions and not self.troubles

    @property
    def flat(self) -> bool | None:
        """Whether memory is flat; None when nobody can be judged."""
        return memory.flat(self.lives, self.seconds)

    @property
    def pauses(self) -> list[Pause]:
        """The times from one confirmed order to the next."""
        return pauses(self.confirmed_s, self.seconds)

    @property
    def worst_pause(self) -> Pause:
        """The longest one."""
        return worst(self.pauses, 0, self.seconds)

    @property
    def survived(self) -> list[Happened]:
        """The faults after which an order was confirmed."""
        last_s = max(self.confirmed_s, default=0.0)
        return [fault for fault in self.faults if fault.end_s < last_s]

    def pause_at(self, fault: Happened) -> Pause:
        """Find the longest pause after a fault had begun, of those that had begun before the next one did."""
        later = [other.begin_s for other in self.faults if other.number > fault.number]
        return worst(self.pauses, fault.begin_s, min(later, default=self.seconds))


def as_json(report: Report) -> dict[str, Any]:
    """Write a report for programs. Fields may be added to the document, none is removed or retyped."""
    pause = report.worst_pause
    return {
        "version": 1,
        "at": report.at.isoformat(),
        "clean": report.clean,
        "database": report.database,
        "replicas": report.replicas,
        "seed": report.seed,
        "seconds": round(report.seconds, 3),
        "settled": report.settled,
        "settle_seconds": round(report.settle_s, 3),
        "people": report.people,
        "orders": dict(sorted(report.outcomes.items())),
        "answers": {str(status): count for status, count in sorted(report.statuses.items())},
        "requests_sent_again": report.sent_again,
        "duplicates_absorbed": {"requests": report.replayed, "messages": report.handled_again},
        "worst_pause": {"begin_s": round(pause.begin_s, 3), "seconds": round(pause.seconds, 3)},
        "faults_survived": len(report.survived),
        "faults": [_fault_as_json(report, fault) for fault in report.faults],
        "confirmed_each_second": each_second(report.confirmed_s, report.seconds),
        "memory": _memory_as_json(report),
        "contradictions": list(report.contradictions[:NAMED]),
        "contradictions_count": len(report.contradictions),
        "troubles": list(report.troubles),
        "audit": audit_as_json(report.audited) if report.audited else None,
    }


def _fault_as_json(report: Report, fault: Happened) -> dict[str, Any]:
    return {
        "number": fault.number,
        "name": fault.fault.name,
        "says": fault.fault.says,
        "whom": fault.whom or None,
        "begin_s": round(fault.begin_s, 3),
        "end_s": round(fault.end_s, 3),
        "worst_pause_s": round(report.pause_at(fault).seconds, 3),
    }


def _memory_as_json(report: Report) -> dict[str, Any]:
    third, end = memory.at(report.lives, report.seconds / 3), memory.at(report.lives, report.seconds)
    lives: dict[str, list[dict[str, Any]]] = {}
    for life in report.lives:
        lives.setdefault(life.label, []).append(_life_as_json(life, report.seconds))
    return {
        "flat": report.flat,
        "processes": {
            label: {
                "bytes_at_first_third": third[label],
                "bytes_at_end": end[label],
                "flat": memory.flat([life for life in report.lives if life.label == label], report.seconds),
                "lives": lives[label],
            }
            for label in sorted(end)
        },
    }


def _life_as_json(life: Life, run_s: float) -> dict[str, Any]:
    before, _, last = life.growth()
    every = -(-len(life.samples) // SAMPLES_AT_MOST)
    return {
        "pid": life.pid,
        "flat": life.flat(run_s),
        "bytes_in_second_fifth": int(before),
        "bytes_in_last_fifth": int(last),
        "samples": [[round(moment, 1), size] for moment, size in life.samples[::every]],
    }
