"""Calls: what a statement costs here, and a connection, as SQLAlchemy does both and as we do."""

import argparse
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

from rich.console import Console
from rich.table import Table
from sqlalchemy import text
from sqlalchemy.ext.asyncio import engine
from sqlalchemy.util import greenlet_spawn

from bench import figures, parts
from bench.figures import Figure, as_json
from bench.folders import fresh_folder
from bench.servers import POSTGRES, fresh_databases, given
from libs.local.servers import Postgres, free_port
from libs.local.supervisor import Supervisor
from libs.storage import Database, greenlets

CALLS: Final = 2_000
"""Of each kind in each round."""

WARM_UP: Final = 200
STATEMENT: Final = text("select 1")
WAYS: Final[dict[str, Any]] = {"new greenlets": greenlet_spawn, "used again": greenlets.call}


def options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this part."""
    parts.common(parser)


async def run(asked: argparse.Namespace, out: Console) -> int:
    """Make the same calls in new greenlets and in those that are used again, in turn. Raises `CannotStart`."""
    found: dict[tuple[str, str], list[float]] = {}
    async with _database() as database:
        for _ in range(asked.rounds):
            for way, spawn in WAYS.items():
                engine.greenlet_spawn = spawn  # type: ignore[attr-defined] # as `greenlets.reuse` does
                for what, call in {"statement": _statement, "pooled": _pooled, "kept": _kept}.items():
                    found.setdefault((what, way), []).append(await call(database))
    greenlets.reuse()
    sums = [{"what": what, "way": way, "us": as_json(Figure.of(some))} for (what, way), some in found.items()]
    _show(found, out)
    written = figures.write(asked.out, "calls.json", figures.document(parts.settings(asked), sums=sums))
    out.print(f"written: {written}")
    return 0


async def _statement(database: Database) -> float:
    """The smallest statement, on a connection that is there."""
    async with database.reading() as connection:
        return await _cost(lambda: connection.execute(STATEMENT))


async def _pooled(database: Database) -> float:
    """A connection taken from SQLAlchemy's pool, and given back."""

    async def take() -> None:
        async with database._reader.connect():  # noqa: SLF001 - past what we do
            pass

    return await _cost(take)


async def _kept(database: Database) -> float:
    """A connection taken as services do, and given back."""

    async def take() -> None:
        async with database.reading():
            pass

    return await _cost(take)


async def _cost(call: Callable[[], Awaitable[object]]) -> float:
    """Microseconds of this process' CPU for a call."""
    for _ in range(WARM_UP):
        await call()
    before = time.process_time()
    for _ in range(CALLS):
        await call()
    return 1e6 * (time.process_time() - before) / CALLS


@asynccontextmanager
async def _database() -> AsyncIterator[Database]:
    with fresh_folder() as folder:
        if server := given(POSTGRES):
            async with fresh_databases(server, ["calls"]) as urls, _opened(urls["calls"]) as database:
                yield database
            return
        supervisor, password = Supervisor(lambda _sentence: None), secrets.token_hex(16)
        postgres = Postgres(folder / "postgres", free_port(), password, folder / "logs", lambda _sentence: None)
        try:
            await supervisor.start(postgres.prepare())
            await postgres.ready()
            async with _opened(await postgres.create_database("calls", password)) as database:
                yield database
        finally:
            await supervisor.stop()


@asynccontextmanager
async def _opened(url: str) -> AsyncIterator[Database]:
    database = Database(url, name="calls")
    try:
        yield database
    finally:
        await database.close()


def _show(found: dict[tuple[str, str], list[float]], out: Console) -> None:
    says = {
        "statement": "a statement",
        "pooled": "a connection of SQLAlchemy's pool, taken and given back",
        "kept": "a connection that is kept, taken and given back",
    }
    table = Table(title="CPU µs of the caller; median (least to most)")
    for heading in ("what", *WAYS):
        table.add_column(heading, justify="right")
    for what, said in says.items():
        table.add_row(said, *(f"{Figure.of(found[what, way])}" for way in WAYS))
    out.print(table)


PART: Final = parts.Part("calls", "What a call to the database costs the caller.", options, run)
