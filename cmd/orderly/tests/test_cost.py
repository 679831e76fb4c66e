"""What a unit of work costs, counted and not timed: journeys to PostgreSQL, flushes to its disk, publications.

The counts are what the order path's speed rests on (docs/performance.md), and they do not depend on how many orders
are handled together.
"""

import asyncio
import secrets
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

import pytest
from asyncpg.connection import LoggedQuery
from sqlalchemy import text

import billing.app
import notifications.app
import notifications.handlers
import orders.app
from billing.handlers import Movement, deposit, on_orders_placed, on_users_registered
from libs.contracts.auth import UserRegistered
from libs.contracts.billing import PaymentAccepted
from libs.contracts.orders import OrderConfirmed, OrderPlaced
from libs.ids import uuid7
from libs.local.servers import Postgres
from libs.messaging import outbox
from libs.messaging.envelope import Origin, Outgoing, seal
from libs.messaging.memory import MemoryBroker, MemoryBus
from libs.messaging.relay import BATCH, Relay
from libs.service import Service
from libs.storage import Database
from libs.tests.units import Workbench, executed, workbench
from libs.tracing import Trace
from libs.web.commands import Command, Commands, Key
from notifications.handlers import on_orders_confirmed
from orders.handlers import Accepted, Placement, on_payments_accepted, place_orders

ANN: Final = uuid7()
ANN_REGISTERED: Final = UserRegistered(user_id=ANN, login="ann", email="ann@example.org")
PRICE: Final = 100
SIZES: Final = (1, 16, 256)

Work = Callable[[Workbench[Any], Sequence[UUID]], Awaitable[object]]
"""A unit of work about orders with these ids."""

Deed = Callable[[], Awaitable[object]]


@pytest.fixture(scope="module")
def urls(postgres: Postgres) -> Mapping[str, str]:
    """One database for each service of the path."""
    names = {service.name for service, *_ in PATH.values()}
    return {
        name: asyncio.run(postgres.create_database(f"t{secrets.token_hex(6)}", secrets.token_hex(8))) for name in names
    }


async def journeys(database: Database, work: Deed) -> Counter[str]:
    """Count what is sent to PostgreSQL during some work: the first words of statements, begin and commit among them."""
    sent: Counter[str] = Counter()

    def begin_or_commit(query: LoggedQuery) -> None:
        sent[query.query.split(None, 1)[0].strip(";")] += 1

    # Nobody else uses the database, so each kind of work goes over one and the same connection.
    drivers: list[Any] = []
    for engine in (database._writer, database._reader):
        async with database._writing.taken(engine) as connection:
            drivers.append((await connection.get_raw_connection()).driver_connection)
    for driver in drivers:
        driver.add_query_logger(begin_or_commit)
    try:
        with executed(database) as statements:
            await work()
        await asyncio.sleep(0)  # the driver says it a moment later
    finally:
        for driver in drivers:
            driver.remove_query_logger(begin_or_commit)
    return sent + Counter(one.split(None, 1)[0] for one in statements)


async def flushes(database: Database) -> int:
    """Count how often the server has flushed its log because a client committed."""
    counted = "select coalesce(sum(fsyncs), 0) from pg_stat_io where object = 'wal' and backend_type = 'client backend'"
    async with database.reading() as connection:
        await connection.execute(text("select pg_stat_force_next_flush()"))
        await connection.execute(text("select 1"))
        return int((await connection.execute(text(counted))).scalar_one())


async def place(bench: Workbench[Any], order_ids: Sequence[UUID]) -> None:
    """Place orders, each with an idempotency key, as requests that arrived while another unit was under way."""
    commands = Commands(bench.units, batch_limit=1_000)
    keys = [Key.of(b"secret", subject="ann", route="POST /orders", key=str(one), body="") for one in order_ids]
    asked = [
        Command(Placement(one, ANN, PRICE, None), Trace.start(), key) for one, key in zip(order_ids, keys, strict=True)
    ]
    await asyncio.gather(*(commands.execute(place_orders, one, Accepted) for one in asked))


async def pay(bench: Workbench[Any], order_ids: Sequence[UUID]) -> None:
    """Pay for orders, at billing."""
    await bench.hear(on_orders_placed, *(OrderPlaced(order_id=one, user_id=ANN, price=PRICE) for one in order_ids))


async def confirm(bench: Workbench[Any], order_ids: Sequence[UUID]) -> None:
    """Confirm orders that are paid for."""
    paid = [PaymentAccepted(order_id=one, user_id=ANN, amount=PRICE) for one in order_ids]
    await bench.hear(on_payments_accepted, *paid)


async def write_letters(bench: Workbench[Any], order_ids: Sequence[UUID]) -> None:
    """Write the letters about confirmed orders."""
    confirmed = [OrderConfirmed(order_id=one, user_id=ANN, price=PRICE) for one in order_ids]
    await bench.hear(on_orders_confirmed, *confirmed)


async def nothing(_bench: Workbench[Any], _order_ids: Sequence[UUID]) -> None:
    """Need no preparation."""


async def have_an_account(bench: Workbench[Any], _order_ids: Sequence[UUID]) -> None:
    """Have money."""
    await bench.hear(on_users_registered, ANN_REGISTERED)
    await bench.carry_out(deposit, Movement(uuid7(), ANN, 1_000 * PRICE))


async def have_an_address(bench: Workbench[Any], _order_ids: Sequence[UUID]) -> None:
    """Be known to notifications."""
    await bench.hear(notifications.handlers.on_users_registered, ANN_REGISTERED)


PATH: Final[Mapping[str, tuple[Service[Any, Any], Work, Work, dict[str, int]]]] = {
    # A unit that reads nothing is one statement, and that one is a transaction by itself.
    "place": (orders.app.service, nothing, place, {"WITH": 1}),
    "pay": (billing.app.service, have_an_account, pay, {"BEGIN": 1, "SELECT": 2, "WITH": 1, "COMMIT": 1}),
    "confirm": (orders.app.service, place, confirm, {"BEGIN": 1, "SELECT": 1, "WITH": 1, "COMMIT": 1}),
    # Which letters are new is what the first insertion says; the facts about them are the second one.
    "write": (
        notifications.app.service,
        have_an_address,
        write_letters,
        {"BEGIN": 1, "SELECT": 1, "INSERT": 2, "COMMIT": 1},
    ),
}
"""The units of work that an order goes through: whose, what has to be there, and the statements of one unit."""


@asynccontextmanager
async def ready(urls: Mapping[str, str], step: str, size: int) -> AsyncIterator[tuple[Workbench[Any], Deed]]:
    """Prepare a step of the path, for so many orders at once; the statements' plans are made."""
    service, before, work, _ = PATH[step]
    async with workbench(urls[service.name], service) as bench:
        for ids in ([uuid7() for _ in range(size)] for _ in range(2)):
            await before(bench, ids)
            await work(bench, ids)
        ids = [uuid7() for _ in range(size)]
        await before(bench, ids)
        yield bench, lambda: work(bench, ids)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("step", PATH)
async def test_a_step_of_the_path_takes_the_same_journeys_for_any_number_of_orders(
    urls: Mapping[str, str], step: str, size: int
) -> None:
    async with ready(urls, step, size) as (bench, work):
        assert await journeys(bench.database, work) == PATH[step][3]
        assert len(bench.stated) == size  # one fact for each order, at each step


@pytest.mark.parametrize("step", PATH)
async def test_a_step_of_the_path_flushes_once(urls: Mapping[str, str], step: str) -> None:
    async with ready(urls, step, 64) as (bench, work):
        before = await flushes(bench.database)
        await work()
        # None at all when the server's own writer happened to be there first.
        assert await flushes(bench.database) - before <= 1


class Counting(MemoryBus):
    """Counts how often something is published."""

    def __init__(self) -> None:
        super().__init__(MemoryBroker())
        self.sizes: list[int] = []

    async def publish(self, messages: Sequence[Outgoing], *, above: int = 0) -> list[int]:
        self.sizes.append(len(messages))
        return await super().publish(messages, above=above)


def placed(number: int) -> list[Outgoing]:
    """Seal facts about so many orders."""
    now = datetime.now(UTC)
    return [
        seal(OrderPlaced(order_id=uuid7(), user_id=ANN, price=PRICE), cause=Origin(), now=now) for _ in range(number)
    ]


@pytest.mark.parametrize(("size", "publications"), [(1, 1), (BATCH, 1), (3 * BATCH, 3)])
async def test_what_a_unit_stated_is_published_in_batches_and_marked_together(
    urls: Mapping[str, str], size: int, publications: int
) -> None:
    async with workbench(urls["orders"], orders.app.service) as bench:
        bus = Counting()
        relay = Relay(bench.database, bus, "orders")
        await relay.stream.assured()
        facts = placed(size)
        async with bench.database.writing() as connection:
            await outbox.write(connection, facts)

        async def publish_and_mark() -> None:
            running = asyncio.create_task(relay.run())
            relay.offer(facts)
            await relay.flush(10)
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

        sent = await journeys(bench.database, publish_and_mark)
        assert len(bus.sizes) == publications
        # One transaction marks the first batch at once, another one all that were stored meanwhile.
        assert sent["UPDATE"] <= 2 * min(publications, 2)
        assert sent["COMMIT"] <= min(publications, 2)
        assert not await left(bench.database)


async def left(database: Database) -> int:
    """Count the facts that are not marked."""
    async with database.reading() as connection:
        return int(
            (await connection.execute(text("select count(*) from outbox where published_at is null"))).scalar_one()
        )
