"""Stories from seeds: every invariant holds, the same seed is the same story, and mistakes are found."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

from orderly.__main__ import main
from orderly.simulation import invariants
from orderly.simulation.simulate import Theatre, theatre
from orderly.tests.mutations import MUTATIONS, give_up_at_the_first_failure, lose_the_refund

FOUND_WITHIN = 250
"""Stories that may be told until a mistake is found. Most are found by the first three."""

TOLD = """
from orderly.simulation.simulate import theatre
with theatre() as stage:
    print([stage.tell(seed) for seed in (7, 12)])
"""


@pytest.fixture(scope="module")
def stage() -> Iterator[Theatre]:
    with theatre() as stage:
        yield stage


def fails(stage: Theatre, seeds: range) -> list[str]:
    return [f"seed {seed}: {told.violations}" for seed in seeds if (told := stage.tell(seed)).violations]


def test_every_invariant_holds(stage: Theatre) -> None:
    assert fails(stage, range(1, 31)) == []


@pytest.mark.prove
@pytest.mark.timeout(900)
@pytest.mark.parametrize("first", range(1, 1001, 250))
def test_every_invariant_holds_in_a_thousand_stories(stage: Theatre, first: int) -> None:
    assert fails(stage, range(first, first + 250)) == []


def test_the_same_seed_is_the_same_story_with_and_without_a_trace_and_after_others(stage: Theatre) -> None:
    alone = stage.tell(7)
    stage.tell(8)
    traced = stage.tell(7, trace=True)

    assert traced == alone
    assert any("billing#" in line for line in traced.trace)
    assert stage.tell(8) != alone


@pytest.mark.prove
@pytest.mark.timeout(300)
def test_the_same_seed_is_the_same_story_in_another_process() -> None:
    told = []
    for hash_seed in ("1", "2"):  # what depends on the order of a set of names would differ
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        ran = subprocess.run(
            [sys.executable, "-c", TOLD], env=environment, capture_output=True, text=True, check=True, timeout=140
        )
        told.append(ran.stdout)
    assert told[0] == told[1]


def test_a_story_that_fails_is_shown_with_its_seed_and_its_steps(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lose_the_refund(monkeypatch)

    with pytest.raises(SystemExit) as ended:
        main(["simulate", "--stories", "20"])

    shown = capsys.readouterr().out
    assert ended.value.code == 1
    assert "just simulate --seed" in shown
    assert "moved 0" in shown
    assert "/cancel" in shown


def test_a_story_that_holds_is_told_in_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["simulate", "--seed", "3"])

    assert ended.value.code == 0
    assert "every invariant holds" in capsys.readouterr().out


@pytest.mark.prove
@pytest.mark.timeout(900)
@pytest.mark.parametrize("mistake", MUTATIONS, ids=lambda mistake: mistake.__name__)
def test_a_mistake_is_found(
    mistake: Callable[[pytest.MonkeyPatch], None], stage: Theatre, monkeypatch: pytest.MonkeyPatch
) -> None:
    mistake(monkeypatch)

    assert any(stage.tell(seed).violations for seed in range(1, FOUND_WITHIN + 1))


def test_what_is_set_aside_is_a_violation(stage: Theatre, monkeypatch: pytest.MonkeyPatch) -> None:
    give_up_at_the_first_failure(monkeypatch)
    monkeypatch.setattr(invariants, "unsettled", lambda _world: iter(()))

    assert any("aside" in text for seed in range(1, 30) for text in stage.tell(seed).violations)
