"""Work for each order is constant: no statement reads a table that grows, however many rows are there.

A story of the whole system, on tables that are full already, has every method of every store called, and every chore
done. PostgreSQL says how it answered each statement.
"""

import asyncio
import inspect
import secrets
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import wraps
from pathlib import Path
from typing import Any, Final

import asyncpg
import pytest

from bench.filling import Amounts, add_due, fill
from bench.filling_sql import ROWS as ROWS_OF
from libs import chores
from libs import service as services
from libs.ids import uuid7
from libs.local.servers import Postgres
from libs.messaging import dead_letters, outbox
from libs.messaging.memory import MemoryBroker, Stored
from libs.messaging.tables import METADATA as MESSAGING
from libs.storage import Database
from libs.tests.eventually import eventually
from libs.web import commands
from orderly.services import NAMES, SERVICES
from orderly.tests.explaining import Plan, Recorder, have_plans_told, offenders, repeat
from orderly.tests.test_in_one_process import Client, five_services

ROWS: Final = 10_000
AT_MOST: Final = 2_500
"""What a step of pruning or clearing looks at, some hundreds of rows each, and a sweep; far below `ROWS`."""

NOT_OURS: Final = "/* the test's own */"

FORGOTTEN: Final = """
    update dead_letters set attended_at = now() - interval '40 days'
    where id in (select id from dead_letters order by id"""
"""What makes dead letters due for pruning."""

FILLED: Final = [service for service in SERVICES if service.name in ROWS_OF]
"""Whose tables can be filled: a new service comes in with its rows in `bench/filling_sql.py`."""

GROWING: Final = {
    service.name: {table.name for table in (*MESSAGING.sorted_tables, *service.tables.sorted_tables)} - {"streams"}
    for service in FILLED
}
INDEXES: Final = [
    pytest.param(service.name, index.name, id=f"{service.name}-{index.name}")
    for service in FILLED
    for metadata in (service.tables, MESSAGING)
    for table in metadata.sorted_tables
    for index in sorted(table.indexes, key=lambda index: str(index.name))
    if not index.unique and (metadata is service.tables or service.name == "orders")
]
"""Every index that is there for the sake of speed; of the tables that each service has, those of orders."""

TOGETHER: Final = [
    *((outbox, name) for name in ("write", "unpublished", "mark_published", "clear_marks", "prune")),
    *((dead_letters, name) for name in ("set_aside", "prune")),
    (commands, "prune"),
]
"""What the services share of the order path and of the work in the background."""

LONG_AGO: Final = {
    "orders": """
        insert into orders (id, user_id, price_minor, status, created_at, traceparent, restated)
        select uuidv7(), '{user}', 1, 'confirmed', now(), '', 0 from generate_series(1, {rows})""",
    "notifications": """
        insert into letters (id, user_id, kind, cause, order_id, recipient, subject, body, created_at)
        select id, '{user}', 'joy', 'order:' || id, uuidv7(), 'x', 'x', 'x', now()
        from (select uuidv7() as id from generate_series(1, {rows})) letter""",
    "billing": """
        insert into transfers (id, kind, debit, credit, amount_minor, wallet, version, balance_minor, at)
        select uuidv7(), 'deposit', uuidv7(), '{account}', 1, '{account}', 1000 + n, 1, now()
        from generate_series(1, {rows}) n""",
}
"""What a customer has done before, who has done much: her lists must not be read as a whole either."""

MUCH: Final = 3_000


@dataclass(frozen=True, slots=True)
class Told:
    """A whole system's story, and what PostgreSQL said to it."""

    recorder: Recorder
    urls: dict[str, str]
    uncalled: set[str]

    def database(self, service: str) -> str:
        return self.urls[service].rpartition("/")[2]

    def offenders(self, plans: list[Plan]) -> list[str]:
        growing = {self.database(name): GROWING.get(name, ()) for name in NAMES}
        return offenders([plan for plan in plans if NOT_OURS not in plan.statement], growing, at_most=AT_MOST)


def watched(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Name every method of every store, and every function that services share; each vanishes when it is called."""
    uncalled: set[str] = set()

    def watch(owner: Any, name: str) -> None:
        function: Callable[..., Any] = getattr(owner, name)
        full = f"{owner.__name__}.{name}"
        uncalled.add(full)

        @wraps(function)
        async def calling(*positional: Any, **named: Any) -> Any:
            uncalled.discard(full)
            return await function(*positional, **named)

        monkeypatch.setattr(owner, name, calling)

    for service in FILLED:
        for name, _ in inspect.getmembers(service.store, inspect.iscoroutinefunction):
            if not name.startswith("_"):
                watch(service.store, name)
    for module, name in TOGETHER:
        watch(module, name)
    return uncalled


@pytest.fixture(scope="module")
def told(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Told:
    return asyncio.run(tell(postgres, tmp_path_factory.mktemp("told")))


async def tell(server: Postgres, folder: Path) -> Told:
    """Start the services, fill their tables, and have everything happen that can."""
    unique = secrets.token_hex(4)
    urls = {name: await server.create_database(f"{name}_{unique}", secrets.token_hex(8)) for name in NAMES}
    broker, recorder = MemoryBroker(), Recorder()
    async with five_services(folder, urls=urls, broker=broker):
        pass  # now there are tables, and streams
    await fill(urls, Amounts(ROWS, orders=ROWS, outbox=5 * ROWS, keys=5 * ROWS, dead_letters=ROWS))
    await add_due(urls, 5_000)
    for url in urls.values():
        await execute(url, f"{FORGOTTEN} limit 700)")
    await have_plans_told(server, [url.rpartition("/")[2] for url in urls.values()])
    with pytest.MonkeyPatch.context() as monkeypatch, recorder.recording():
        monkeypatch.setattr(services, "PRUNING", [replace(chore, every_s=0.1) for chore in chores.PRUNING])
        uncalled = watched(monkeypatch)
        async with five_services(folder, urls=urls, broker=broker) as client:
            story = Story(client, urls, broker)
            await story.shop()
            await story.go_wrong()
            await story.rehearse()
            await eventually(lambda: not uncalled, within_s=10)
    return Told(recorder, urls, uncalled)


class Story:
    """A customer, and what happens to her and around her."""

    def __init__(self, client: Client, urls: dict[str, str], broker: MemoryBroker) -> None:
        self._client = client
        self._urls = urls
        self._broker = broker

    async def shop(self) -> None:
        """Do everything that a customer can."""
        ask = self._client.ask
        await self._client.log_in("ann")
        await self._has_done_much()
        for path, amount in (("deposits", "20.00"), ("withdrawals", "1.00"), ("withdrawals", "99.00")):
            await ask("POST", "billing", f"/billing/{path}", {"amount": amount})
        await ask("GET", "billing", "/billing/account")
        key = {"Idempotency-Key": "only once"}
        orders = [await ask("POST", "orders", "/orders", {"price": "4.00"}, **key) for _ in range(2)]
        assert orders[0][1]["status"] == "confirmed", orders
        assert orders[0] == orders[1]
        order_id = orders[0][1]["id"]
        await ask("POST", "orders", "/orders", {"price": "99.00"})
        await ask("GET", "orders", f"/orders/{order_id}")
        await ask("POST", "orders", f"/orders/{order_id}/cancel")
        await ask("POST", "notifications", "/notifications", {"subject": "a note", "body": "to myself"})
        await ask("GET", "notifications", f"/notifications?order_id={order_id}")
        for of, path in (("billing", "/billing/statement"), ("orders", "/orders"), ("notifications", "/notifications")):
            _, page = await ask("GET", of, path)
            status, _ = await ask("GET", of, f"{path}?cursor={page['next']}")
            assert status == 200
        await ask("GET", "profiles", "/profiles/ann")
        await ask("PUT", "profiles", "/profiles/ann", {"first_name": "Ann"})

    async def go_wrong(self) -> None:
        """Have an answer lost, a message spoilt, and a letter written before anybody knows where to send it."""
        overdue = "due_at = now() - interval '1 hour'"
        one = "(select id from orders where status = 'confirmed' limit 1)"
        await execute(self._urls["orders"], f"update orders set status = 'pending', {overdue} where id = {one}")
        await execute(self._urls["auth"], f"update users set account_id = null, {overdue} where login = 'account-7'")
        billing = self._broker.streams["BILLING"]
        billing.messages.append(Stored(billing.name, len(billing.messages) + 1, "billing.payment.accepted.x", b"{", {}))
        self._broker.changed(billing.name)
        await execute(self._urls["notifications"], "delete from contacts where login = 'ann'")
        await self._client.ask("POST", "orders", "/orders", {"price": "1.00"})

        async def waits() -> bool:
            _, letters = await self._client.ask("GET", "notifications", "/notifications?limit=1")
            return letters["items"][0]["recipient"] is None

        await eventually(waits, within_s=10)
        await self._client.ask("PUT", "profiles", "/profiles/ann", {"first_name": "Anna"})

    async def rehearse(self) -> None:
        """Make a stream anew: take every mark away, and prune when all is published again; then undo all of it."""
        database, now = Database(self._urls["orders"], name="rehearsing"), datetime.now(UTC)
        with suppress(Rehearsed):
            async with database.writing() as connection:
                await outbox.clear_marks(connection)
                await connection.exec_driver_sql("update streams set begun_at = now()")
                await connection.exec_driver_sql(f"{NOT_OURS} update outbox set published_at = now(), sequence = 1")
                await outbox.prune(connection, now=now + timedelta(days=7), limit=500)
                raise Rehearsed
        await database.close()

    async def _has_done_much(self) -> None:
        connection = await asyncpg.connect(self._urls["auth"])
        user, account = await connection.fetchrow("select id, account_id from users where login = 'ann'")
        await connection.close()
        for service, statement in LONG_AGO.items():
            await execute(self._urls[service], statement.format(user=user, account=account, rows=MUCH))
            # And others after her, so that hers are not the newest.
            await execute(self._urls[service], statement.format(user=uuid7(), account=uuid7(), rows=ROWS))
            await execute(self._urls[service], "analyze")


async def execute(url: str, statement: str) -> None:
    """Do something to a database behind its service's back."""
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


class Rehearsed(Exception):
    """It was done, and is not to last."""


async def test_everything_happened_on_full_tables(told: Told) -> None:
    assert told.uncalled == set()
    assert {plan.database for plan in told.recorder.plans} == {told.database(name) for name in NAMES}


async def test_no_statement_reads_a_table_that_grows(told: Told) -> None:
    assert told.offenders(told.recorder.plans) == []


@pytest.mark.parametrize("service", GROWING)
async def test_nor_once_it_is_planned_for_good(told: Told, service: str) -> None:
    """A statement that is repeated on one connection gets a plan for whatever its parameters may be."""
    assert told.offenders(await repeated(told, service, "set plan_cache_mode = force_generic_plan")) == []


@pytest.mark.parametrize(("service", "index"), INDEXES)
async def test_a_missing_index_is_noticed(told: Told, service: str, index: str) -> None:
    assert told.offenders(await repeated(told, service, f"drop index {index}"))


async def repeated(told: Told, service: str, change: str) -> list[Plan]:
    """Change something, and execute every statement again; then take all of it back."""
    recorder = Recorder()
    async with recorder.connected(told.urls[service]) as connection:
        changed = connection.transaction()
        await changed.start()
        await connection.execute(change)
        await connection.execute(f"{NOT_OURS} {FORGOTTEN} limit 20)")
        await repeat(connection, told.recorder.examples[told.database(service)])
        await changed.rollback()
    assert recorder.plans
    return recorder.plans
