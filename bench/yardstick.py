"""The yardstick: what PostgreSQL and the disk can do, one single-row update a transaction, 32 clients, by pgbench."""

import asyncio
import re
import secrets
from pathlib import Path
from typing import Final

from bench.folders import fresh_folder
from bench.servers import POSTGRES, fresh_databases, given
from libs.local.servers import Postgres, free_port
from libs.local.supervisor import Supervisor

CLIENTS: Final = 32
ROWS: Final = 100_000
SCRIPT: Final = f"\\set id random(1, {ROWS})\nupdate yardstick set n = n + 1 where id = :id;\n"
TABLE: Final = f"create table yardstick as (select g as id, 0 as n from generate_series(1, {ROWS}) g)"  # noqa: S608 - ours


async def transactions_per_second(seconds: float) -> float:
    """Measure on a PostgreSQL of its own, set up like everybody else's, or on the one that is given.

    Raises `CannotStart`.
    """
    with fresh_folder() as folder:
        supervisor, password = Supervisor(lambda _sentence: None), secrets.token_hex(16)
        postgres = Postgres(folder / "postgres", free_port(), password, folder / "logs", lambda _sentence: None)
        if server := given(POSTGRES):
            async with fresh_databases(server, ["yardstick"]) as urls:
                return await _measure(postgres, urls["yardstick"], folder, seconds)
        try:
            await supervisor.start(await asyncio.to_thread(postgres.prepare))
            await postgres.ready()
            url = await postgres.create_database("yardstick", password)
            return await _measure(postgres, url, folder, seconds)
        finally:
            await supervisor.stop()


async def _measure(postgres: Postgres, url: str, folder: Path, seconds: float) -> float:
    for command in (TABLE, "alter table yardstick add primary key (id)", "vacuum analyze yardstick"):
        await _run(postgres.program("psql"), "-q", "-d", url, "-c", command)
    (folder / "script.sql").write_text(SCRIPT)
    arguments = ("-n", "-M", "prepared", "-c", f"{CLIENTS}", "-j", "2", "-T", f"{max(1, round(seconds))}")
    said = await _run(postgres.program("pgbench"), *arguments, "-f", str(folder / "script.sql"), url)
    found = re.search(r"tps = ([\d.]+)", said)
    if found is None:
        raise RuntimeError(f"pgbench said {said!r}")
    return float(found[1])


async def _run(program: Path, *arguments: str) -> str:
    process = await asyncio.create_subprocess_exec(
        program, *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    said, complained = await process.communicate()
    if process.returncode:
        raise RuntimeError(f"{program.name}: {complained.decode().strip()}")
    return said.decode()
