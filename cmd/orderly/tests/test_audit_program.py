"""``orderly audit`` as its users meet it: exit codes, JSON, metrics; and on whole systems, at rest and in motion."""

import asyncio
import json
import os
import signal
import tracemalloc
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import aiohttp
import jsonschema
import pytest

from libs.local.servers import free_port
from libs.local.supervisor import environment
from libs.tests.eventually import eventually
from orderly.__main__ import main
from orderly.audit import audit
from orderly.audit.report import FOLLOWED, NAMED, TITLES
from orderly.databases import sqlite_file
from orderly.services import NAMES
from orderly.story import Story
from orderly.system import DatabaseKind, System
from orderly.tail import EVERYTHING, Seen, watching
from orderly.tests.audited import CONFIRMED, dashed, execute, letter_about, made, populate, reset
from orderly.tests.systems import Customer, customers, running_system
from orderly.tests.test_run import PROGRAM

SCHEMA = {
    "type": "object",
    "additionalProperties": False,
    "required": ["version", "at", "clean", "error", "seconds", "looks", "checks"],
    "properties": {
        "version": {"const": 1},
        "at": {"type": "string", "format": "date-time"},
        "clean": {"type": ["boolean", "null"]},
        "error": {"type": ["string", "null"]},
        "seconds": {"type": "number"},
        "looks": {"type": "integer"},
        "checks": {
            "type": "array",
            "items": {
                "type": "object",
                "additionalProperties": False,
                "required": [
                    *("name", "title", "clean", "skipped", "examined", "offenders", "at_least", "first", "seconds")
                ],
                "properties": {
                    "name": {"type": "string"},
                    "title": {"type": "string"},
                    "clean": {"type": ["boolean", "null"]},
                    "skipped": {"type": ["string", "null"]},
                    "examined": {"type": "integer"},
                    "offenders": {"type": "integer"},
                    "at_least": {"type": "boolean"},
                    "seconds": {"type": "number"},
                    "first": {
                        "type": "array",
                        "items": {
                            "type": "object",
                            "additionalProperties": False,
                            "required": ["id", "what"],
                            "properties": {"id": {"type": "string"}, "what": {"type": "string"}},
                        },
                    },
                },
            },
        },
    },
}
"""What programs rely on. A field may be added; none goes or gets another type."""

CHECKS = (
    *("transfers_sum_to_zero", "transfers_have_two_sides", "wallets_equal_entries", "wallets_without_gaps"),
    *("wallets_not_below_zero", "payments_moved_money", "refunds_gave_back", "orders_paid", "orders_refunded"),
    *("payments_have_orders", "letters_of_orders", "letters_of_deposits", "letters_have_causes", "orders_settled"),
    *("users_complete", "outbox_published", "dead_letters_attended", "streams_of_incarnation", "facts_in_streams"),
    *("messages_explained", "durables_keep_up"),
)


@pytest.fixture
def urls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Mapping[str, str]:
    """The databases of a system that does not run, whose books balance."""
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    monkeypatch.setenv("NATS_PORT", str(free_port()))
    found = {name: f"sqlite:///{sqlite_file(tmp_path, name)}" for name in NAMES}
    asyncio.run(made(found))
    asyncio.run(reset(found, NAMES))
    return found


Ask = Callable[..., tuple[int, str, str]]


@pytest.fixture
def ask(capsys: pytest.CaptureFixture[str]) -> Ask:
    """The program, asked in this process: its exit code, what it printed, and what it complained of."""

    def asked(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main(["audit", *arguments])
        said = capsys.readouterr()
        assert isinstance(ended.value.code, int)
        return ended.value.code, said.out, said.err

    return asked


def spoil(urls: Mapping[str, str]) -> None:
    """Lose many letters."""
    asyncio.run(execute(urls["notifications"], ["delete from letters where order_id is not null"]))


def test_what_is_sound_is_told_in_a_line_for_each_check(urls: Mapping[str, str], ask: Ask, tmp_path: Path) -> None:
    code, out, err = ask("--no-streams", "--metrics", str(tmp_path / "audit.prom"))
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert [line[0] for line in lines[: len(TITLES)]] == ["✓"] * 17 + ["-"] * 4
    assert all(title in line for title, line in zip(TITLES.values(), lines, strict=False))
    assert lines[-1].startswith("✓ the books balance; 4 checks left out: ")
    metrics = (tmp_path / "audit.prom").read_text()
    assert "orderly_audit_clean 1.0" in metrics
    assert 'orderly_audit_examined{check="orders_paid"} 5.0' in metrics
    assert "facts_in_streams" not in metrics


def test_what_is_wrong_is_named(urls: Mapping[str, str], ask: Ask, tmp_path: Path) -> None:
    spoil(urls)
    metrics = tmp_path / "audit.prom"
    code, out, _ = ask("--no-streams", "--patience", "0", "--metrics", str(metrics))
    assert code == 1
    assert f"{dashed(CONFIRMED)} confirmed, but there is no letter of joy" in out
    assert out.splitlines()[-1].startswith("✗ 4 offenders in 1 of 21 checks; 4 checks left out")
    assert 'orderly_audit_offenders{check="letters_of_orders"} 4.0' in metrics.read_text()
    assert "orderly_audit_clean 0.0" in metrics.read_text()


def test_what_cannot_be_read_is_said_in_a_sentence(urls: Mapping[str, str], ask: Ask, tmp_path: Path) -> None:
    code, out, err = ask("--metrics", str(tmp_path / "audit.prom"))
    assert (code, out) == (2, "")
    assert err.startswith("the streams cannot be read: no NATS server at nats://127.0.0.1:")
    assert "orderly_audit_readable 0.0" in (tmp_path / "audit.prom").read_text()

    asyncio.run(execute(urls["billing"], ["drop table refunds"]))
    code, _, err = ask("--no-streams")
    assert (code, err) == (2, "the database of billing cannot be read: no such table: refunds\n")

    sqlite_file(tmp_path, "profiles").unlink()
    code, _, err = ask("--no-streams")
    assert (code, err) == (2, "there is no database of profiles\n")
    assert not sqlite_file(tmp_path, "profiles").exists()


def test_the_document_keeps_its_shape(urls: Mapping[str, str], ask: Ask) -> None:
    documents = [json.loads(ask("--json", "--no-streams")[1])]
    spoil(urls)
    documents += [
        json.loads(ask(*arguments)[1]) for arguments in (("--json", "--no-streams", "--patience", "0"), ("--json",))
    ]
    for document in documents:
        jsonschema.validate(document, SCHEMA)
    assert tuple(check["name"] for check in documents[0]["checks"]) == CHECKS
    assert [document["clean"] for document in documents] == [True, False, None]
    (failed,) = [check for check in documents[1]["checks"] if check["clean"] is False]
    assert (failed["name"], failed["offenders"], len(failed["first"])) == ("letters_of_orders", 4, 4)
    assert "no NATS server" in documents[2]["error"]


async def test_beyond_the_first_offenders_there_are_numbers(tmp_path: Path) -> None:
    urls = {name: f"sqlite:///{tmp_path / name}.db" for name in NAMES}
    await made(urls)
    await reset(urls, NAMES)
    unknown = [letter_about(1_000 + number, "joy", 1_000 + number) for number in range(NAMED + 5)]
    await execute(urls["notifications"], unknown)
    report = await audit(urls, None, patience_s=0)
    (failed,) = [check for check in report.checks if check.count]
    assert (failed.count, len(failed.first), failed.at_least) == (NAMED + 5, NAMED, False)
    assert failed.first[0].id == dashed(1_000)


@pytest.mark.prove  # ten thousand and one
async def test_there_is_an_end_to_counting(tmp_path: Path) -> None:
    urls = {name: f"sqlite:///{tmp_path / name}.db" for name in NAMES}
    await made(urls)
    await reset(urls, NAMES)
    await execute(
        urls["notifications"], [letter_about(number, "joy", number) for number in range(1_000, 1_001 + FOLLOWED)]
    )
    report = await audit(urls, None, patience_s=0)
    (failed,) = [check for check in report.checks if check.count]
    assert (failed.count, failed.at_least) == (FOLLOWED, True)


@pytest.mark.prove  # tracing allocations takes its time
async def test_memory_does_not_grow_with_the_number_of_orders(tmp_path: Path) -> None:
    urls = {name: f"sqlite:///{tmp_path / name}.db" for name in NAMES}
    await populate(urls, 30_000)
    await audit(urls, None)  # imports and caches
    tracemalloc.start()
    try:
        assert (await audit(urls, None)).clean
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 8_000_000, "three pages of 2,000 rows take a quarter of it, all rows six times as much"


@pytest.mark.parametrize(
    "arguments", [("--patience", "-1"), ("--watch", "soon"), ("--metrics-port", "0"), ("--streams",)]
)
def test_what_makes_no_sense_is_refused(ask: Ask, arguments: tuple[str, ...]) -> None:
    code, _, err = ask(*arguments)
    assert code == 2
    assert "usage:" in err


def test_a_watch_audits_again_and_answers_prometheus(
    urls: Mapping[str, str], ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    port, seen = free_port(), []

    def look(*_arguments: Any) -> None:
        """Stand beside the second audit; then end the watch as Ctrl-C does."""
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
            seen.append(answer.read().decode())
        if len(seen) == 2:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr("orderly.audit.command._print_document", lambda document, *, compact: look(document, compact))
    code, _, _ = ask("--watch", "0", "--json", "--no-streams", "--metrics-port", str(port))
    assert code == 0
    assert "orderly_audit_clean 1.0" in seen[0]
    assert len(seen) >= 2


async def buying(person: Customer, stop: asyncio.Event) -> None:
    """Order, cancel, deposit, until told to stop."""
    number = 0
    while not stop.is_set():
        number += 1
        _, order = await person.order("3")
        if number % 3 == 0 and "id" in order:
            await person.call("POST", f"/orders/{order['id']}/cancel")
        if number % 5 == 0:
            await person.call("POST", "/billing/deposits", {"amount": "1"})


@pytest.mark.prove  # in every test run: `test_faults` ends with an audit of a whole system, on either database
@pytest.mark.parametrize("database", ["sqlite", "postgres"])
async def test_a_system_is_clean_after_its_story_and_while_orders_are_placed(database: DatabaseKind) -> None:
    async with running_system(database, replicas=2) as system:
        await _story_and_motion(system)


async def _story_and_motion(system: System) -> None:
    urls = {name: system.database_url(name) for name in NAMES}
    seen: list[Seen] = []
    async with watching(system.nats_url, EVERYTHING, seen.append), aiohttp.ClientSession() as session:
        _ = [step async for step in Story(session, system.url, seen).play()]

    async def all_marked() -> bool:  # a moment after they were published
        report = await audit(urls, system.nats_url)
        assert report.offenders() == {}
        return {check.name: check.examined for check in report.checks}["facts_in_streams"] >= 10

    await eventually(all_marked, within_s=20)

    stop = asyncio.Event()
    async with customers(system) as customer:
        people = await asyncio.gather(*(customer().arrive("100") for _ in range(4)))
        shopping = [asyncio.create_task(buying(person, stop)) for person in people for _ in range(2)]
        try:
            for _ in range(5):
                report = await audit(urls, system.nats_url)
                assert report.offenders() == {}
        finally:
            stop.set()
            await asyncio.gather(*shopping)
    examined = {check.name: check.examined for check in report.checks}
    assert examined["orders_paid"] > 2
    assert examined["durables_keep_up"] == 9

    program = await asyncio.create_subprocess_exec(
        PROGRAM,
        *("audit", "--json"),
        env=environment(DATA_DIR=str(system.plan.data_dir), NATS_PORT=str(system.plan.nats_port)),
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await program.communicate()
    document = json.loads(out)
    assert (program.returncode, document["clean"]) == (0, True), document
    jsonschema.validate(document, SCHEMA)
