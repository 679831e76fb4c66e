"""What is filled in is what the services would have written, and they go on from there."""

import secrets
from collections.abc import Mapping

import asyncpg
import pytest

from bench.filling import Amounts, NeverRan, add_due, due, fill
from bench.flat import Share, shares_of
from bench.folders import fresh_folder
from bench.rounds import Length
from bench.situations import Situation, books_of, play, prepare
from bench.tests.made import result
from libs.local.servers import Postgres
from libs.messaging import outbox
from libs.storage import Database
from libs.storage.migrations import migrate
from libs.web import commands
from orderly.audit import audit
from orderly.services import SERVICES

AMOUNTS = Amounts(accounts=100, orders=330, outbox=500, keys=100, dead_letters=10)


@pytest.fixture
async def urls(postgres: Postgres) -> Mapping[str, str]:
    """Databases of a system that has run once, as far as they can tell."""
    unique, urls = secrets.token_hex(4), {}
    for service in SERVICES:
        url = await postgres.create_database(f"{service.name}_{unique}", secrets.token_hex(8))
        database = Database(url, name="tests")
        await migrate(database, service.migrations)
        await database.close()
        urls[service.name] = url
    return urls


async def execute(urls: Mapping[str, str], statement: str) -> None:
    for url in urls.values():
        connection = await asyncpg.connect(url)
        await connection.execute(statement)
        await connection.close()


async def counted(url: str, what: str) -> int:
    connection = await asyncpg.connect(url)
    try:
        return int(await connection.fetchval(f"select count(*) from {what}"))
    finally:
        await connection.close()


RAN = "insert into streams (name, incarnation, begun_at, sequence) values ('ANY', 1, now(), 0)"


async def test_the_books_are_right(urls: Mapping[str, str]) -> None:
    await execute(urls, RAN)
    await fill(urls, AMOUNTS)

    report = await audit(urls, None, patience_s=0)

    assert report.offenders() == {}
    examined = {check.name: check.examined for check in report.checks}
    assert (examined["users_complete"], examined["orders_paid"]) == (100, 330)
    assert examined["letters_of_deposits"] == 100
    assert await counted(urls["billing"], "refunds") == 33
    assert await counted(urls["orders"], "orders where status = 'rejected'") == 33
    assert sum([await counted(url, "outbox") for url in urls.values()]) == 500
    assert sum([await counted(url, "idempotency_keys") for url in urls.values()]) == 100


async def test_whoever_never_ran_is_not_filled(urls: Mapping[str, str]) -> None:
    with pytest.raises(NeverRan):
        await fill(urls, AMOUNTS)


async def test_only_what_is_added_as_due_is_pruned(urls: Mapping[str, str]) -> None:
    async def pruned() -> list[int]:
        database = Database(urls["orders"], name="tests")
        async with database.writing() as connection:
            now = await connection.exec_driver_sql("select now()")
            moment = now.scalar_one()
            found = [await prune(connection, now=moment, limit=1000) for prune in (outbox.prune, commands.prune)]
        await database.close()
        return found

    await execute(urls, RAN)
    await fill(urls, AMOUNTS)
    assert (await pruned(), await due(urls)) == ([0, 0], 0)
    await add_due(urls, 50)
    assert await due(urls) == 50
    assert await pruned() == [20, 40]
    assert await due(urls) == 30


@pytest.mark.prove
async def test_a_filled_system_takes_orders() -> None:
    length = Length(seconds=1.0, warm_up_s=0.2)
    with fresh_folder() as folder:
        await prepare(folder, AMOUNTS)
        for situation in (Situation("filled"), Situation("one account", hot=True)):
            played = await play(folder, situation, clients=4, used=8, length=length)
            assert set(played.outcomes) == {"confirmed"}, played.outcomes
        assert await books_of(folder) == []


def test_shares_are_of_medians_with_as_many_clients() -> None:
    results = [
        result("empty"),
        result("filled", slower=1.25),
        result("one account", slower=1.25),
        result("pruning", slower=1.3),
    ]
    shares = {share.what: (round(share.share, 3), share.reached) for share in shares_of(results)}
    assert shares == {
        "orders/s, filled of empty": (0.8, False),
        "p99, filled of empty": (1.25, False),
        "orders/s, one account of filled": (1.0, True),
        "p99, pruning of filled": (1.04, True),
    }
    assert shares_of([result("empty", wrong=("an order is lost",)), result("filled")]) == []


def test_a_share_says_its_limit() -> None:
    assert f"{Share('p99', 64, 1.5, at_most=1.2)}" == "64 clients: p99: 150.0% (at most 120%: missed)"
