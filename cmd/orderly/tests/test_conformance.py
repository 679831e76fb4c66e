"""The contract against the running system: made-up requests, good and bad, a service at a time.

Every answer has to be one that the contract describes, in status, headers and content; what breaks the contract has
to be refused, what keeps to it must not be, and nothing is answered without a token that needs one. `FUZZ_CASES` says
how many requests each service gets at least; `just fuzz` sends 2,000.
"""

import asyncio
import os
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Final

import pytest
import schemathesis
from schemathesis.engine import Status, events, from_schema

from orderly.contracts import openapi_document
from orderly.tests.systems import customers, running_system

SEED: Final = 20_261
CASES: Final = int(os.environ.get("FUZZ_CASES", "400"))
EXAMPLES: Final = max(CASES // 5, 1)
NOT_IN_THE_SCHEMA: Final = (
    b"/problems/idempotency_key_reused",
    b"must be a decimal with at most two places",
    b"login: cannot be changed",
    b"email: cannot be cleared",
)
"""What a request may be refused for that the schema does not say: an earlier request, the places of a JSON number,
and how things stand."""


@dataclass
class Report:
    """What came of a run."""

    cases: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    failures: dict[str, str] = field(default_factory=dict)

    def add(self, event: Any) -> None:
        """Take note of what the engine says."""
        if isinstance(event, events.ScenarioFinished):
            self._count(event.recorder)
            for case_id, checks in event.recorder.checks.items():
                for check in checks:
                    if check.status is Status.FAILURE:
                        self._blame(event.recorder, case_id, check)
        elif isinstance(event, events.NonFatalError):
            self.failures[f"error: {event.label}"] = str(event.value)
        elif isinstance(event, events.FatalError):
            self.failures["fatal"] = str(event.exception)

    def _count(self, recorder: Any) -> None:
        for exchange in recorder.interactions.values():
            self.cases += 1
            self.statuses[str(exchange.response.status_code) if exchange.response else "no answer"] += 1

    def _blame(self, recorder: Any, case_id: str, check: Any) -> None:
        response = recorder.interactions[case_id].response
        said = response.content if response else b""
        if check.name == "positive_data_acceptance" and any(reason in said for reason in NOT_IN_THE_SCHEMA):
            return
        failure = check.failure_info
        shown = f"{failure.failure.message}\n{said[:500]!r}\n{failure.code_sample[:1_500]}"
        self.failures.setdefault(f"{recorder.label}: {failure.failure.title}", shown)


def ask(tag: str, *, url: str, token: str, login: str, seed: int, report: Report) -> None:
    """Make up requests to the operations of one service, and send them; about the caller when the seed is odd."""
    config = schemathesis.Config.from_dict(
        {
            "seed": seed,
            "base-url": url,
            "headers": {"Authorization": f"Bearer {token}"},
            "parameters": {"path.login": login} if seed % 2 else {},
            "request-timeout": 15,
            "continue-on-failure": True,
            "generation": {"max-examples": EXAMPLES, "no-shrink": True, "database": "none"},
            "phases": {"stateful": {"enabled": False}},
        }
    )
    schema = schemathesis.openapi.from_dict(openapi_document(), config=config)
    for event in from_schema(schema.include(tag=tag)).execute():
        report.add(event)


@pytest.mark.prove
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("tag", [tag["name"] for tag in openapi_document()["tags"]])
async def test_every_answer_is_one_that_the_contract_describes(tag: str) -> None:
    report = Report()
    async with running_system("sqlite") as system, customers(system) as customer:
        ann = await customer().arrive("1000000")
        seed = SEED
        while report.cases < CASES and not report.failures:
            who = {"token": ann.token, "login": ann.login}
            await asyncio.to_thread(ask, tag, url=system.url, **who, seed=seed, report=report)
            seed += 1
    print(f"{tag}: {report.cases} cases, seeds {SEED} to {seed - 1}: {dict(report.statuses)}")
    assert not report.failures, "\n\n".join(f"{name}\n{shown}" for name, shown in report.failures.items())
    assert not [status for status in report.statuses if not status.startswith(("2", "4"))], report.statuses
    assert {"200", "405"} <= set(report.statuses), "nothing was asked that is answered"
