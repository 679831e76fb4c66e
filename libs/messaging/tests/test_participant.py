"""Taking part without the rest of a service: the example of the documentation, and what it rests on."""

import asyncio
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import ClassVar
from uuid import UUID

import pytest
from nats.aio.client import Client
from nats.js.errors import NotFoundError
from sqlalchemy import Column, MetaData, Table, Uuid, select
from sqlalchemy.ext.asyncio import AsyncConnection

import libs
from libs import messaging
from libs.ids import uuid7
from libs.local.supervisor import environment
from libs.messaging import Event, Fact, Listens, Origin, Unit, insert_new, taking_part
from libs.messaging.bus import BusUnavailable
from libs.tests.eventually import eventually

ROOT = Path(libs.__file__).parents[1]
EXAMPLE = ROOT / "docs" / "examples" / "reorder.py"


def test_the_example_is_short_and_uses_nothing_else_of_this_repository() -> None:
    lines = EXAMPLE.read_text().splitlines()
    assert len(lines) <= 40
    assert {line.split()[1] for line in lines if line.startswith(("import libs", "from libs"))} == {"libs.messaging"}


def test_what_the_package_offers_is_there_and_nothing_else() -> None:
    assert all(getattr(messaging, name) for name in messaging.__all__)
    with pytest.raises(AttributeError, match="no attribute 'everything'"):
        _ = messaging.everything


@asynccontextmanager
async def example(folder: Path, nats_url: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """The example as its docstring starts it, in a folder of its own; interrupted at the end."""
    env = environment(NATS_URL=nats_url, PYTHONPATH=str(ROOT))
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(EXAMPLE), cwd=folder, env=env, stderr=asyncio.subprocess.DEVNULL
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGINT)
        async with asyncio.timeout(20):
            await process.wait()


@asynccontextmanager
async def facts(nats_url: str) -> AsyncIterator["Counted"]:
    client = Client()
    await client.connect(nats_url)
    try:
        yield Counted(client)
    finally:
        await client.close()


class Counted:
    """How many facts of each type the stream SHOP keeps."""

    def __init__(self, client: Client) -> None:
        self._jetstream = client.jetstream()

    async def __call__(self) -> Counter[str]:
        """Count them."""
        try:
            info = await self._jetstream.stream_info("SHOP", subjects_filter=">")
        except NotFoundError:
            return Counter()
        found: Counter[str] = Counter()
        for subject, count in (info.state.subjects or {}).items():
            found[subject.rpartition(".")[0]] += count
        return found

    async def are(self, sold: int, reordered: int) -> None:
        """Wait until there are so many."""
        wanted = {"shop.item.sold": sold, "shop.item.reordered": reordered}

        async def there() -> bool:
            return await self() == wanted

        await eventually(there, within_s=30)


async def test_the_example_orders_anew_and_survives_being_killed(tmp_path: Path, nats_url: str) -> None:
    async with facts(nats_url) as counted:
        async with example(tmp_path, nats_url) as shop:
            await counted.are(sold=1, reordered=1)
            shop.kill()
        async with example(tmp_path, nats_url):
            await counted.are(sold=2, reordered=2)
    assert (tmp_path / "shop.db").exists()


TABLES = MetaData()
seen = Table("seen", TABLES, Column("thing_id", Uuid, primary_key=True))


class ThingMade(Fact):
    """Something was made."""

    type: ClassVar[str] = "shop.thing.made"
    keyed_by: ClassVar[tuple[str, ...]] = ("thing_id",)

    thing_id: UUID


async def on_things_made(events: Sequence[Event[ThingMade]], unit: Unit[AsyncConnection]) -> None:
    rows = [{"thing_id": event.fact.thing_id} for event in events]
    await insert_new(unit.connection, seen, rows, key="thing_id")


async def test_what_was_stated_before_leaving_is_handled(database_url: str, nats_url: str) -> None:
    made = {uuid7() for _ in range(300)}
    listens = [Listens(ThingMade, on_things_made)]
    there = partial(taking_part, "shop", tables=TABLES, database_url=database_url, nats_url=nats_url)
    async with there() as units, units.begin() as unit:
        for thing_id in made:
            unit.publish(ThingMade(thing_id=thing_id), cause=Origin())
    async with there(listens=listens) as units:

        async def all_seen() -> bool:
            async with units.read() as connection:
                return set((await connection.execute(select(seen.c.thing_id))).scalars()) == made

        await eventually(all_seen, within_s=20)


async def test_nobody_takes_part_without_a_broker(tmp_path: Path) -> None:
    file = tmp_path / "shop.db"
    with pytest.raises(BusUnavailable):
        async with taking_part("shop", tables=TABLES, database_url=f"sqlite:///{file}", nats_url="nats://127.0.0.1:1"):
            raise AssertionError("there is nothing to take part in")
