"""The whole benchmark, as short as can be: whether it works, not what comes of it."""

import io
from pathlib import Path
from typing import Any

import orjson
import pytest
from rich.console import Console

from bench.__main__ import asked
from bench.tests.test_servers import superuser
from libs.local.servers import Postgres

pytestmark = pytest.mark.prove
SHORT = ["--rounds", "1", "--seconds", "1", "--warm-up", "0.5", "--foreign-at-most", "9", "--out"]


async def run(*arguments: str, out: Path) -> tuple[int, str, dict[str, Any]]:
    """Run a part; return its exit code, what it printed, and the JSON."""
    ((part, given),) = asked([*arguments, *SHORT, str(out)])
    printed = io.StringIO()
    code = await part.run(given, Console(width=200, file=printed))
    return code, printed.getvalue(), orjson.loads((out / f"{part.name}.json").read_bytes())


async def test_orders(tmp_path: Path) -> None:
    code, printed, written = await run("orders", "orderly-sqlite", "faststream-tuned", "--clients", "4", out=tmp_path)
    assert code == 0, printed
    for one in written["results"]:
        assert one["orders_per_second"]["median"] > 1
        assert set(one["outcomes"]) == {"confirmed"}
        assert one["without_an_outcome"] == {}
        assert one["messages_stored_by_nats"]["median"] > 2
        assert {"orders", "billing", "notifications", "gateway", "nats"} <= one["cpu_us_by_process"].keys()
        assert min(one["memory_by_process"].values()) > 1_000_000
    sqlite, theirs = (one["flushes_of_postgresql"] for one in reversed(written["results"]))
    assert sqlite is None
    assert theirs["median"] > 0.1
    assert written["yardstick"]["median"] > 10
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".svg"}


async def test_orders_on_given_servers(
    tmp_path: Path, postgres: Postgres, nats_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BENCH_POSTGRES_URL", superuser(postgres))
    monkeypatch.setenv("BENCH_NATS_URL", nats_url)
    code, printed, written = await run("orders", "orderly", "faststream", "--clients", "4", out=tmp_path)
    assert code == 0, printed
    assert set(written["settings"]["servers"].values()) == {"given"}
    for one in written["results"]:
        assert one["orders_per_second"]["median"] > 1
        assert {"nats", "postgres"} <= one["cpu_us_by_process"].keys()


async def test_reads_get_the_same_answers(tmp_path: Path) -> None:
    few = ("--contestants", "orderly", "faststream", "--clients", "4", "--orders", "2")
    code, printed, written = await run("reads", *few, out=tmp_path)
    assert code == 0, printed
    assert len(written["ratios"]) == 3
    assert all(one["reads_per_second"]["median"] > 1 for one in written["results"])


async def test_registration(tmp_path: Path) -> None:
    code, printed, written = await run("registration", "--clients", "4", out=tmp_path)
    assert code == 0, printed
    assert written["registrations_per_second"]["median"] > 1
    assert 0 < written["share_of_argon2"]["median"] < 1


async def test_scale(tmp_path: Path) -> None:
    code, printed, written = await run("scale", "--replicas", "2", "--clients", "8", out=tmp_path)
    assert code == 0, printed
    (two,) = written["results"]
    assert all(min(shares) > 0 and len(shares) == 2 for shares in two["shares"].values())
    assert "orders" in two["cpu_us_by_service"]
    assert "orders#2" not in two["cpu_us_by_service"]
