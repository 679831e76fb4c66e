"""Rounds are summed up truthfully."""

import io
import math
from dataclasses import replace
from pathlib import Path

import orjson
import pytest
from rich.console import Console

from bench.figures import Figure, by_service, document, medians, write
from bench.report import Result, found, ratios, show
from bench.tests.made import ROUND, result


def test_a_round_counts_orders_and_sorts_their_times() -> None:
    assert ROUND.per_second == 50
    assert ROUND.percentile(0.5) == pytest.approx(10)
    assert ROUND.percentile(0.98) == pytest.approx(50)
    assert ROUND.percentile(0.999) == pytest.approx(100)
    assert math.isnan(replace(ROUND, seconds=[]).percentile(0.5))


def test_a_figure_is_the_median_and_its_spread() -> None:
    assert Figure.of([3.0, 1.0, 2.0]) == Figure(2.0, 1.0, 3.0)


def test_ratios_are_of_medians_with_as_many_clients() -> None:
    results = [result("orderly"), result("faststream", slower=20)]
    said = ratios(results, Figure(250.0, 240.0, 260.0))
    assert said == [
        "64 clients: 20.0 times the orders/s of faststream, p50 20.0 and p99 20.0 times shorter",
        "64 clients: 20.0% of pgbench's transactions/s",
    ]


def test_whose_books_are_wrong_has_no_result() -> None:
    results = [result("orderly"), result("faststream", slower=20, wrong=("3 orders are pending",))]
    assert ratios(results, None) == []
    printed = io.StringIO()
    show(results, None, Console(width=160, file=printed))
    assert "no result: 3 orders are pending" in printed.getvalue()
    written = found(results, None)
    assert [one["wrong"] for one in written["results"]] == [[], ["3 orders are pending"] * 3]


def test_what_nobody_counts_is_left_out() -> None:
    some = Result("orderly", 64, [replace(ROUND, stored=None, flushes=2.0), replace(ROUND, stored=4.0, flushes=1.0)])
    assert some.per_order("stored") == Figure(4.0, 4.0, 4.0)
    assert some.per_order("flushes") == Figure(1.5, 1.0, 2.0)
    assert some.per_order("disk_flushes") is None
    (written,) = found([some], None)["results"]
    assert written["flushes_of_the_disk"] is None
    printed = io.StringIO()
    show([some], None, Console(width=200, file=printed))
    assert "1.50 (1.00 to 2.00)" in printed.getvalue()


def test_failures_are_told_and_no_orders() -> None:
    failing = Result("faststream", 256, [replace(ROUND, failures={"500": 3}), replace(ROUND, failures={"500": 1})])
    printed = io.StringIO()
    show([failing], None, Console(width=200, file=printed))
    assert "faststream, 256 clients: without an outcome: 4 500" in printed.getvalue()
    assert found([failing], None)["results"][0]["without_an_outcome"] == {"500": 4}


def test_without_a_single_order_there_is_no_result() -> None:
    nothing = Result("faststream", 64, [replace(ROUND, seconds=[], failures={"no answer": 64})])
    assert nothing.wrong == ["no order had its outcome"]
    assert ratios([result("orderly"), nothing], None) == []
    assert found([nothing], None)["results"][0]["wrong"] == ["no order had its outcome"]


def test_variants_of_ours_are_told_as_a_share() -> None:
    said = ratios([result("orderly", 1), result("orderly-hot", 1, slower=1.25)], None)
    assert said == ["1 client: orderly-hot has 80% of our orders/s"]


def test_memory_and_cpu_are_printed_by_process() -> None:
    printed = io.StringIO()
    show([result("orderly")], None, Console(width=200, file=printed))
    lines = [line for line in printed.getvalue().splitlines() if "orderly" in line]
    assert [cell.strip() for cell in lines[2].split("│")[3:6]] == ["100", "50", "150"]
    assert [cell.strip() for cell in lines[3].split("│")[3:6]] == ["80", "20", "100"]


def test_replicas_of_a_service_are_one() -> None:
    assert by_service({"orders": 1.0, "orders#2": 2.0, "nats": 4.0}) == {"orders": 3.0, "nats": 4.0}
    assert medians([{"a": 1.0}, {"a": 5.0}, {"a": 2.0}]) == {"a": 2.0}


def test_what_is_written_says_what_it_was_measured_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENCH_NATS_URL", "nats://ann:secret@127.0.0.1:4222")
    monkeypatch.delenv("BENCH_POSTGRES_URL", raising=False)
    whole = document({"rounds": 3}, results=[math.nan])
    written = write(tmp_path / "new", "x.json", whole)
    read = orjson.loads(written.read_bytes())
    assert read["settings"] == {"rounds": 3, "servers": {"BENCH_POSTGRES_URL": "own", "BENCH_NATS_URL": "given"}}
    assert read["results"] == [None]
    assert read["machine"]["cores"] > 0
    assert "faststream" in read["versions"]
    assert "secret" not in written.read_text()
    assert written.stat().st_mode & 0o777 == 0o644
