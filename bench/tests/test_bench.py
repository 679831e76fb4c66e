"""The benchmark measures what it says it measures."""

import asyncio
import io
import math
import os
import time
from dataclasses import replace

import pytest
from rich.console import Console

from bench.clients import Load
from bench.connection import Connection
from bench.figures import Figure
from bench.processes import cpu_s, family, machine_cpu_s, memory, snapshot
from bench.report import Result, found, ratios, show
from bench.rounds import Round

ROUND = Round(
    clients=64,
    lasted_s=2.0,
    seconds=[0.010] * 98 + [0.050, 0.100],
    outcomes={"confirmed": 100},
    failures={},
    pending=0,
    cpu_us={"orders": 100.0, "nats": 50.0},
    memory={"orders": 80_000_000, "nats": 20_000_000},
    flushes=0.5,
    stored=4.0,
    disk_flushes=None,
    foreign=0.01,
    wrong=(),
)


def result(name: str, *, slower: float = 1.0, wrong: tuple[str, ...] = ()) -> Result:
    one = replace(ROUND, lasted_s=ROUND.lasted_s * slower, seconds=[s * slower for s in ROUND.seconds], wrong=wrong)
    return Result(name, 64, [one, one, one])


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


def test_only_what_ends_in_the_time_that_counts_counts() -> None:
    now = time.perf_counter()
    load = Load(began=now - 1, until=now + 60)
    load.note(now - 0.5, "confirmed")
    load.note(now - 2, "rejected", pending=True)  # begun in the warm-up: another is under way at the end
    load.fail("500")
    load.until = now - 0.1
    load.note(now - 0.5, "confirmed")  # ended too late
    load.fail("no answer")  # late, and it would have been late for ever
    load.began = load.until = now + 60
    load.note(now, "confirmed")  # ended in the warm-up
    load.fail("500")
    assert (len(load.seconds), load.pending) == (2, 1)
    assert load.outcomes == {"confirmed": 1, "rejected": 1}
    assert load.failures == {"500": 1, "no answer": 1}


async def test_a_process_answers_for_its_children() -> None:
    before, machine = snapshot(), machine_cpu_s()
    busy = "import time\nbegan = time.process_time()\nwhile time.process_time() - began < 0.3: pass\nprint(1)\ninput()"
    process = await asyncio.create_subprocess_exec(
        "python3", "-c", busy, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    await process.stdout.readline()
    after = snapshot()
    assert process.pid in family(os.getpid(), after)
    assert cpu_s(os.getpid(), after) - cpu_s(os.getpid(), before) >= 0.29
    assert machine_cpu_s() - machine >= 0.29
    assert memory(process.pid, after) > 1_000_000
    await process.communicate(b"\n")
    gone = snapshot()
    assert (family(process.pid, gone), cpu_s(process.pid, gone), memory(process.pid, gone)) == ([], 0, 0)


@pytest.mark.uvloop
async def test_a_client_reads_answers_in_any_pieces() -> None:
    answers = [b'{"a": 1}', b"[]"]

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for answer in answers:
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"POST /x HTTP/1.1\r\n")
            await reader.readexactly(len(b'{"b":2}'))
            for byte in b"HTTP/1.1 201 Created\r\ncontent-length: %d\r\n\r\n%b" % (len(answer), answer):
                writer.write(bytes([byte]))
                await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1")
    port = server.sockets[0].getsockname()[1]
    connection = await Connection.to(f"http://127.0.0.1:{port}")
    assert await connection.ask("POST", "/x", {"b": 2}) == (201, {"a": 1})
    assert await connection.ask("POST", "/x", {"b": 2}) == (201, [])
    with pytest.raises(ConnectionError):
        await connection.ask("POST", "/x", {"b": 2})
    connection.close()
    server.close()
