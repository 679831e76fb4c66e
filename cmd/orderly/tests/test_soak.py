"""The soak: its schedule, its figures, its report; and, as long proofs, the system under all of its faults."""

import asyncio
import io
import json
import os
import re
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from aiohttp import ClientSession, web
from nats.aio.client import Client
from rich.console import Console

from libs.contracts import stream_of
from libs.local.servers import free_port
from libs.local.supervisor import environment
from orderly.__main__ import _parser
from orderly.audit.looking import consumed
from orderly.faults import Fault
from orderly.faults.broker import LOSSES, cut_newest_block
from orderly.faults.every import EVERY, faults_on
from orderly.faults.network import WiredSystem
from orderly.services import NAMES
from orderly.settings import Settings
from orderly.soak import command, memory, people
from orderly.soak.books import disagreements
from orderly.soak.duplicates import handled_again
from orderly.soak.memory import Life
from orderly.soak.meter import Pause, each_second, pauses, worst
from orderly.soak.people import Answer, Contradiction, Notes, Ordered, Person, Sent
from orderly.soak.plot import plot
from orderly.soak.report import Report, as_json
from orderly.soak.schedule import APART_S, Planned, schedule
from orderly.soak.soak import Wanted, soak
from orderly.soak.view import show
from orderly.system import DatabaseKind, Plan, System
from orderly.tests.hurrying import Hurried
from orderly.tests.soaked import audited, soaked
from orderly.tests.systems import running_system

# Faults and their schedule


def test_every_fault_has_a_name_of_its_own_and_says_what_it_is() -> None:
    assert max(Counter(fault.name for fault in EVERY).values()) == 1
    for fault in EVERY:
        assert re.fullmatch(r"[a-z]+(-[a-z]+)+", fault.name)
        assert fault.says == fault.says.strip(". ")
        assert fault.databases <= {"sqlite", "postgres"}


def planned(seed: int = 3, seconds: float = 600, faults: tuple[Fault, ...] = EVERY) -> list[Planned]:
    return schedule(faults, LOSSES, seed=seed, seconds=seconds, rest_s=40)


def test_a_seed_gives_the_same_schedule_again_and_another_one_another() -> None:
    assert planned(3) == planned(3)
    assert [one.fault for one in planned(3)] != [one.fault for one in planned(4)]


@pytest.mark.parametrize("seed", range(20))
def test_every_fault_comes_before_any_comes_again(seed: int) -> None:
    for kind in (LOSSES, tuple(fault for fault in EVERY if fault not in LOSSES)):
        dealt = [one.fault.name for one in planned(seed) if one.fault in kind]
        assert {fault.name for fault in kind} == set(dealt[: len(kind)])


@pytest.mark.parametrize("seed", range(20))
def test_faults_follow_one_another_and_losses_are_left_time(seed: int) -> None:
    found = planned(seed)
    assert found[0].fault in LOSSES
    for one, other in pairwise(found):
        assert one.at_s + one.held_s + APART_S[0] <= other.at_s
    for one, other in pairwise([one for one in found if one.fault in LOSSES]):
        assert other.at_s - one.at_s >= 60
    assert all(one.at_s + (40 if one.fault in LOSSES else one.held_s + APART_S[1]) <= 600 for one in found)


def test_nothing_happens_in_a_soak_that_is_too_short_for_it() -> None:
    assert planned(seconds=5) == []
    assert {one.fault in LOSSES for one in planned(seconds=35)} == {False}
    assert planned(faults=()) == []


def test_the_newest_block_of_a_stream_is_cut(tmp_path: Path) -> None:
    for number in (2, 9, 10):
        (tmp_path / f"{number}.blk").write_bytes(b"x" * 100)
    (tmp_path / "index.db").write_bytes(b"x" * 100)
    cut_newest_block(tmp_path)
    assert {path.name: path.stat().st_size for path in tmp_path.iterdir()} == {
        "2.blk": 100,
        "9.blk": 100,
        "10.blk": 50,
        "index.db": 100,
    }


# Figures


def test_orders_are_counted_second_by_second() -> None:
    assert each_second([0.1, 0.9, 2.0, 3.5], 3.7) == [2, 0, 1]
    assert each_second([], 2) == [0, 0]


def test_the_worst_pause_may_be_at_the_beginning_in_the_middle_or_at_the_end() -> None:
    assert worst(pauses([5, 6, 7], 8), 0, 8) == Pause(0, 5)
    assert worst(pauses([1, 4, 5], 6), 0, 6) == Pause(1, 4)
    assert worst(pauses([1, 2], 9), 0, 9) == Pause(2, 9)
    assert worst(pauses([], 9), 0, 9) == Pause(0, 9)
    assert worst(pauses([1, 12], 9), 0, 9) == Pause(1, 9), "what was confirmed after the load does not count"


def test_the_pause_at_a_fault_begins_with_it_and_may_outlast_the_next_one() -> None:
    found = pauses([1, 9, 10, 11], 12)
    assert worst(found, 3, 5) == Pause(3, 9)
    assert worst(found, 10.5, 12) == Pause(10.5, 11) or worst(found, 10.5, 12).seconds == 1
    assert worst([], 3, 5).seconds == 0


def life(*sizes_mb: float, label: str = "billing", pid: int = 1, every_s: float = 10) -> Life:
    return Life(label, pid, [(place * every_s, int(size * 1e6)) for place, size in enumerate(sizes_mb)])


def test_memory_that_stays_is_flat_and_memory_that_grows_is_not() -> None:
    steady, growing = life(*([80] * 31)), life(*range(80, 111))
    assert steady.flat(600) is True
    assert growing.flat(600) is False
    assert life(*[50] * 3, *[90] * 28).flat(600) is True, "what is taken at the beginning is no growth"
    assert life(*[50] * 24, *[57] * 7).flat(600) is True, "less than 8 MB"
    assert life(*[200] * 24, *[219] * 7).flat(600) is True, "less than a tenth"
    assert life(*[200] * 24, *[221] * 7).flat(600) is False
    assert life(*[50] * 15, *[150] * 16).flat(600) is True, "what is taken at once, and no more since"
    assert memory.flat([steady, growing], 600) is False
    assert memory.flat([steady, life(1, 2, 3)], 600) is True


def test_memory_is_not_judged_by_too_little() -> None:
    assert life(*range(80, 111)).flat(299) is None, "a short soak"
    assert life(*range(80, 91)).flat(600) is None, "a process that lived shortly"
    assert memory.flat([], 600) is None


def test_memory_at_a_moment_is_that_of_the_process_that_ran() -> None:
    first, second = life(10, 20, 30), Life("billing", 2, [(30.0, 40), (40.0, 50)])
    assert memory.at([first, second], 25) == {"billing": 30_000_000}
    assert memory.at([first, second], 35) == {"billing": 40}
    assert memory.at([Life("late", 3, [(30.0, 40)])], 5) == {"late": 40}


async def test_resident_memory_is_measured_where_it_can_be() -> None:
    if Path("/proc/self/status").exists():
        assert (memory.resident(os.getpid()) or 0) > 1_000_000
    assert memory.resident(2**22 + 1) is None


def test_messages_handled_again_are_counted_by_service_over_all_of_its_logs(tmp_path: Path) -> None:
    def handled(*ids: str) -> str:
        return json.dumps({"service": "x", "event": "handled", "message_ids": ids}, separators=(",", ":")) + "\n"

    (tmp_path / "billing.log").write_text(handled("a", "b") + '{"event":"other","message_ids":["a"]}\n' + handled("a"))
    (tmp_path / "billing.old.log").write_text(handled("b"))
    (tmp_path / "billing-2.log").write_text(handled("a")[:30] + "\n" + handled("c", "a"))
    (tmp_path / "orders.log").write_text(handled("a", "b"))
    assert handled_again(tmp_path, ("billing", "orders", "auth")) == 3


# The report


def test_the_report_as_json_says_what_was_asked_of_it() -> None:
    said = json.loads(json.dumps(as_json(soaked(faults=2))))
    assert (said["clean"], said["faults_survived"], said["orders"]) == (True, 2, {"confirmed": 3})
    assert said["duplicates_absorbed"] == {"requests": 2, "messages": 3}
    assert said["worst_pause"] == {"begin_s": 2, "seconds": 57}
    assert [fault["worst_pause_s"] for fault in said["faults"]] == [56, 53]
    assert (len(said["confirmed_each_second"]), sum(said["confirmed_each_second"])) == (60, 3)
    assert said["audit"]["clean"]
    assert said["memory"] == {"flat": None, "processes": {}}


@pytest.mark.parametrize(
    "wrong",
    [
        {"settled": False},
        {"contradictions": ["an order is missing"]},
        {"troubles": ["the broker does not start"]},
        {"audited": None},
        {"audited": audited(offenders=1)},
    ],
    ids=lambda wrong: next(iter(wrong)),
)
def test_a_soak_in_which_anything_is_wrong_is_not_clean(wrong: dict[str, Any]) -> None:
    assert soaked().clean
    report = soaked(**wrong)
    assert not report.clean
    assert not as_json(report)["clean"]
    assert "NOT CLEAN" in plot(report)
    assert "✗" in shown(report)


def shown(report: Report) -> str:
    out = io.StringIO()
    show(report, Console(file=out, width=200, markup=False))
    return out.getvalue()


def test_the_report_has_the_memory_of_every_process() -> None:
    said = as_json(soaked(lives=[life(*range(80, 380)), life(50, 60, label="orders")], seconds=600.0))["memory"]
    assert said["flat"] is False
    assert (said["processes"]["billing"]["flat"], said["processes"]["orders"]["flat"]) == (False, None)
    (own,) = said["processes"]["billing"]["lives"]
    assert (own["bytes_in_second_fifth"], own["bytes_in_last_fifth"]) == (169_500_000, 349_500_000)
    assert (own["samples"][0], len(own["samples"])) == ([0.0, 80_000_000], 100)
    (own,) = said["processes"]["orders"]["lives"]
    assert own["bytes_in_last_fifth"] == 60_000_000


@pytest.mark.parametrize("settled", [True, False], ids=["clean", "not clean"])
async def test_the_exit_code_says_whether_it_was_clean_and_only_then_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], settled: bool
) -> None:
    folders: list[Path] = []

    async def done(_wanted: Wanted, plan: Plan, _out: Console) -> Report:
        folders.append(plan.data_dir)
        return soaked(settled=settled)

    monkeypatch.setattr(command, "_soaked", done)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    given = _parser().parse_args(["soak", "1", "postgres", "--seed", "5", "--replicas", "2"])
    code = await command.perform(given, Settings(data_dir=tmp_path / "data"))
    assert code == (0 if settled else 1)
    assert {path.name for path in (tmp_path / "data" / "soak").iterdir()} == {
        "soak-postgres-5.json",
        "soak-postgres-5.svg",
    }
    assert [folder.exists() for folder in folders] == [not settled]
    assert "just soak 1 postgres --seed 5 --replicas 2" in capsys.readouterr().out


def test_people_are_shown_everything() -> None:
    text = shown(soaked(lives=[life(*[80] * 31)], seconds=600.0))
    assert "✗" not in text
    for part in (
        "fault-2  <something> & more (billing)",
        "3 confirmed",
        "3 messages delivered again",
        "billing",
        "flat",
        "✓ the books balance",
    ):
        assert part in text


def test_many_faults_are_explained_by_their_kind() -> None:
    texts = [one.text or "" for one in ET.fromstring(plot(soaked(faults=60, seconds=600.0))).iter()]
    assert [text for text in texts if "<something> & more" in text] == ["<something> & more, 60 times  [541.0 s]"]
    assert texts.count("1") > 30


@pytest.mark.parametrize("faults", [0, 1, 2, 31])
@pytest.mark.parametrize("confirmed_s", [(), tuple(second / 40 for second in range(2000))], ids=["none", "many"])
def test_the_picture_has_a_band_a_number_and_a_line_for_each_fault(faults: int, confirmed_s: tuple[float, ...]) -> None:
    report = soaked(faults=faults, confirmed_s=confirmed_s, seconds=120.0)
    root = ET.fromstring(plot(report))
    svg = "{http://www.w3.org/2000/svg}"
    assert len([one for one in root.iter(f"{svg}rect") if one.get("opacity")]) == faults
    assert len(list(root.iter(f"{svg}circle"))) == 2 * faults
    texts = [one.text or "" for one in root.iter(f"{svg}text")]
    assert sum("<something> & more (billing)" in text for text in texts) == faults
    assert {"Orders confirmed per second", "orders / s", "time (min:s)", "0:00", "2:00"} <= set(texts)
    width, height = (float(root.get(side) or 0) for side in ("width", "height"))
    for one in root.iter():
        assert 0 <= float(one.get("x", 0)) <= width
        assert 0 <= float(one.get("y", 0)) <= height
    (area,) = root.iter(f"{svg}path")
    assert len(re.findall("L", area.get("d") or "")) == 2 * 120 + 1


# People


class Told(Person):
    """Somebody who is told what stands here, instead of asking."""

    def __init__(self, **answers: Any) -> None:
        super().__init__(None, "", Random(1), Notes(lambda: None))  # type: ignore[arg-type] # asks nobody
        self.answers = {path.replace("_", "/"): answer for path, answer in answers.items()}

    async def _once(self, method: str, path: str, body: Any, key: str) -> Any:
        answer = self.answers[path.partition("?")[0].strip("/")]
        return Answer(200, {"items": answer, "next": None} if isinstance(answer, list) else answer)


def somebody(**changed: Any) -> Told:
    """A person who brought 100, ordered for 10, ordered too much, and cancelled an order for 5: all as it must be."""
    orders = [
        {"id": "a", "status": "confirmed", "price": "10.00"},
        {"id": "b", "status": "rejected", "price": "900.00"},
        {"id": "c", "status": "cancelled", "price": "5.00"},
    ]
    moves = [("d", "100.00", None), ("a", "-10.00", "a"), ("c", "-5.00", "c"), ("r", "5.00", "c")]
    statement = [{"id": one, "amount": amount, "order_id": order} for one, amount, order in moves]
    letters = [{"order_id": one, "kind": kind} for one, kind in (("a", "joy"), ("b", "sorrow"), ("c", "cancelled"))]
    given = {"orders": orders, "billing_statement": statement, "notifications": letters}
    person = Told(**{**given, "billing_account": {"balance": "90.00"}, **changed})
    person.orders = {
        "a": Ordered(Decimal(10), dear=False, status="confirmed"),
        "b": Ordered(Decimal(900), dear=True, status="rejected"),
        "c": Ordered(Decimal(5), dear=False, status="cancelled", cancelled=True),
    }
    person.moved = {"d": Decimal(100)}
    return person


async def test_nothing_is_said_where_everything_is_as_it_was_told() -> None:
    assert await disagreements(somebody(), 0) == []


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"orders": []}, "order a was taken, and is not there"),
        ({"orders": [{"id": "x", "status": "confirmed", "price": "1"}]}, "order x is there, and nobody was told"),
        ({"orders": [{"id": "a", "status": "rejected", "price": "10"}]}, "order a should be confirmed"),
        ({"orders": [{"id": "c", "status": "confirmed", "price": "5"}]}, "order c should be cancelled"),
        ({"orders": [{"id": "a", "status": "confirmed", "price": "11"}]}, "order a should be confirmed for 10"),
        ({"billing_statement": []}, "the statement has {}"),
        ({"billing_statement": [{"id": "a", "amount": "-10", "order_id": "a"}] * 2}, "and 20 was taken"),
        ({"billing_statement": [{"id": "c", "amount": "-5", "order_id": "c"}]}, "order c should have cost 0"),
        ({"billing_account": {"balance": "91.00"}}, "the balance should be 90.00, and is 91.00"),
        ({"notifications": []}, "no letter of joy about order a"),
        ({"notifications": [{"order_id": "a", "kind": "joy"}] * 2}, "2 letters of joy about order a"),
    ],
)
async def test_whatever_is_not_as_it_was_told_is_said(changed: dict[str, Any], said: str) -> None:
    found = await disagreements(somebody(**changed), 0)
    assert any(said in one for one in found), found


async def test_the_same_key_must_have_the_same_answer() -> None:
    person = somebody(billing_deposits={"id": "d", "balance": "100.00"})
    person.sent = [Sent("/billing/deposits", {}, "key", Answer(201, {"id": "d", "balance": "100.00"}))]
    assert await disagreements(person, 0) == []
    person.sent = [Sent("/billing/deposits", {}, "key", Answer(201, {"id": "e", "balance": "100.00"}))]
    assert "the same key now" in "".join(await disagreements(person, 0))


class Door:
    """A system that answers what stands here, one after the other; None cuts the connection."""

    def __init__(self, *answers: tuple[int, Any] | None) -> None:
        self.answers = list(answers)
        self.keys: list[str | None] = []

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.keys.append(request.headers.get("Idempotency-Key"))
        answer = self.answers.pop(0)
        if answer is None:
            assert request.transport is not None
            request.transport.close()
            return web.Response()
        return web.json_response(answer[1], status=answer[0])


@asynccontextmanager
async def asking(door: Door) -> AsyncIterator[tuple[Person, Notes]]:
    """Give somebody who asks at this door."""
    port, application = free_port(), web.Application()
    application.router.add_route("*", "/{rest:.*}", door.answer)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    notes = Notes(lambda: None)
    async with ClientSession() as session:
        yield Person(session, f"http://127.0.0.1:{port}", Random(1), notes), notes
    await runner.cleanup()


async def test_a_request_is_sent_under_its_key_until_there_is_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(people, "AGAIN_AFTER_S", 0.01)
    door = Door((503, {}), None, (404, {}), (201, {"id": "d"}))
    async with asking(door) as (person, notes):
        await person._move("deposits", Decimal(5))
    assert person.moved == {"d": Decimal(5)}
    assert (len(door.keys), len(set(door.keys)), None in door.keys) == (4, 1, False)
    assert (notes.sent_again, notes.contradictions) == (3, [])


async def test_an_answer_that_the_contract_does_not_have_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(people, "AGAIN_AFTER_S", 0.01)
    async with asking(Door((500, {}), (201, {"id": "d"}))) as (person, notes):
        await person._move("deposits", Decimal(5))
    assert "was answered 500" in "".join(notes.contradictions)
    async with asking(Door((409, {}))) as (person, notes):
        with pytest.raises(Contradiction, match="was answered 409"):
            await person._move("deposits", Decimal(5))


async def test_what_was_decided_stays_decided() -> None:
    person = somebody()
    with pytest.raises(Contradiction, match="was rejected, and is now said to be confirmed"):
        person._learn({"id": "b", "status": "confirmed"})
    person._learn({"id": "a", "status": "cancelled"})
    assert person._notes.outcomes == {"cancelled": 1}


# The system


@pytest.mark.prove
@pytest.mark.timeout(400)
@pytest.mark.parametrize(("database", "seed"), [("sqlite", 17), ("postgres", 48)])
async def test_a_broker_that_forgets_at_random_moments_under_load(database: DatabaseKind, seed: int) -> None:
    """Everything, the newest half, the time since a copy, a stream and a consumer alone: all of them in one run."""
    async with running_system(database, kind=Hurried) as system:
        report = await soak(system, Wanted(45, seed, LOSSES, rest_s=4), stop=asyncio.Event())
        assert_clean(report)
        assert {one.fault.name for one in report.faults} == {fault.name for fault in LOSSES}
        assert report.handled_again > 0, "nothing was told again"
        assert await consumers_of(system) == {name: set(durables) for name, durables in consumed().items()}


@pytest.mark.prove
@pytest.mark.timeout(400)
@pytest.mark.parametrize(("database", "seed"), [("sqlite", 6), ("postgres", 4)])
async def test_a_minute_under_load_with_faults_of_all_kinds(database: DatabaseKind, seed: int) -> None:
    async with running_system(database, kind=WiredSystem) as system:
        report = await soak(system, Wanted(60, seed, faults_on(database)), stop=asyncio.Event())
        assert_clean(report)
        assert len(report.survived) >= 5
        assert await consumers_of(system) == {name: set(durables) for name, durables in consumed().items()}


@pytest.mark.prove
@pytest.mark.timeout(300)
async def test_the_program_writes_its_report_also_when_it_is_told_to_end_early(tmp_path: Path) -> None:
    program, out = Path(sys.executable).parent / "orderly", tmp_path / "out"
    soaking = await asyncio.create_subprocess_exec(
        *(program, "soak", "5", "sqlite", "--seed", "2", "--out", out),
        env=environment(TMPDIR=str(tmp_path)),
        stdout=asyncio.subprocess.PIPE,
    )
    assert soaking.stdout is not None
    said = ""
    while not re.search(r"[1-9]\d* orders confirmed", said):
        line = await soaking.stdout.readline()
        assert line, said
        said += line.decode()
    soaking.send_signal(signal.SIGINT)
    rest, _ = await soaking.communicate()
    assert soaking.returncode == 0, rest.decode()
    assert "the same faults again: just soak 5 sqlite --seed 2\n" in said
    assert "✓ HTTP and the books agree" in rest.decode()
    report = json.loads((out / "soak-sqlite-2.json").read_text())
    assert report["clean"]
    assert report["seconds"] < 300
    assert ET.parse(out / "soak-sqlite-2.svg").getroot().tag.endswith("svg")
    assert list(tmp_path.iterdir()) == [out], "the system's folder is left"


def assert_clean(report: Report) -> None:
    wrong = report.audited.offenders() if report.audited else "could not be audited"
    assert report.clean, (report.troubles, report.settled, report.contradictions[:9], wrong)


async def consumers_of(system: System) -> dict[str, set[str]]:
    """Name the durable consumers of every service's stream, as the broker knows them."""
    client = Client()
    await client.connect(system.nats_url)  # as the observer
    found = {name: await client.jetstream().consumers_info(stream_of(name)) for name in NAMES}
    await client.close()
    return {name: {info.name for info in infos} for name, infos in found.items()}
