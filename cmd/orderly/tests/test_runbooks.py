"""The procedures of docs/operations.md, run as they are written, against systems that are at work."""

import asyncio
import os
import secrets
import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import asyncpg
import pytest

from libs.local.servers import Postgres
from libs.tests.eventually import eventually
from orderly.newman import ROOT
from orderly.services import NAMES
from orderly.system import DatabaseKind, System
from orderly.tests.guides import guide
from orderly.tests.systems import Customer, customers, running_system

BLOCKS: Final = {block.run: block.text for block in guide(ROOT / "docs" / "operations.md").blocks if block.run}
ALL: Final = "notifications profiles billing orders auth"
"""The order in which databases are copied."""

PROCEDURES: Final = {
    "backup-sqlite",
    "backup-postgres",
    "restore-sqlite",
    "restore-postgres",
    "restored",
    "move-create",
    "move",
}


class Operator:
    """Somebody at a shell, with the document open."""

    def __init__(self, system: System, postgres: Postgres, **variables: str) -> None:
        folders = [Path(sys.executable).parent, ROOT / ".tools" / "bin", postgres._bin]
        path = os.pathsep.join([*(str(folder) for folder in folders), os.environ["PATH"]])
        kept = {name: os.environ[name] for name in ("HOME", "LANG", "TMPDIR") if name in os.environ}
        data = system.plan.data_dir
        given = {"PATH": path, "DATA_DIR": str(data), "BACKUP": str(data / "backup"), "GATEWAY": system.url}
        self.environment = {**kept, **given, **variables}

    async def follow(self, name: str, *, services: str = ALL, only_loop: bool = False) -> str:
        """Run a block, for some services or for all; return what it printed."""
        text = BLOCKS[name]
        assert services == ALL or ALL in text
        lines = text.replace(ALL, services).splitlines()
        if only_loop:
            lines = [line for line in lines if not line.startswith(("mkdir", "cp"))]
        process = await asyncio.create_subprocess_exec(
            *("bash", "-euo", "pipefail", "-c", "\n".join(lines)),
            cwd=ROOT,
            env=self.environment,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        said = (await process.communicate())[0].decode()
        assert process.returncode == 0, f"{name}: {said}"
        return said


@asynccontextmanager
async def databases(postgres: Postgres, *names: str) -> AsyncIterator[dict[str, str]]:
    """Databases that are named after their services, as a server has that belongs to one system; dropped at the end."""
    try:
        yield {name: await postgres.create_database(name, secrets.token_hex(8)) for name in names}
    finally:
        admin = await asyncpg.connect(admin_url(postgres))
        for name in NAMES:
            await admin.execute(f'drop database if exists "{name}" with (force)')
            await admin.execute(f'drop role if exists "{name}"')
        await admin.close()


def admin_url(postgres: Postgres, *, password: bool = True) -> str:
    secret = f":{postgres._password}" if password else ""
    return f"postgresql://postgres{secret}@{host(postgres)}/postgres"


def host(postgres: Postgres) -> str:
    return f"127.0.0.1:{postgres._port}"


@asynccontextmanager
async def started(system: System, **urls: str) -> AsyncIterator[System]:
    """Start a system anew in the folder of one that has stopped."""
    again = System(replace(system.plan, database_urls=urls), lambda _sentence: None)
    try:
        await again.start()
        yield again
    finally:
        await again.stop()


def test_every_procedure_is_run_here() -> None:
    assert set(BLOCKS) == PROCEDURES


@pytest.mark.prove
@pytest.mark.timeout(400)
@pytest.mark.skipif(shutil.which("curl") is None, reason="the procedure asks with curl")
@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
async def test_what_was_backed_up_at_work_is_restored_and_the_gaps_close(
    kind: DatabaseKind, postgres: Postgres
) -> None:
    """One order is placed between the copies of billing and orders, another one after them: that one is lost."""
    names = NAMES if kind == "postgres" else ()
    async with databases(postgres, *names) as urls, running_system("sqlite", database_urls=urls) as system:
        variables = {"DATABASES": f"postgresql://postgres@{host(postgres)}", "PGPASSWORD": postgres._password}
        operator = Operator(system, postgres, **(variables if kind == "postgres" else {}))
        async with customers(system) as customer:
            ann = await customer().arrive("1000.00")
            await confirmed(ann, "100.00")
            await ann.audit()
            await operator.follow(f"backup-{kind}", services="notifications profiles billing")
            await confirmed(ann, "50.00")
            await operator.follow(f"backup-{kind}", services="orders auth", only_loop=True)
            lost = await confirmed(ann, "70.00")
            bob = await customer().arrive()
            await system.stop()
            await operator.follow(f"restore-{kind}")
            async with started(system, **urls):
                assert "no dead letters" in await operator.follow("restored")
                del ann.orders[lost]
                await eventually(lambda: is_balance(ann, "850.00"), within_s=120)
                assert await ann.audit(within_s=120) == {"confirmed": 2}
                await confirmed(ann, "1.00")
                assert (await bob.call("POST", "/login", {"login": bob.login, "password": bob.password}))[0] == 401


@pytest.mark.prove
async def test_billing_moves_to_postgresql_as_it_is_written(postgres: Postgres) -> None:
    password = secrets.token_hex(8)
    async with databases(postgres), running_system("sqlite") as system, customers(system) as customer:
        variables = {"ADMIN": admin_url(postgres), "PASSWORD": password, "HOST": host(postgres)}
        operator = Operator(system, postgres, **variables)
        ann = await customer().arrive("200.00")
        await confirmed(ann, "150.00")
        await ann.audit()
        await system.stop()
        await operator.follow("move-create")
        assert "compared row by row" in await operator.follow("move")
        async with started(system, billing=f"postgresql://billing:{password}@{host(postgres)}/billing"):
            assert (await ann.order("150.00"))[1]["reason"] == "insufficient_funds"
            await confirmed(ann, "50.00")
            assert await ann.audit() == {"confirmed": 2, "rejected": 1}


async def confirmed(who: Customer, price: str) -> str:
    """Place an order, and see to it that it is paid for, at once or, while consumers rest, later."""
    _, order = await who.order(price)

    async def is_confirmed() -> Any:
        return (await who.call("GET", f"/orders/{order['id']}"))[1]["status"] == "confirmed"

    await eventually(is_confirmed, within_s=60)
    return str(order["id"])


async def is_balance(who: Customer, amount: str) -> bool:
    return await who.balance() == Decimal(amount)
