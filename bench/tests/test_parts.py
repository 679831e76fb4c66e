"""The command and its parts: who plays, in which order, and what is made of it."""

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import uvloop
from rich.console import Console
from uvicorn.loops.auto import auto_loop_factory
from uvicorn.protocols.http.auto import AutoHTTPProtocol

from bench import __main__ as command
from bench import orders, reads, registration, scale
from bench.contestants import CONTESTANTS, OURS, THEIRS
from bench.counters import Moment
from bench.ours import orderly
from bench.rounds import Disturbed, Length, Round, counted, schedule, undisturbed
from bench.running import Contestant
from bench.tests.made import ROUND, result
from libs.contracts.orders import OrderPlaced
from libs.local.servers import CannotStart
from libs.telemetry.metrics import Metrics


def console() -> tuple[Console, io.StringIO]:
    printed = io.StringIO()
    return Console(width=200, file=printed), printed


def test_orders_are_what_is_measured_unless_a_part_is_named() -> None:
    ((part, given),) = command.asked(["orderly", "--clients", "1", "2"])
    assert (part.name, given.contestants, given.clients) == ("orders", ["orderly"], [1, 2])
    assert [part.name for part, _ in command.asked([])] == ["orders"]
    ((part, given),) = command.asked(["reads", "--seconds", "1"])
    assert (part.name, given.seconds) == ("reads", 1.0)
    assert [part.name for part, _ in command.asked(["all", "--rounds", "2"])] == list(command.PARTS)


@pytest.mark.parametrize("arguments", [["reads", "--quick"], ["scale", "--clients", "x"], ["all", "--quick"]])
def test_what_nobody_understands_ends_it(arguments: list[str]) -> None:
    with pytest.raises(SystemExit):
        command.asked(arguments)


def test_a_name_of_nobody_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command.asked(["orderly", "bob"])
    assert "nobody is called bob; there are orderly, faststream," in capsys.readouterr().err


def test_help_names_every_part(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command.asked(["--help"])
    said = capsys.readouterr().out
    assert all(f"  {name}" in said for name in (*command.PARTS, "all"))


def test_an_address_that_is_none_is_said_at_once(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BENCH_NATS_URL", "somewhere")
    monkeypatch.setattr("sys.argv", ["bench", "orders"])
    with pytest.raises(SystemExit) as ended:
        command.main()
    assert ended.value.code == 2
    assert "BENCH_NATS_URL must be like nats://user:password@host:4222" in capsys.readouterr().out


def test_who_is_compared_stands_side_by_side() -> None:
    plays = orders.chosen([], None)
    assert [clients for clients, _ in plays] == sorted(clients for clients, _ in plays)
    for clients in (1, 64, 256):
        assert [name for number, name in plays if number == clients][:2] == [OURS, THEIRS]
    assert {name for _, name in plays} == set(CONTESTANTS)
    assert orders.chosen(["one-by-one"], None) == [(64, "one-by-one")]
    assert orders.chosen(["faststream", "orderly"], [8]) == [(8, "orderly"), (8, "faststream")]


def test_a_full_run_takes_a_quarter_of_an_hour() -> None:
    given = orders.PART.parser().parse_args([])
    around_s = 9  # to start, open accounts, audit, and stop
    plays = len(orders.chosen([], None))
    assert given.rounds * plays * (given.seconds + given.warm_up + around_s) <= 15 * 60


def test_drift_hits_everybody_alike() -> None:
    plays = ["a", "b", "c"]
    assert [schedule(number, plays) for number in (1, 2, 3)] == [plays, ["c", "b", "a"], plays]
    places = {one: [schedule(number, plays).index(one) for number in (1, 2)] for one in plays}
    assert {sum(some) for some in places.values()} == {2}


async def test_who_is_disturbed_plays_again_and_not_for_ever() -> None:
    disturbed = iter([0.5, 0.06, 0.02, 0.01])

    async def attempt() -> float:
        return next(disturbed)

    assert await undisturbed(attempt, lambda share: share, 0.05) == 0.02

    async def always() -> float:
        return 0.5

    with pytest.raises(Disturbed, match="others took 50% of the machine, 5 times"):
        await undisturbed(always, lambda share: share, 0.05)


def moment(**changed: Any) -> Moment:
    given = {"machine_cpu_s": 10.0, "own_cpu_s": 5.0, "cpu_s": {"orders": 1.0}, "flushes": 7, "stored": 9}
    return Moment(**{**given, "disk_flushes": None, **changed})


def test_what_an_order_takes_is_the_difference_of_the_edges(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _pid: {0, 1})
    seen = {"seconds": [0.1] * 4, "outcomes": {"confirmed": 4}, "failures": {"500": 1}, "pending": 1}
    after = moment(machine_cpu_s=16.0, own_cpu_s=10.0, cpu_s={"orders": 1.2}, flushes=9, stored=25)
    played = counted(moment(), after, seen=seen, clients=8, seconds=5.0, kept={"orders": 1})
    assert played.cpu_us == {"orders": pytest.approx(50_000)}
    assert (played.flushes, played.stored, played.disk_flushes) == (0.5, 4.0, None)
    assert played.foreign == pytest.approx(0.1)  # a second of ten
    assert (played.per_second, played.failures, played.pending) == (0.8, {"500": 1}, 1)


async def test_what_was_measured_before_a_disturbance_is_shown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    played: list[str] = []

    async def play(contestant: Contestant, clients: int, length: Length) -> Round:
        if played:
            raise Disturbed("others took 50% of the machine")
        played.append(contestant.name)
        return ROUND

    async def no_yardstick(length: Length) -> float:
        return 100.0

    monkeypatch.setattr(orders, "play", play)
    monkeypatch.setattr(orders, "yardstick", no_yardstick)
    given = orders.PART.parser().parse_args(
        ["orderly", "faststream", "--clients", "64", "--out", str(tmp_path / "out")]
    )
    out, printed = console()
    with pytest.raises(Disturbed):
        await orders.run(given, out)
    assert "50.0 (50.0 to 50.0)" in printed.getvalue()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("slower", "code"), [(13.0, 0), (11.0, 1)])
def test_the_gate(slower: float, code: int) -> None:
    out, printed = console()
    assert orders.gate([result(OURS), result(THEIRS, slower=slower)], out) == code
    assert f"{slower} times, at least 12 wanted" in printed.getvalue()
    assert orders.gate([result(OURS), result(THEIRS, slower=99, wrong=("x",))], out) == 1
    assert f"no result: {THEIRS}: x" in printed.getvalue()


@pytest.mark.parametrize(
    ("slower", "rounds", "code"), [((13,), 1, 0), ((10, 16), 2, 0), ((10, 13, 14), 3, 0), ((10, 11, 11), 3, 1)]
)
async def test_a_round_below_the_gate_is_not_the_last_word(
    monkeypatch: pytest.MonkeyPatch, slower: tuple[float, ...], rounds: int, code: int
) -> None:
    theirs = [replace(ROUND, lasted_s=ROUND.lasted_s * times) for times in slower]
    played: list[str] = []

    async def play(contestant: Contestant, clients: int, length: Length) -> Round:
        played.append(contestant.name)
        return ROUND if contestant.name == OURS else theirs.pop(0)

    monkeypatch.setattr(orders, "play", play)
    assert await orders.run(orders.PART.parser().parse_args(["--quick"]), console()[0]) == code
    assert played.count(OURS) == played.count(THEIRS) == rounds


async def test_who_answers_nothing_at_the_gate_is_no_result(monkeypatch: pytest.MonkeyPatch) -> None:
    async def play(contestant: Contestant, clients: int, length: Length) -> Round:
        return ROUND if contestant.name == OURS else replace(ROUND, seconds=())

    monkeypatch.setattr(orders, "play", play)
    out, printed = console()
    assert await orders.run(orders.PART.parser().parse_args(["--quick"]), out) == 1
    assert f"no result: {THEIRS}: no order had its outcome" in printed.getvalue()


def test_reads_are_compared_answer_by_answer() -> None:
    slow = replace(ROUND, lasted_s=12.0)
    ours, theirs = reads.Reads(OURS, "order", [ROUND]), reads.Reads(THEIRS, "order", [slow])
    others = reads.Reads(THEIRS, "letters", [slow])
    assert reads.ratios([ours, theirs, others]) == ["order: 6.0 times the reads/s of faststream, 5 wanted"]
    failing = reads.Reads(THEIRS, "order", [replace(slow, failures={"500": 2})])
    assert failing.wrong == ["2 reads failed (500)"]
    assert reads.ratios([ours, failing]) == []
    out, printed = console()
    reads.show([ours, failing], out)
    assert "no result: 2 reads failed (500)" in printed.getvalue()
    assert ours.as_json()["reads_per_second"] == {"median": 50.0, "least": 50.0, "most": 50.0}


def test_only_the_same_answers_are_compared() -> None:
    page = {"items": [{"id": "1", "order": None}, {"id": "2", "order": "3"}], "next": None}
    assert reads.shape(page) == {"items": [{"id": "value", "order": "value"}], "next": "value"}
    shapes: dict[str, Any] = {OURS: {"letters": reads.shape(page)}, THEIRS: {"letters": reads.shape({"items": []})}}
    assert reads.unlike(shapes, OURS, "letters") == []
    (said,) = reads.unlike(shapes, THEIRS, "letters")
    assert said == "another answer: {'items': []}"
    assert reads.Reads(THEIRS, "letters", [ROUND], [said]).wrong == [said]
    assert reads.unlike({THEIRS: shapes[THEIRS]}, THEIRS, "letters") == []


def test_the_usual_stack_has_the_faster_loop_and_parser() -> None:
    assert AutoHTTPProtocol.__module__ == "uvicorn.protocols.http.httptools_impl"
    assert auto_loop_factory() is uvloop.new_event_loop


def test_the_share_of_argon2() -> None:
    one = replace(ROUND, cpu_us={"auth": 40_000.0, "nats": 10_000.0})
    shown = registration.Registrations([one, one], [0.030, 0.030])
    assert shown.share_of_all.median == pytest.approx(0.6)
    assert shown.share_of_auth.median == pytest.approx(0.75)
    out, printed = console()
    registration.show(shown, out)
    assert "argon2 takes 60% of the CPU of all processes" in printed.getvalue()
    wrong = registration.Registrations([replace(one, wrong=("x",))], [0.030])
    registration.show(wrong, out)
    assert "no result: x" in printed.getvalue()


async def test_a_hash_is_worth_measuring() -> None:
    assert 0.001 < await registration.hash_cpu_s(2) < 1


def scaled(*shares: int, placed: int = 10, **changed: Any) -> scale.Scaled:
    whole = {"billing": list(shares), "notifications": [placed]}
    return scale.Scaled(replace(ROUND, **changed), whole, {"billing": placed, "notifications": placed})


def test_replicas_share_the_work() -> None:
    shown = scale.Scale(2, [scaled(4, 6), scaled(2, 8)])
    assert shown.wrong == []
    assert shown.shares("billing") == [0.3, 0.7]
    out, printed = console()
    scale.show([shown], out)
    assert "30% 70%" in printed.getvalue()
    assert shown.as_json()["cpu_us_by_service"] == {"orders": 100.0, "nats": 50.0}


@pytest.mark.parametrize(
    ("one", "wrong"),
    [
        (scaled(4, 7), ["1 facts were handled twice"]),
        (scaled(4, 5), ["1 facts were handled by nobody"]),
        (scaled(4, 6, failures={"pending": 2}), ["2 orders without an outcome (pending)"]),
        (scaled(4, 6, wrong=("x",)), ["x"]),
    ],
)
def test_replicas_that_do_not_work_as_one_have_no_result(one: scale.Scaled, wrong: list[str]) -> None:
    assert scale.Scale(2, [scaled(5, 5), one]).wrong == wrong


def test_metrics_say_what_a_process_has_handled() -> None:
    metrics = Metrics()
    for kind, size in ((OrderPlaced.type, 3), (OrderPlaced.type, 4), ("orders.order.cancelled", 5)):
        metrics.committed(kind, size, 0.1)
    assert scale.handled_in(metrics.text()[0].decode(), OrderPlaced.type) == 7


async def test_how_a_given_server_flushes_is_not_ours_to_choose(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("BENCH_NATS_URL", "nats://127.0.0.1:4222")
    with pytest.raises(CannotStart, match="BENCH_NATS_URL is set"):
        async with orderly(tmp_path, sync_interval="2m"):
            pass
