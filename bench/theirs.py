"""The usual stack (`bench/usual`), started from nothing, and its books."""

import asyncio
import secrets
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Final

import asyncpg

from bench.running import Running
from bench.servers import NATS, POSTGRES, fresh_databases, fresh_streams, given, given_pids
from libs.local.servers import Postgres, free_port, listening, nats_program
from libs.local.supervisor import Program, Supervisor, environment
from libs.web.keys import new_key, private_pem, public_pem

SERVICES: Final = ("orders", "billing", "notifications")
SETTLED_WITHIN_S: Final = 60.0
ROOT: Final = Path(__file__).parents[1]


@asynccontextmanager
async def usual(folder: Path, *, tuned: bool) -> AsyncIterator[Running]:
    """Run the usual stack, each service in a process of its own, with the same servers behind it as we have.

    Raises `CannotStart`.
    """
    supervisor, logs = Supervisor(lambda _sentence: None), folder / "logs"
    ports = {name: free_port() for name in (*SERVICES, "gateway")}
    async with AsyncExitStack() as stack:
        stack.push_async_callback(supervisor.stop)
        nats_url = await _nats(stack, supervisor, folder, logs)
        urls = await _databases(stack, supervisor, folder, logs)
        stack.push_async_callback(supervisor.stop, [*SERVICES, "gateway"])
        common = {**_keys(), "NATS_URL": nats_url, "PYTHONPATH": str(ROOT), **({"TUNED": "1"} if tuned else {})}
        common |= {f"{name.upper()}_URL": f"http://127.0.0.1:{ports[name]}" for name in SERVICES}
        for name, port in ports.items():
            await supervisor.start(_program(name, port, urls.get(name, ""), common, logs))
        for name, port in ports.items():
            await listening(port, within_s=60, what=name, log=logs / f"{name}.log")
        pids = {label: pid for label in supervisor.labels if (pid := supervisor.pid(label)) is not None}
        outside = given_pids()
        yield Running(
            url=f"http://127.0.0.1:{ports['gateway']}",
            folder=folder,
            pids={**pids, **outside},
            nats=nats_url,
            postgres=urls["orders"],
            examine=lambda: examined(urls),
            outside=list(outside.values()),
        )


async def _nats(stack: AsyncExitStack, supervisor: Supervisor, folder: Path, logs: Path) -> str:
    if url := given(NATS):
        await stack.enter_async_context(fresh_streams(url, [name.upper() for name in SERVICES]))
        return url
    port = free_port()
    await supervisor.start(nats_program(folder / "nats", port, logs))
    await listening(port, within_s=20, what="nats-server", log=logs / "nats.log")
    return f"nats://127.0.0.1:{port}"


async def _databases(stack: AsyncExitStack, supervisor: Supervisor, folder: Path, logs: Path) -> Mapping[str, str]:
    if server := given(POSTGRES):
        return await stack.enter_async_context(fresh_databases(server, SERVICES))
    password = secrets.token_hex(16)
    postgres = Postgres(folder / "postgres", free_port(), password, logs, lambda _sentence: None)
    await supervisor.start(await asyncio.to_thread(postgres.prepare))
    await postgres.ready()
    return {name: await postgres.create_database(name, password) for name in SERVICES}


def _program(name: str, port: int, database: str, common: Mapping[str, str], logs: Path) -> Program:
    # uvicorn takes uvloop and httptools by itself, since both are installed.
    argv = [sys.executable, "-m", "uvicorn", f"bench.usual.{name}:app", "--port", str(port)]
    argv += ["--log-level", "warning", "--no-access-log"]
    # By default it closes what is idle for five seconds, just when httpx would still use it: that answers 500.
    argv += ["--timeout-keep-alive", "60"]
    driver = "postgresql+asyncpg"
    url = {"DATABASE_URL": f"{driver}:{database.partition(':')[2]}"} if database else {}
    return Program(name, argv, environment(**common, **url), logs / f"{name}.log")


def _keys() -> dict[str, str]:
    key = new_key()
    return {"JWT_KEY": private_pem(key).decode(), "JWT_PUBLIC_KEY": public_pem([key.public_key()]).decode()}


async def examined(urls: Mapping[str, str]) -> list[str]:
    """Ask the databases whether money was lost or made, and whether everybody has a letter: a sentence for each no.

    What may be under way is asked again for a while.
    """
    deadline = asyncio.get_running_loop().time() + SETTLED_WITHIN_S
    connections = {name: await asyncpg.connect(url) for name, url in urls.items()}
    orders, billing, notifications = (connections[name] for name in SERVICES)
    try:
        while True:
            confirmed = await orders.fetchval("select count(*) from orders where status = 'confirmed'")
            found = {
                "orders are pending": await orders.fetchval("select count(*) from orders where status = 'pending'"),
                "entries do not sum to zero": await billing.fetchval("select sum(amount_minor) from entries") or 0,
                "wallets differ from their entries": await billing.fetchval(
                    "select count(*) from wallets w where balance_minor <> coalesce("
                    "(select sum(amount_minor) from entries e where e.account = w.user_id), 0)"
                ),
                "payments are missing or too many": confirmed
                - await billing.fetchval("select count(*) from payments where accepted"),
                "letters are missing or too many": await orders.fetchval(
                    "select count(*) from orders where status <> 'pending'"
                )
                - await notifications.fetchval("select count(*) from letters"),
            }
            wrong = [f"{number} {what}" for what, number in found.items() if number]
            if not wrong or asyncio.get_running_loop().time() > deadline:
                return wrong
            await asyncio.sleep(0.25)
    finally:
        for connection in connections.values():
            await connection.close()
