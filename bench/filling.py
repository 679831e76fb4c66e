"""Fills the databases of a system with a busy past: accounts, orders, letters, ledger, keys, a full outbox.

The rows are made where they are kept, from numbers, so millions are not much. They are what the services would have
written: an audit finds nothing wrong with them. Accounts were registered from 60 to 30 days ago, orders placed from 30
days to a day ago. One account in ten has too little money, so that its orders were rejected; another one cancelled its
orders, and got its money back; the orders of the others were confirmed.

What is marked as published was published from 7 to 8 days ago: the streams keep nothing that old, and an outbox keeps
it until tomorrow. The newest mark stays the one that the system itself made, so the relay finds its stream intact.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import asyncpg

from bench.filling_sql import FACTS, KEYS, OF_EACH, ROWS, WORDS

_FACTS_OF: Final = {"orders": 0.4, "billing": 0.2, "notifications": 0.2, "auth": 0.1, "profiles": 0.1}
"""Which part of all outbox rows is whose: an order is stated twice, paid for once, and has a letter."""

_KEYS_OF: Final = {"orders": 0.8, "billing": 0.05, "notifications": 0.05, "auth": 0.05, "profiles": 0.05}
"""Which part of all keys is whose."""

_KEPT: Final = (timedelta(days=7, hours=18), timedelta(days=6))
"""How long ago the oldest outbox row was published, and the oldest key recorded, that are not to be pruned yet."""

_DUE: Final = (timedelta(days=9), timedelta(days=13))
"""The same for those whose time is over."""


@dataclass(frozen=True, slots=True)
class Amounts:
    """How much to fill in."""

    accounts: int
    orders: int = 0
    outbox: int = 0
    """Rows of all services together."""

    keys: int = 0
    """Idempotency keys of all services together."""

    dead_letters: int = 0
    """Of each service; somebody has attended to them."""


class NeverRan(RuntimeError):
    """A service has no stream yet. When it makes its first one, it publishes its whole outbox to it."""


async def fill(urls: Mapping[str, str], amounts: Amounts) -> None:
    """Fill the PostgreSQL databases at `urls`, by service, and analyse them. Raises `NeverRan`.

    The system must have run before, and may run meanwhile. A system is filled once. Of a service that is not known
    here only the dead letters are.
    """
    now = datetime.now(UTC)
    await asyncio.gather(*(_fill(name, url, amounts, now) for name, url in urls.items()))


async def add_due(urls: Mapping[str, str], rows: int) -> None:
    """Add so many outbox rows, of all services together, and so many keys, that are to be pruned now."""
    now = datetime.now(UTC)

    async def add(name: str) -> None:
        async with _connected(name, urls[name], Amounts(0, outbox=rows, keys=rows), now, _DUE) as connection:
            for statement in (*FACTS.get(name, ()), KEYS):
                await connection.execute(statement)

    await asyncio.gather(*(add(name) for name in urls))


async def due(urls: Mapping[str, str]) -> int:
    """Count the outbox rows that are to be pruned now."""
    left = 0
    for url in urls.values():
        connection = await asyncpg.connect(url)
        try:
            query = "select count(*) from outbox where sequence < 0 and published_at < now() - interval '8 days'"
            left += await connection.fetchval(query)
        finally:
            await connection.close()
    return left


async def _fill(name: str, url: str, amounts: Amounts, now: datetime) -> None:
    async with _connected(name, url, amounts, now, _KEPT) as connection:
        if not await connection.fetchval("select count(*) from streams where incarnation > 0"):
            raise NeverRan(f"{name} has never run")
        for statement in (*OF_EACH, *ROWS.get(name, ()), *FACTS.get(name, ()), KEYS):
            await connection.execute(statement)
        await connection.execute("vacuum analyze")


@asynccontextmanager
async def _connected(
    name: str, url: str, amounts: Amounts, now: datetime, since: tuple[timedelta, timedelta]
) -> AsyncIterator[Any]:
    """Connect, and say what is to be made."""
    connection = await asyncpg.connect(url)
    try:
        for statement in WORDS:
            await connection.execute(statement)
        own = round(amounts.outbox * _FACTS_OF.get(name, 0)), round(amounts.keys * _KEYS_OF.get(name, 0))
        given = (amounts.accounts, amounts.orders, *own, amounts.dead_letters)
        moments = (round(now.timestamp() * 1000), *(one // timedelta(milliseconds=1) for one in since))
        await connection.execute(
            "insert into given values ($1, $2, $3, $4, $5, $6, $7, $8)", moments[0], *given, *moments[1:]
        )
        yield connection
    finally:
        await connection.close()
