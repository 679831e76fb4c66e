"""The keys are rotated while people log in and use tokens all the time, and nobody is refused."""

import asyncio
import os
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import jwt
import pytest

from libs.tests.eventually import eventually
from orderly.__main__ import main
from orderly.credentials import key_files
from orderly.system import System
from orderly.tests.systems import Customer, customers, running_system

ASKED = ("/billing/account", "/orders", "/notifications")


class Traffic:
    """People who ask with a token, and people who log in and ask with the newest token at once."""

    def __init__(self) -> None:
        self.answers: Counter[int] = Counter()
        self.kids: Counter[str] = Counter()

    async def ask(self, who: Customer) -> None:
        """Ask every service in turn."""
        while True:
            for path in (*ASKED, f"/profiles/{who.login}"):
                self.answers[(await who.call("GET", path))[0]] += 1

    async def log_in(self, who: Customer) -> None:
        """Get a new token each time."""
        while True:
            await self.log_in_once(who)
            self.answers[(await who.call("GET", "/billing/account"))[0]] += 1

    async def log_in_once(self, who: Customer) -> None:
        given = {"login": who.login, "password": who.password}
        status, token = await who.call("POST", "/login", given)
        self.answers[status] += 1
        who.token = token["access_token"]
        self.kids[kid_of(who)] += 1

    async def flows(self) -> None:
        """Wait until a hundred requests more were answered."""
        seen = self.answers.total()
        await eventually(lambda: self.answers.total() > seen + 100, within_s=60)

    @asynccontextmanager
    async def of(self, asking: list[Customer], logging_in: list[Customer]) -> AsyncIterator[None]:
        """Keep it up until the end of the block; whatever goes wrong in it comes out at the end."""
        tasks = [asyncio.create_task(self.ask(who)) for who in asking]
        tasks += [asyncio.create_task(self.log_in(who)) for who in logging_in]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            ended = await asyncio.gather(*tasks, return_exceptions=True)
        assert {type(one) for one in ended} == {asyncio.CancelledError}, ended


def kid_of(who: Customer) -> str:
    kid: str = jwt.get_unverified_header(who.token)["kid"]
    return kid


async def rotate(*arguments: str) -> int:
    """Call ``orderly rotate-keys``."""
    with pytest.raises(SystemExit) as ended:
        await asyncio.to_thread(main, ["rotate-keys", *arguments])
    return int(str(ended.value.code))


@pytest.mark.prove
@pytest.mark.parametrize("replicas", [1, 2])
async def test_keys_are_rotated_under_traffic_and_nobody_is_refused(
    replicas: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running_system("sqlite", replicas=replicas) as system, customers(system) as customer:
        monkeypatch.setenv("DATA_DIR", str(system.plan.data_dir))
        before, unused, asking, busy, busier = await asyncio.gather(*(customer().arrive() for _ in range(5)))
        old = kid_of(before)
        traffic = Traffic()
        async with traffic.of([before, asking], [busy, busier]):
            await traffic.flows()
            assert await rotate("--wait", "2.5") == 0
            await eventually(lambda: old not in (kid_of(busy), kid_of(busier)), within_s=60)
            await traffic.flows()
            assert kid_of(before) == old
            assert len(traffic.kids) == 2
            assert await rotate("--finish") == 1
            for who in (before, asking):
                await traffic.log_in_once(who)
            forget_the_old_key(system)
            assert await rotate("--finish") == 0
            await eventually(lambda: is_refused(unused), within_s=60)
            await traffic.flows()
        assert set(traffic.answers) == {200}, traffic.answers
        _, keys = await customer().call("GET", "/.well-known/jwks.json")
        assert [key["kid"] for key in keys["keys"]] == [kid_of(before)]


def forget_the_old_key(system: System) -> None:
    """Make the last token of the old key seem to have expired: let the new one have signed for two hours."""
    private, _ = key_files(system.plan.data_dir / "keys")
    then = private.stat().st_mtime - 7_200
    os.utime(private, (then, then))


async def is_refused(who: Customer) -> bool:
    return (await who.call("GET", "/billing/account"))[0] == 401
