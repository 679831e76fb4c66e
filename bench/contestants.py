"""Who is compared: how each is started from nothing, and how its books are examined afterwards."""

import asyncio
import secrets
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import asyncpg
from cryptography.hazmat.primitives import serialization

from bench.collector import collecting
from bench.folders import fresh_folder
from libs.local.servers import Postgres, free_port, listening, nats_program
from libs.local.supervisor import Program, Supervisor, environment
from libs.web.keys import new_key, public_pem
from orderly.audit import audit
from orderly.services import NAMES
from orderly.system import Plan, System

USUAL: Final = ("orders", "billing", "notifications")
SETTLED_WITHIN_S: Final = 60.0
ROOT: Final = Path(__file__).parents[1]


@dataclass(frozen=True, slots=True)
class Running:
    """A contestant that runs: where it listens, its processes, its PostgreSQL, and how to have its books examined."""

    url: str
    pids: Mapping[str, int]
    postgres: str
    examine: Callable[[], Awaitable[list[str]]]
    """Waits until everything is settled; returns what is wrong with the books."""


@dataclass(frozen=True, slots=True)
class Contestant:
    """Somebody to compare."""

    name: str
    says: str
    running: Callable[[Path], AbstractAsyncContextManager[Running]]


@asynccontextmanager
async def _orderly(folder: Path, **extra: str) -> AsyncIterator[Running]:
    """This system as it is shipped, its traces going to a collector."""
    async with collecting() as collector:
        plan = Plan(folder, free_port(), free_port(), "postgres", 1, {}, {**collector, **extra})
        system = System(plan, lambda _sentence: None)
        await system.start()
        urls = {name: system.database_url(name) for name in NAMES}

        async def examine() -> list[str]:
            report = await audit(urls, system.nats_url, patience_s=SETTLED_WITHIN_S)
            return [f"{rule}: {found}" for rule, found in report.offenders().items()]

        labels = system.supervisor.labels
        pids = {label: pid for label in labels if (pid := system.supervisor.pid(label)) is not None}
        try:
            yield Running(system.url, pids, urls["orders"], examine)
        finally:
            await system.stop()


@asynccontextmanager
async def _usual(folder: Path, *, tuned: bool) -> AsyncIterator[Running]:
    """The usual stack, each service in a process of its own, with the same servers behind it."""
    supervisor = Supervisor(lambda _sentence: None)
    logs, ports = folder / "logs", {name: free_port() for name in (*USUAL, "gateway")}
    nats_port, password = free_port(), secrets.token_hex(16)
    postgres = Postgres(folder / "postgres", free_port(), password, logs, lambda _sentence: None)
    try:
        await supervisor.start(nats_program(folder / "nats", nats_port, logs))
        await supervisor.start(await asyncio.to_thread(postgres.prepare))
        await listening(nats_port, within_s=20, what="nats-server", log=logs / "nats.log")
        await postgres.ready()
        urls = {name: await postgres.create_database(name, password) for name in USUAL}
        common = {**_keys(), "NATS_URL": f"nats://127.0.0.1:{nats_port}", "PYTHONPATH": str(ROOT)}
        common |= {f"{name.upper()}_URL": f"http://127.0.0.1:{ports[name]}" for name in USUAL}
        common |= {"TUNED": "1"} if tuned else {}
        for name, port in ports.items():
            database = urls.get(name, "").replace("postgresql://", "postgresql+asyncpg://")
            env = environment(**common, **({"DATABASE_URL": database} if database else {}))
            argv = [sys.executable, "-m", "uvicorn", f"bench.usual.{name}:app", "--port", str(port)]
            argv += ["--log-level", "warning", "--no-access-log"]
            await supervisor.start(Program(name, argv, env, logs / f"{name}.log"))
        for name, port in ports.items():
            await listening(port, within_s=60, what=name, log=logs / f"{name}.log")
        pids = {label: pid for label in supervisor.labels if (pid := supervisor.pid(label)) is not None}
        gateway = f"http://127.0.0.1:{ports['gateway']}"
        yield Running(gateway, pids, urls["orders"], lambda: _examine_usual(urls))
    finally:
        await supervisor.stop([*USUAL, "gateway"])
        await supervisor.stop()


def _keys() -> dict[str, str]:
    key = new_key()
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return {"JWT_KEY": private.decode(), "JWT_PUBLIC_KEY": public_pem([key.public_key()]).decode()}


async def _examine_usual(urls: Mapping[str, str]) -> list[str]:
    """Ask the databases of the usual stack whether money was lost or made, and whether everybody has a letter."""
    deadline = asyncio.get_running_loop().time() + SETTLED_WITHIN_S
    connections = {name: await asyncpg.connect(url) for name, url in urls.items()}
    orders, billing, notifications = (connections[name] for name in USUAL)
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


CONTESTANTS: Final = {
    one.name: one
    for one in (
        Contestant("orderly", "this system, as shipped", _orderly),
        Contestant(
            "one-by-one", "this system, one message a transaction", lambda folder: _orderly(folder, BATCH_LIMIT="1")
        ),
        Contestant(
            "faststream",
            "FastStream, FastAPI and SQLAlchemy's ORM, as their documentation shows them",
            lambda folder: _usual(folder, tuned=False),
        ),
        Contestant(
            "faststream-tuned", "the same, tuned as a good engineer would", lambda folder: _usual(folder, tuned=True)
        ),
    )
}


@asynccontextmanager
async def started(contestant: Contestant) -> AsyncIterator[Running]:
    """Start a contestant in a fresh folder, which is gone afterwards."""
    with fresh_folder() as folder:
        async with contestant.running(folder) as running:
            yield running
