"""One request, sent five hundred times at once to two processes of each service: one effect, and one answer."""

import asyncio
import json
import secrets
from collections import Counter
from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any, Final

import pytest
import pytest_asyncio

from auth.tables import users
from libs.tests.eventually import eventually
from orderly.system import System
from orderly.tests.racing import WITHIN_S, rows
from orderly.tests.systems import Customer, assert_the_books_balance, customers, running_system

AT_ONCE: Final = 500
PATIENT: Final = {"PATIENCE_S": "25", "UPSTREAM_TIMEOUT_S": "60"}
"""So that a slow machine is no reason for another answer."""

pytestmark = [pytest.mark.prove, pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(300)]


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=["sqlite", "postgres"])
async def system(request: pytest.FixtureRequest) -> AsyncIterator[System]:
    """A system that the tests of this module share."""
    async with running_system(request.param, replicas=2, extra=PATIENT) as running:
        yield running


async def the_one_answer(one: Customer, path: str, body: dict[str, Any], status: int) -> dict[str, Any]:
    """Ask so many times at once, and again whenever it is too much; return the body that everybody got.

    One answer at most is no replay: none, when the first one got lost between the gateway and its service.
    """
    headers = {"Idempotency-Key": secrets.token_hex(8)}
    if one.token:
        headers["Authorization"] = f"Bearer {one.token}"

    async def asked() -> tuple[int, str, str | None]:
        last: list[tuple[int, str, str | None]] = []

        async def answered() -> bool:
            async with one.session.post(f"{one.base}/client{path}", json=body, headers=headers) as answer:
                last[:] = [(answer.status, await answer.text(), answer.headers.get("Idempotent-Replayed"))]
            return answer.status != 503

        await eventually(answered, within_s=120)
        return last[0]

    answers = await asyncio.gather(*(asked() for _ in range(AT_ONCE)))
    again, text, replayed = await asked()
    assert (again, replayed) == (status, "true")
    assert {one[:2] for one in answers} == {(status, text)}
    assert Counter(one[2] for one in answers)[None] <= 1
    parsed: dict[str, Any] = json.loads(text)
    return parsed


async def test_one_registration(system: System) -> None:
    async with customers(system) as customer:
        ann = customer()
        wanted = {"login": ann.login, "password": ann.password, "email": f"{ann.login}@example.org"}
        user = await the_one_answer(ann, "/users", wanted, 201)
        (row,) = await rows(system, "auth", users, login=ann.login)
        assert (str(row.id), str(row.account_id)) == (user["id"], user["account"])
    await assert_the_books_balance(system)


async def test_one_deposit(system: System) -> None:
    async with customers(system) as customer:
        ann = await customer().arrive()
        deposit = await the_one_answer(ann, "/billing/deposits", {"amount": "10"}, 201)
        assert deposit["balance"] == "10.00"
        assert [entry["kind"] for entry in await ann.pages("/billing/statement")] == ["deposit"]
        assert await ann.balance() == Decimal(10)
    await assert_the_books_balance(system)


async def test_one_order(system: System) -> None:
    async with customers(system) as customer:
        ann = await customer().arrive("100")
        order = await the_one_answer(ann, "/orders", {"price": "10"}, 201)
        assert order["status"] == "confirmed"
        ann.orders[order["id"]] = Decimal(10)
        assert await ann.audit(within_s=WITHIN_S) == {"confirmed": 1}
    await assert_the_books_balance(system)
