"""The neighbours of the services, NATS and PostgreSQL, fail in every way that we know, one after the other, under load.

While it lasts every answer is honest and comes in time, and readiness tells the truth. Afterwards everything settles by
itself, and nothing is lost.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import aiohttp
import pytest

from orderly.faults import Fault, broker, network, postgres, storage
from orderly.services import NAMES
from orderly.system import DatabaseKind, System
from orderly.tests.shopping import Answers, shopping
from orderly.tests.systems import Customer, assert_the_books_balance, customers, running_system

PEOPLE: Final = 4
LOOK_EVERY_S: Final = 0.25
SETTLED_WITHIN_S: Final = 90.0

Readiness = tuple[int, tuple[str, ...]]
"""The status of ``/readyz``, and what the service says that it awaits."""

FINE: Final[Readiness] = (200, ())
WITHOUT_BROKER: Final[Readiness] = (200, ("nats",))
WITHOUT_DATABASE: Final[Readiness] = (503, ("database",))

FAULTS: Final = {fault.name: fault for fault in (*network.FAULTS, *postgres.FAULTS, *broker.FAULTS, *storage.FAULTS)}


@dataclass(frozen=True, slots=True)
class Trial:
    """A fault that lasts for `held_s`.

    Every answer comes within `answered_s`. After `noticed_s` the `concerned` services say `says`, all others that all
    is well; those in `either` may say the one or the other.
    """

    name: str
    held_s: float
    answered_s: float
    says: Readiness | None = None
    noticed_s: float = 0.0
    concerned: Sequence[str] = NAMES
    either: Sequence[str] = ()

    @property
    def fault(self) -> Fault:
        return FAULTS[self.name]


@dataclass(frozen=True, slots=True)
class Sight:
    """What everybody said of himself at one moment of a fault, and the gateway of all of them."""

    at_s: float
    services: dict[str, Readiness]
    gateway: int
    down: Sequence[str]


AWAY: Final = (
    Trial("broker-killed", 6, 8, WITHOUT_BROKER, 2),
    Trial("broker-stopped", 12, 8, WITHOUT_BROKER, 11),
    Trial("nats-half-open", 12, 8, WITHOUT_BROKER, 11),
)
FULL: Final = (
    Trial("stream-full", 15, 8, WITHOUT_BROKER, 13.5, ["orders"]),
    Trial("disk-full", 15, 8, WITHOUT_BROKER, 13.5, ["orders", "billing"], either=["notifications"]),
)
HARD_TO_REACH: Final = (
    Trial("nats-slow", 5, 8, FINE),
    Trial("nats-cut", 4, 8),
)
POSTGRES: Final = (
    Trial("postgres-restarted", 3, 13),
    Trial("postgres-failing-over", 6, 13, WITHOUT_DATABASE, 5),
    Trial("postgres-demoted", 5, 13, WITHOUT_DATABASE, 4),
    Trial("postgres-connections-ended", 3, 13),
    Trial("postgres-slow", 5, 13, FINE),
    Trial("rows-locked", 10, 13, FINE),
    Trial("table-locked", 10, 13, FINE),
    Trial("postgres-half-open", 10.5, 13, WITHOUT_DATABASE, 8),
)
SMALL_STREAMS: Final = {"STREAM_MAX_BYTES": str(storage.SMALL)}


@pytest.mark.prove
@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    ("database", "trials"),
    [
        pytest.param("sqlite", (*FULL, *AWAY[:1]), id="sqlite"),
        pytest.param("postgres", (*FULL, *HARD_TO_REACH), id="postgres-broker-full"),
        pytest.param("postgres", AWAY, id="postgres-broker-away"),
        pytest.param("postgres", POSTGRES, id="postgres"),
    ],
)
async def test_faults_of_the_neighbours(database: DatabaseKind, trials: Sequence[Trial]) -> None:
    async with (
        running_system(database, extra=dict(SMALL_STREAMS), kind=network.WiredSystem) as system,
        customers(system) as customer,
    ):
        people = [await customer().arrive("1000") for _ in range(PEOPLE)]
        for trial in trials:
            try:
                await endure(system, people, trial)
            except Exception as error:
                error.add_note(f"while {trial.name}: {trial.fault.says}")
                raise


async def endure(system: System, people: Sequence[Customer], trial: Trial) -> None:
    clock = asyncio.get_running_loop().time
    async with shopping(people) as answers:
        async with trial.fault.cause(system):
            sights = await look_at(system, trial.held_s)
        mended_at = clock()
        await system.healthy(within_s=SETTLED_WITHIN_S)
    check(trial, answers, sights)
    for person in people:
        assert set(await person.audit(within_s=SETTLED_WITHIN_S)) <= {"confirmed", "cancelled"}
    await assert_the_books_balance(system)
    await system.healthy(within_s=SETTLED_WITHIN_S)
    print(  # shown by `just prove cmd/orderly/tests/test_neighbours.py -rP`
        f"{trial.name}: answered {dict(sorted(answers.statuses.items()))}, the slowest after {answers.slowest[0]:.1f} s"
        f" ({answers.slowest[1].split()[0]}); settled {clock() - mended_at:.1f} s after it was mended"
    )


def check(trial: Trial, answers: Answers, sights: Sequence[Sight]) -> None:
    assert answers.dishonest == []
    assert answers.slowest[0] <= trial.answered_s, answers.slowest
    if trial.says is None:
        return
    late = [sight for sight in sights if sight.at_s >= trial.noticed_s]
    assert late, "nobody looked"
    expected = {name: trial.says if name in trial.concerned else FINE for name in NAMES if name not in trial.either}
    down = {name for name, said in expected.items() if said != FINE}
    for sight in late:
        assert expected.items() <= sight.services.items(), sight
        assert (sight.gateway, set(sight.down) - set(trial.either)) == (503 if down else 200, down), sight


async def look_at(system: System, held_s: float) -> list[Sight]:
    """Look at everybody's readiness again and again for `held_s` seconds."""
    clock = asyncio.get_running_loop().time
    began, sights = clock(), []
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as session:
        try:
            async with asyncio.timeout(held_s):
                while True:
                    at_s = clock() - began
                    said = await asyncio.gather(*(readiness(session, system.service_urls(name)[0]) for name in NAMES))
                    gateway, health = await asked(session, f"{system.url}/client/health/")
                    sights.append(Sight(at_s, dict(zip(NAMES, said, strict=True)), gateway, health.get("down", ())))
                    await asyncio.sleep(LOOK_EVERY_S)
        except TimeoutError:
            return sights


async def readiness(session: aiohttp.ClientSession, url: str) -> Readiness:
    status, said = await asked(session, f"{url}/readyz")
    return status, tuple(said["awaits"])


async def asked(session: aiohttp.ClientSession, url: str) -> tuple[int, dict[str, Any]]:
    async with session.get(url) as response:
        return response.status, await response.json()
