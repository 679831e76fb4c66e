"""Every service killed at every point of its work with every fact: the outcome is that of a story without a crash.

The points are made from the services' tables, so that a new fact is covered by itself.
"""

import asyncio
import secrets
import signal
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import aiohttp
import pytest

from libs.files import write_whole
from libs.local import supervisor
from libs.local.supervisor import Program
from libs.service import Service
from libs.tests.eventually import eventually
from orderly.services import NAMES, SERVICES
from orderly.system import DatabaseKind, System
from orderly.tests.crashing import ANY, AWAITING, HANDLING, STATING, STOPPING, lines_of
from orderly.tests.systems import Customer, customers, running_system

LETTERS: Final = 6
"""Two of joy, one of sorrow, one about the cancellation, one about the deposit, one note."""

DATABASES: Final[tuple[DatabaseKind, ...]] = ("sqlite", "postgres")
"""Each point is reached on one of them: which one is a matter of the round, and changes with every fact added."""

AT_A_TIME: Final = 6
"""Deaths of one service in one story. Each costs a start."""


def points_of(service: Service[Any, Any]) -> list[str]:
    """List where a service may die, each as a line of its fuse."""
    stated = [f"{point} {fact.type}" for fact in service.publishes for point in STATING]
    handled = [f"{point} {line.fact.type}" for line in service.listens for point in HANDLING]
    waiting = [f"{AWAITING} {ANY}"] if service.awaits else []
    return [*stated, *handled, *waiting, f"{STOPPING} {ANY}"]


def rounds() -> list[dict[str, list[str]]]:
    """Share the points out among stories: each round kills every service that has points left."""
    points = {service.name: points_of(service) for service in SERVICES}
    number = -(-max(map(len, points.values())) // AT_A_TIME)
    return [{name: lines[start::number] for name, lines in points.items()} for start in range(number)]


class Fused(System):
    """A system whose services die where they are told to."""

    def fuse(self, name: str) -> Path:
        """The file with the points where a service dies."""
        return self.plan.data_dir / f"{name}.fuse"

    def _programs(self) -> list[Program]:
        programs = []
        for program in super()._programs():
            if program.name in NAMES:
                write_whole(self.fuse(program.name), b"")
                argv = [sys.executable, "-m", "orderly.tests.crashing", program.name]
                env = {**program.env, "CRASH_AT": str(self.fuse(program.name))}
                programs.append(replace(program, argv=argv, env=env))
            else:
                programs.append(program)
        return programs

    def left(self) -> dict[str, list[str]]:
        """Say which points nobody has died at yet."""
        return {name: lines for name in NAMES if (lines := lines_of(self.fuse(name)))}


class Persistent(Customer):
    """A customer who asks again, under the same key, until there is an answer."""

    async def call(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        """Ask until the answer is no 503."""
        if method == "POST":
            headers = {"Idempotency-Key": secrets.token_hex(8), **headers}
        last: tuple[int, Any] = (0, None)

        async def answered() -> bool:
            nonlocal last
            try:
                last = await super(Persistent, self).call(method, path, body, **headers)
            except (aiohttp.ClientError, TimeoutError):
                return False
            return last[0] != 503

        await eventually(answered, within_s=60)
        return last

    async def arrive(self, deposit: str | None = None) -> "Customer":
        """Register, and log in once the account is open."""
        given = {"login": self.login, "password": self.password}
        await self.call("POST", "/users", {**given, "email": f"{self.login}@example.org"})
        _, token = await self.call("POST", "/login", given)
        self.token = token["access_token"]
        await self.becomes("/billing/account", lambda account: "balance" in account)
        return self

    async def becomes(self, path: str, condition: Any) -> None:
        """Wait until what is at `path` fulfils a condition."""

        async def fulfilled() -> bool:
            return bool(condition((await self.call("GET", path))[1]))

        await eventually(fulfilled, within_s=60)

    async def settled_order(self, price: str) -> str:
        """Place an order and wait for its outcome; return its id."""
        _, order = await self.order(price)
        await self.becomes(f"/orders/{order['id']}", lambda now: now["status"] != "pending")
        order_id: str = order["id"]
        return order_id


async def story(ann: Persistent) -> None:
    """Everything that makes a service state or handle a fact."""
    await ann.arrive()
    await ann.call("PUT", f"/profiles/{ann.login}", {"email": f"new.{ann.login}@example.org", "first_name": "Ann"})
    await ann.call("POST", "/billing/deposits", {"amount": "100"})
    await ann.call("POST", "/billing/withdrawals", {"amount": "10"})
    await ann.settled_order("30")
    await ann.settled_order("500")
    taken_back = await ann.settled_order("20")
    await ann.call("POST", f"/orders/{taken_back}/cancel")
    await ann.call("POST", "/notifications", {"subject": "To myself", "body": "Well done."})


async def outcome(ann: Persistent) -> Mapping[str, Any]:
    """What came of it, as far as Ann can see; without ids and times."""
    orders = await ann.pages("/orders")
    prices = {order["id"]: order["price"] for order in orders} | {None: None}
    letters = Counter(
        (letter["kind"], prices[letter["order_id"]], letter["recipient"] is not None)
        for letter in await ann.pages("/notifications")
    )
    return {
        "orders": Counter((order["price"], order["status"], order.get("reason")) for order in orders),
        "balance": await ann.balance(),
        "entries": Counter((entry["kind"], entry["amount"]) for entry in await ann.pages("/billing/statement")),
        "letters": letters,
        "profile": {
            name: str(value).replace(ann.login, "ann")
            for name, value in (await ann.call("GET", f"/profiles/{ann.login}"))[1].items()
            if name in ("email", "first_name")
        },
    }


async def play(system: Fused, session: aiohttp.ClientSession, points: Mapping[str, Sequence[str]]) -> Persistent:
    """Play the story while the services die; return who lived through it, once everybody has died everywhere."""
    for name, lines in points.items():
        write_whole(system.fuse(name), "\n".join(lines).encode())
    ann = Persistent(session, system.url)
    await story(ann)
    bob = Persistent(session, system.url)
    if any(set(lines) - {f"{STOPPING} {ANY}"} for lines in system.left().values()):
        await story(bob)  # a point may be passed only once in a story, while its service was dying elsewhere
    await system.healthy(within_s=60)
    await asyncio.gather(*(system.supervisor.restart(name, number=signal.SIGTERM) for name in system.left()))
    await eventually(lambda: not system.left(), within_s=60)
    await system.healthy(within_s=60)
    return ann


@pytest.mark.prove
@pytest.mark.timeout(900)
@pytest.mark.parametrize("database", DATABASES)
async def test_the_outcome_is_the_same_wherever_a_service_dies(
    database: DatabaseKind, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "LONGEST_BACKOFF_S", supervisor.FIRST_BACKOFF_S)  # they die more often than most
    async with running_system(database, kind=Fused) as system, customers(system) as _:
        assert isinstance(system, Fused)
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=15)) as session:
            nobody_died = await play(system, session, {})
            expected: Mapping[str, Any] = {}

            async def is_complete() -> bool:
                nonlocal expected
                expected = await outcome(nobody_died)
                return bool(sum(expected["letters"].values()) == LETTERS)

            await eventually(is_complete, within_s=60)
            for points in rounds()[DATABASES.index(database) :: len(DATABASES)]:
                ann = await play(system, session, points)
                seen: list[Mapping[str, Any]] = []

                async def is_as_expected(ann: Persistent = ann, seen: list[Mapping[str, Any]] = seen) -> bool:
                    seen[:] = [await outcome(ann)]
                    return bool(seen == [expected])

                try:
                    await eventually(is_as_expected, within_s=60)
                except AssertionError:
                    assert seen == [expected], points


def test_every_point_is_in_a_round() -> None:
    shared = [(name, line) for points in rounds() for name, lines in points.items() for line in lines]
    assert sorted(shared) == sorted((service.name, line) for service in SERVICES for line in points_of(service))
    assert len(shared) > 100
