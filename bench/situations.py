"""One system in different situations: empty or full, its orders spread or all from one account, pruning or not."""

import asyncio
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import asyncpg
from pydantic import SecretStr

from auth.credentials import Tokens
from auth.settings import Settings
from bench.contestants import CONTESTANTS, OURS
from bench.filling import Amounts, add_due, due, fill
from bench.people import Account
from bench.rounds import Length, Round, measure
from bench.running import Running
from libs.local.servers import Postgres, free_port
from libs.local.supervisor import Supervisor
from orderly.credentials import ensure_credentials
from orderly.services import NAMES
from orderly.system import Plan, System

PRICE_MINOR: Final = 100
ENOUGH_MINOR: Final = 1_000_000 * PRICE_MINOR // 2
"""For more orders than one account will place."""

PRUNING_WITHIN_S: Final = 120
_FOR_FILLING: Final = (
    *("fsync=off", "full_page_writes=off", "autovacuum=off", "wal_level=minimal", "max_wal_senders=0"),
    *("max_wal_size=32GB", "shared_buffers=1GB", "maintenance_work_mem=256MB"),
)


@dataclass(frozen=True, slots=True)
class Situation:
    """What is different. `hot`: every order is placed from one account; `due`: so many rows are to be pruned."""

    name: str
    filled: bool = True
    hot: bool = False
    due: int = 0


class PrunedTooSoon(RuntimeError):
    """Pruning was over before the round was: there were too few rows for it."""


async def prepare(folder: Path, amounts: Amounts) -> None:
    """Make a system in a folder, have it run once, and fill its databases; leave it stopped, and all of it on disk."""
    await _run_once(folder)
    supervisor = Supervisor(lambda _sentence: None)
    known = ensure_credentials(folder / "keys")
    postgres = Postgres(folder / "postgres", free_port(), known.postgres_admin, folder / "logs", lambda _sentence: None)
    try:
        await supervisor.start(await asyncio.to_thread(postgres.prepare, *_FOR_FILLING))
        await postgres.ready()
        await fill({name: await postgres.create_database(name, known.postgres[name]) for name in NAMES}, amounts)
    finally:
        await supervisor.stop()
    await asyncio.to_thread(os.sync)


async def books_of(folder: Path) -> Sequence[str]:
    """Start the system in a folder once more, and say what is wrong with its books."""
    async with CONTESTANTS[OURS].running(folder) as running:
        return await running.examine()


async def play(folder: Path, situation: Situation, *, clients: int, used: int, length: Length) -> Round:
    """Start the system in a folder, and place orders from `used` of its accounts. The books are not examined."""
    async with CONTESTANTS[OURS].running(folder) as running:
        urls = _urls(folder, running)
        accounts = [asdict(one) for one in await _accounts(folder, urls, 1 if situation.hot else used)]
        asked = {"do": "place orders", "accounts": accounts, "clients": clients, "price": "1.00"}
        async with _pruning(urls, situation.due):
            return await measure(running, asked, length)


async def _run_once(folder: Path) -> None:
    system = System(Plan(folder, free_port(), free_port(), "postgres"), lambda _sentence: None)
    await system.start()
    await system.stop()


def _urls(folder: Path, running: Running) -> Mapping[str, str]:
    """Say where the databases are: on one server, each under its service's name and password."""
    known, server = ensure_credentials(folder / "keys"), running.postgres.rpartition("@")[2].partition("/")[0]
    return {name: f"postgresql://{name}:{known.postgres[name]}@{server}/{name}" for name in NAMES}


async def _accounts(folder: Path, urls: Mapping[str, str], number: int) -> list[Account]:
    """Choose accounts with money, wherever they are among all, and sign tokens for them as auth does."""
    known = ensure_credentials(folder / "keys")
    settings = Settings(
        database_url=SecretStr(urls["auth"]),
        fingerprint_key=SecretStr(known.fingerprint_key),
        jwt_private_key=known.private_key,
        jwt_public_keys=known.public_keys,
        token_lifetime_s=86_400,
    )
    tokens = Tokens(settings)
    billing, auth = await asyncpg.connect(urls["billing"]), await asyncpg.connect(urls["auth"])
    try:
        query = "select user_id from wallets where balance_minor > $1 order by random() limit $2"
        ids = [row[0] for row in await billing.fetch(query, ENOUGH_MINOR, number)]
        users = await auth.fetch("select id, login from users where id = any($1) order by random()", ids)
        return [Account(user["login"], tokens.issue(user["id"], user["login"])) for user in users]
    finally:
        await billing.close()
        await auth.close()


@asynccontextmanager
async def _pruning(urls: Mapping[str, str], rows: int) -> AsyncIterator[None]:
    """Have the services prune for the whole of the block. Raises `PrunedTooSoon`, `TimeoutError`."""
    if rows:
        await add_due(urls, rows)
        await _begun(urls, await due(urls))
    yield
    if rows and not await due(urls):
        raise PrunedTooSoon("pruning was over before the round was; have more rows pruned")


async def _begun(urls: Mapping[str, str], at_first: int) -> None:
    for _ in range(PRUNING_WITHIN_S):
        await asyncio.sleep(1)
        if await due(urls) < at_first:
            return
    raise TimeoutError(f"no service has pruned anything within {PRUNING_WITHIN_S} s")
