"""Soaks that never were, for tests of what is made of them."""

from collections.abc import Sequence
from contextlib import nullcontext
from datetime import UTC, datetime
from typing import Any

from orderly.audit import Report as Audited
from orderly.audit.report import Check, Offender
from orderly.faults import Fault
from orderly.soak.report import Happened, Report


def audited(*, offenders: int = 0) -> Audited:
    """An audit of one check."""
    check = Check("orders_paid", examined=7, count=offenders, first=[Offender("x", "is not paid")] * offenders)
    return Audited(datetime.now(UTC), 0.1, 1, [check])


def fault(name: str) -> Fault:
    """A fault that is never caused."""
    return Fault(name, "<something> & more", lambda _system: nullcontext())


def soaked(*, confirmed_s: Sequence[float] = (1.0, 2.0, 59.0), faults: int = 2, **changed: Any) -> Report:
    """A clean soak of a minute."""
    given: dict[str, Any] = {
        "at": datetime.now(UTC),
        "database": "sqlite",
        "replicas": 1,
        "seed": 7,
        "seconds": 60.0,
        "settled": True,
        "settle_s": 1.5,
        "people": 3,
        "statuses": {201: 5, 503: 1},
        "outcomes": {"confirmed": len(confirmed_s)},
        "confirmed_s": list(confirmed_s),
        "faults": [
            Happened(number, fault(f"fault-{number}"), "billing", number * 3.0, number * 3.0 + 2)
            for number in range(1, faults + 1)
        ],
        "sent_again": 1,
        "replayed": 2,
        "handled_again": 3,
        "contradictions": [],
        "lives": [],
        "audited": audited(),
    }
    return Report(**{**given, **changed})
