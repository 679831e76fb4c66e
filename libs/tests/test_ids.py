"""Identifiers that sort in the order in which they were made."""

import os
import sys
import threading
import time
from functools import partial
from itertools import pairwise
from types import SimpleNamespace
from uuid import RFC_4122, UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from libs import ids
from libs.ids import random_8, uuid7


def millis_of(made: UUID) -> int:
    return made.int >> 80


def fraction_of(made: UUID) -> int:
    return (made.int >> 64) & 0xFFF


def at(monkeypatch: pytest.MonkeyPatch, *nanoseconds: int) -> None:
    """Let the clock show these times, one after the other."""
    shown = iter(nanoseconds)
    monkeypatch.setattr(ids, "time", SimpleNamespace(time_ns=lambda: next(shown)))
    monkeypatch.setattr(ids, "_last", 0)


def test_an_id_is_a_uuid_of_version_seven() -> None:
    for _ in range(100):
        made = uuid7()
        assert made.version == 7
        assert made.variant == RFC_4122
        assert UUID(str(made)) == made


def test_an_id_begins_with_its_time() -> None:
    before = time.time_ns() // 1_000_000
    made = uuid7()
    after = time.time_ns() // 1_000_000
    # Tests that make ids faster than the clock counts run ahead of it by at most a moment.
    assert before <= millis_of(made) <= after + 1


@settings(deadline=None)
@given(st.integers(0, (1 << 48) - 1), st.integers(0, 999_999))
def test_the_fraction_of_the_millisecond_follows_its_time(millis: int, rest: int) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        at(monkeypatch, millis * 1_000_000 + rest)
        monkeypatch.setattr(ids, "_last", -1)
        made = uuid7()
    assert (millis_of(made), fraction_of(made)) == (millis, rest * 4096 // 1_000_000)


def test_each_id_is_greater_than_the_one_before() -> None:
    made = [uuid7() for _ in range(20_000)]
    assert all(earlier < later for earlier, later in pairwise(made))
    assert sorted(map(str, made)) == [str(one) for one in made]


def test_ids_grow_even_when_the_clock_stands_still_or_goes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1_767_225_600_000_000_000
    at(monkeypatch, *[now] * 5_000, now - 60_000_000_000, now - 1, now + 1_000_000_000)
    made = [uuid7() for _ in range(5_003)]
    assert all(earlier < later for earlier, later in pairwise(made))
    assert millis_of(made[0]) == now // 1_000_000
    assert millis_of(made[-2]) == now // 1_000_000 + 1  # 4096 fit into a millisecond, the rest into the next
    assert millis_of(made[-1]) == now // 1_000_000 + 1_000


def test_threads_never_make_the_same_id_and_each_sees_its_own_grow(
    monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    # A clock that stands still and threads that take turns all the time: without the lock, some would be equal.
    monkeypatch.setattr(ids, "time", SimpleNamespace(time_ns=lambda: 1_767_225_600_000_000_000))
    monkeypatch.setattr(ids, "_last", 0)
    request.addfinalizer(partial(sys.setswitchinterval, sys.getswitchinterval()))
    sys.setswitchinterval(1e-6)
    made: list[list[UUID]] = [[] for _ in range(4)]
    start = threading.Barrier(len(made))

    def make(mine: list[UUID]) -> None:
        start.wait()
        mine.extend(uuid7() for _ in range(4_000))

    threads = [threading.Thread(target=make, args=(mine,)) for mine in made]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for mine in made:
        assert all(earlier < later for earlier, later in pairwise(mine))
    stamps = {one.int >> 64 for mine in made for one in mine}
    assert len(stamps) == 16_000  # not only their random tails differ


def test_what_is_drawn_is_never_the_same_nor_the_systems_again() -> None:
    drawn = [random_8() for _ in range(2_000)]
    assert {len(one) for one in drawn} == {8}
    assert len(set(drawn)) == len(drawn)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_process_draws_other_bytes_than_the_one_it_came_from() -> None:
    random_8()  # there is something left to draw
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.write(writer, random_8())
        os._exit(0)
    own = random_8()
    assert os.read(reader, 8) != own
    os.waitpid(child, 0)
