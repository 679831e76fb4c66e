"""What an audit found: for people's eyes see `view`; here as JSON, and as metrics."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from prometheus_client import CollectorRegistry, Gauge

NAMED: Final = 10
"""Offenders that a report names, the first ones."""

FOLLOWED: Final = 10_000
"""Offenders that are told apart in each reading. Beyond it there are `at_least` so many."""

TITLES: Final[Mapping[str, str]] = {
    "transfers_sum_to_zero": "every transfer sums to zero, and all of them together",
    "transfers_have_two_sides": "every transfer moves money between the accounts its kind says",
    "wallets_equal_entries": "every wallet's balance is the sum of its entries",
    "wallets_without_gaps": "every wallet's transfers follow one another, up to its balance",
    "wallets_not_below_zero": "no wallet is, or ever was, below zero",
    "payments_moved_money": "every accepted payment moved its amount once, every other one nothing",
    "refunds_gave_back": "every refund gave back what was taken, once",
    "orders_paid": "one accepted payment for each confirmed order, none for a rejected one",
    "orders_refunded": "what was taken for cancelled orders went back, and for no other",
    "payments_have_orders": "no payment without its order",
    "letters_of_orders": "one letter for each outcome, to its owner",
    "letters_of_deposits": "one letter for each deposit, to its owner",
    "letters_have_causes": "no letter without its cause",
    "orders_settled": "no order pending, and no refund awaited, beyond the deadline",
    "users_complete": "every user has a profile, an account and a contact",
    "outbox_published": "no fact unpublished beyond the deadline",
    "dead_letters_attended": "no dead letter unattended",
    "streams_of_incarnation": "every stream is the one its database knows",
    "facts_in_streams": "every published fact is in its stream, where its mark says",
    "messages_explained": "no message in a stream that no fact explains",
    "durables_keep_up": "every durable consumer is there, and handles what it gets",
}
"""The checks, in the order in which they are shown. Their names are a contract: JSON and metrics carry them."""

_DIGITS: Final = frozenset("0123456789abcdef")

OF_STREAMS: Final = ("streams_of_incarnation", "facts_in_streams", "messages_explained", "durables_keep_up")


@dataclass(frozen=True, slots=True)
class Limits:
    """When waiting has taken too long."""

    order: timedelta = timedelta(seconds=60)
    """Six times what passes before billing is asked again; a durable made anew rests for 30 s."""
    outbox: timedelta = timedelta(seconds=10)
    """New work is refused then, too."""
    unhandled: timedelta = timedelta(days=5)
    """Two days before the stream forgets the message."""


@dataclass(frozen=True, slots=True)
class Offender:
    """Something that is not as it must be."""

    id: str
    what: str


@dataclass(slots=True)
class Check:
    """What became of one check. `seconds` is how long its readings took, which others may share."""

    name: str
    examined: int = 0
    count: int = 0
    at_least: bool = False
    first: list[Offender] = field(default_factory=list)
    seconds: float = 0.0
    skipped: str | None = None

    @property
    def title(self) -> str:
        """What must be so."""
        return TITLES[self.name]


@dataclass(frozen=True, slots=True)
class Report:
    """An audit. `looks` is how often something had to be looked at until it was clear."""

    at: datetime
    seconds: float
    looks: int
    checks: Sequence[Check]

    @property
    def clean(self) -> bool:
        """Whether nothing is wrong, as far as was looked."""
        return not any(check.count for check in self.checks)

    def offenders(self) -> dict[str, list[Offender]]:
        """Give the first offenders by the name of the check that found them."""
        return {check.name: check.first for check in self.checks if check.count}


def written(name: str) -> str:
    """Write an id as logs and events do; anything else stays as it is."""
    is_id = len(name) == 32 and set(name) <= _DIGITS
    return "-".join((name[:8], name[8:12], name[12:16], name[16:20], name[20:])) if is_id else name


def as_json(report: Report) -> dict[str, Any]:
    """Write a report for programs. Fields may be added to the document, none is removed or retyped."""
    return {
        "version": 1,
        "at": report.at.isoformat(),
        "clean": report.clean,
        "error": None,
        "seconds": round(report.seconds, 3),
        "looks": report.looks,
        "checks": [
            {
                "name": check.name,
                "title": check.title,
                "clean": None if check.skipped else not check.count,
                "skipped": check.skipped,
                "examined": check.examined,
                "offenders": check.count,
                "at_least": check.at_least,
                "first": [{"id": one.id, "what": one.what} for one in check.first],
                "seconds": round(check.seconds, 3),
            }
            for check in report.checks
        ],
    }


def failure_as_json(error: str) -> dict[str, Any]:
    """Write for programs that nothing is known, in the same shape."""
    now = datetime.now(UTC).isoformat()
    return {"version": 1, "at": now, "clean": None, "error": error, "seconds": 0.0, "looks": 0, "checks": []}


class AuditMetrics:
    """The last audit as numbers. One that could not read everything leaves the others as they were."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._readable = self._gauge("readable", "1 if the last audit could read everything")
        self._clean = self._gauge("clean", "1 if the last audit found nothing wrong")
        self._at = self._gauge("timestamp_seconds", "When the last audit that read everything began")
        self._seconds = self._gauge("duration_seconds", "How long it took")
        self._looks = self._gauge("looks", "How often it looked until everything was clear")
        self._examined = self._gauge("examined", "What a check looked at", "check")
        self._offenders = self._gauge("offenders", "What a check found wrong", "check")

    def show(self, report: Report) -> None:
        """Take over what an audit found. A check that was skipped has no series."""
        self._readable.set(1)
        self._clean.set(report.clean)
        self._at.set(report.at.timestamp())
        self._seconds.set(report.seconds)
        self._looks.set(report.looks)
        self._examined.clear()
        self._offenders.clear()
        for check in report.checks:
            if check.skipped is None:
                self._examined.labels(check.name).set(check.examined)
                self._offenders.labels(check.name).set(check.count)

    def show_failure(self) -> None:
        """Take over that an audit could not read something."""
        self._readable.set(0)

    def _gauge(self, name: str, documentation: str, *labels: str) -> Gauge:
        return Gauge(f"orderly_audit_{name}", documentation, labels, registry=self.registry)
