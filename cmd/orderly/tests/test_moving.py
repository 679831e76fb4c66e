"""A service's data moved to another database: everything arrives, into an empty database only, with nobody at work."""

import asyncio
import hashlib
import secrets
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Table, func, insert, select, text

import billing.app
from libs.ids import uuid7
from libs.storage import Database, Timestamp
from libs.storage.migrations import migrate
from orderly import moving
from orderly.__main__ import main
from orderly.databases import announce, sqlite_file
from orderly.moving import Contents, tables_of
from orderly.services import NAMES
from orderly.system import Plan, System
from orderly.tests.systems import customers, running_system

BILLING = billing.app.service
TABLES = {table.name: table for table in tables_of(BILLING)}
AT_ONCE = 20
ROWS = AT_ONCE + 3
"""More than are held at once, in these tests."""

Move = Callable[..., tuple[int, str, str]]


@pytest.fixture
def move(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Move:
    """Call ``orderly move-database billing …``; give its exit code, what it printed, and what it complained of."""
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    monkeypatch.setattr(moving, "AT_ONCE", AT_ONCE)

    def call(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main(["move-database", "billing", *arguments])
        said = capsys.readouterr()
        return int(str(ended.value.code)), said.out, said.err

    return call


def rows_of(table: Table) -> list[dict[str, Any]]:
    """Make up rows for a table that no rule of it refuses, with everything in them that databases like to change."""
    moment = datetime(2026, 3, 1, 12, 30, 15, 123_456, tzinfo=UTC)
    wallet = uuid7()
    given: dict[str, Callable[[int], dict[str, Any]]] = {
        "outbox": lambda n: {
            "id": uuid7(),
            "subject": f"billing.account.opened.{n}",
            "payload": '{"name": "Ёжик 🦔 \\" \\\\ \\n"}',
            "headers": "{}",
            "created_at": moment + timedelta(microseconds=n),
            "published_at": moment if n % 2 else None,
            "sequence": n if n % 2 else None,
        },
        "dead_letters": lambda n: {
            "id": hashlib.md5(str(n).encode(), usedforsecurity=False).hexdigest(),
            "event_id": str(n),
            "subject": "orders.order.placed.x",
            "payload": bytes(range(256)),
            "headers": "{}",
            "error": "no",
            "attempts": 1,
            "trace_id": "",
            "created_at": moment,
        },
        "idempotency_keys": lambda n: {
            "id": hashlib.sha256(str(n).encode()).digest(),
            "fingerprint": secrets.token_bytes(32),
            "outcome": "",
            "created_at": moment,
        },
        "transfers": lambda n: {
            "id": uuid7(),
            "kind": "deposit",
            "debit": uuid7(),
            "credit": wallet,
            "amount_minor": 1 << 60,
            "wallet": wallet,
            "version": n + 1,
            "balance_minor": n,
            "at": moment,
        },
    }
    make = given.get(table.name)
    return [make(number) for number in range(ROWS if table.name == "outbox" else 3)] if make else []


async def execute(url: str, statement: str) -> None:
    """Have something done to a database behind everybody's back."""
    database = Database(url, name="test")
    async with database.writing() as connection:
        await connection.execute(text(statement))
    await database.close()


async def filled(url: str) -> None:
    database = Database(url, name="test")
    await migrate(database, BILLING.migrations)
    async with database.writing() as connection:
        for table in TABLES.values():
            if rows := rows_of(table):
                await connection.execute(insert(table), rows)
        (letter,) = (await connection.execute(select(TABLES["dead_letters"].c.id).limit(1))).scalars()
        act = {"id": uuid7(), "dead_letter": letter, "at": datetime.now(UTC), "by": "me", "what": "replay_failed"}
        await connection.execute(insert(TABLES["dead_letter_acts"]), [act])
    await database.close()


async def contents(url: str) -> dict[str, list[tuple[Any, ...]]]:
    """Read everything, as plain values."""
    database = Database(url, name="test")
    found = {}
    async with database.reading() as connection:
        for name, table in TABLES.items():
            rows = await connection.execute(select(table))
            plain = [tuple(str(value) if hasattr(value, "hex") else value for value in row) for row in rows]
            found[name] = sorted(plain, key=str)
    await database.close()
    return found


def test_everything_arrives_unchanged_and_the_old_database_stays(tmp_path: Path, move: Move, database_url: str) -> None:
    old = f"sqlite:///{sqlite_file(tmp_path, 'billing')}"
    asyncio.run(filled(old))
    before = asyncio.run(contents(old))

    code, out, err = move(database_url)
    assert (code, err) == (0, "")
    assert f"{ROWS:>9,} outbox" in out
    assert "        0 wallets" in out
    assert asyncio.run(contents(database_url)) == asyncio.run(contents(old)) == before
    assert sum(len(rows) for rows in before.values()) == ROWS + 3 * 3 + 1

    code, _, err = move(database_url)
    assert (code, err) == (1, "the new database is not empty: dead_letters has rows\n")
    code, _, err = move(f"sqlite:///{tmp_path / 'back.db'}", "--from", database_url)
    assert (code, err) == (0, "")
    assert asyncio.run(contents(f"sqlite:///{tmp_path / 'back.db'}")) == before


def test_a_row_that_arrives_otherwise_undoes_everything(
    tmp_path: Path, move: Move, monkeypatch: pytest.MonkeyPatch
) -> None:
    new = f"sqlite:///{tmp_path / 'new.db'}"
    old = f"sqlite:///{sqlite_file(tmp_path, 'billing')}"
    asyncio.run(filled(old))
    whole = Timestamp.process_bind_param

    def rounded(self: Timestamp, value: datetime | None, dialect: Any) -> datetime | None:
        return whole(self, value.replace(microsecond=0) if value else None, dialect)

    monkeypatch.setattr(Timestamp, "process_bind_param", rounded)
    code, out, err = move(new)
    assert (code, out) == (1, "")
    assert "is not the same in" in err
    assert "nothing was moved" in err
    assert not any(asyncio.run(contents(new)).values())


def test_what_the_new_database_refuses_is_said_and_undoes_everything(tmp_path: Path, move: Move, postgres: Any) -> None:
    """PostgreSQL takes no NUL in a text; SQLite does."""
    old = f"sqlite:///{sqlite_file(tmp_path, 'billing')}"
    new = asyncio.run(postgres.create_database(f"t{secrets.token_hex(6)}", secrets.token_hex(8)))
    asyncio.run(filled(old))

    asyncio.run(execute(old, "update idempotency_keys set outcome = 'a' || char(0) || 'b'"))
    code, out, err = move(new)
    assert (code, out) == (1, "")
    assert err.startswith("the data of billing cannot be copied; nothing was moved (")
    assert len(err.splitlines()) == 1
    assert not any(asyncio.run(contents(new)).values())


def test_a_sum_tells_values_and_rows_apart() -> None:
    def of(*rows: dict[str, Any]) -> Contents:
        made = Contents()
        for row in rows:
            made.add(row)
        return made

    assert of({"a": 1}, {"a": 2}) == of({"a": 2}, {"a": 1})
    assert of({"a": 1}, {"a": 1}) != of()
    for one, other in ((None, "None"), (1, "1"), (b"1", "1"), ("", None), ("1', '2", "1, 2")):
        assert of({"a": one}) != of({"a": other})


def test_a_database_with_tables_of_others_is_left_alone(tmp_path: Path, move: Move) -> None:
    new = f"sqlite:///{tmp_path / 'new.db'}"
    asyncio.run(filled(f"sqlite:///{sqlite_file(tmp_path, 'billing')}"))

    asyncio.run(execute(new, "create table letters (id integer)"))
    assert move(new)[0::2] == (1, "the new database is not empty: it has letters\n")


def test_nothing_is_moved_while_somebody_is_at_work(tmp_path: Path, move: Move, database_url: str) -> None:
    old = f"sqlite:///{sqlite_file(tmp_path, 'billing')}"
    asyncio.run(filled(database_url))

    async def move_beside_a_service(source: str) -> tuple[int, str, str]:
        service = Database(source, name="billing")
        async with service.reading() as connection:  # a pool keeps it open afterwards
            await connection.execute(select(func.count()).select_from(TABLES["outbox"]))
        try:
            return await asyncio.to_thread(move, f"sqlite:///{tmp_path / 'new.db'}", "--from", source)
        finally:
            await service.close()

    code, _, err = asyncio.run(move_beside_a_service(database_url))
    assert code == 1
    assert err.startswith("the database of billing is in use")
    assert not Path(old).exists()
    assert move(f"sqlite:///{tmp_path / 'new.db'}", "--from", database_url)[0] == 0


def test_what_cannot_be_is_said_without_a_password(tmp_path: Path, move: Move) -> None:
    assert move("sqlite:///x.db")[2].startswith("there is no database of billing in")
    file = sqlite_file(tmp_path, "billing")
    asyncio.run(filled(f"sqlite:///{file}"))
    assert move(f"sqlite:///{file}")[2] == "the new database is the old one\n"
    assert move("nonsense")[2].startswith("the new database: must be sqlite:///path or postgresql://")
    code, _, err = move("postgresql://billing:secret@127.0.0.1:1/billing")
    assert code == 1
    assert err.startswith("the new database cannot be reached: ")
    assert "secret" not in err


def test_the_database_of_a_running_system_is_the_one_to_move(tmp_path: Path, move: Move) -> None:
    asyncio.run(filled(f"sqlite:///{tmp_path / 'elsewhere.db'}"))
    announce(tmp_path, {"billing": f"sqlite:///{tmp_path / 'elsewhere.db'}"})
    code, out, _ = move(f"sqlite:///{tmp_path / 'new.db'}")
    assert code == 0
    assert f"{ROWS:>9,} outbox" in out


@pytest.mark.prove
async def test_a_system_goes_on_where_it_was_on_postgresql(postgres: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole system moves, between two orders of one customer, whose token stays good."""
    urls = {
        name: await postgres.create_database(f"{name}_{secrets.token_hex(4)}", secrets.token_hex(8)) for name in NAMES
    }
    async with running_system("sqlite") as system:
        monkeypatch.setenv("DATA_DIR", str(system.plan.data_dir))
        async with customers(system) as customer:
            ann = await customer().arrive("200.00")
            assert (await ann.order("150.00"))[1]["status"] == "confirmed"
            await ann.audit()
            await system.stop()
            for name, url in urls.items():
                with pytest.raises(SystemExit, match="0"):
                    await asyncio.to_thread(main, ["move-database", name, url])
            plan = system.plan
            moved = System(Plan(plan.data_dir, plan.gateway_port, plan.nats_port, database_urls=urls), lambda _: None)
            try:
                await moved.start()
                assert (await ann.order("150.00"))[1]["reason"] == "insufficient_funds"
                assert (await ann.order("50.00"))[1]["status"] == "confirmed"
                assert await ann.audit() == {"confirmed": 2, "rejected": 1}
            finally:
                await moved.stop()
