"""Spans: which traces are recorded, under which ids, and what a batch links to."""

from typing import Any

import pytest

from libs.telemetry.spans import Allowance, Kind, Span, Spans
from libs.tracing import Trace

ABOVE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-"


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_an_allowance_is_so_many_a_second_and_no_more_after_a_long_silence() -> None:
    clock = Clock()
    allowance = Allowance(3, clock)
    assert [allowance.take() for _ in range(5)] == [True, True, True, False, False]
    clock.now = 1 / 3 + 0.001
    assert [allowance.take() for _ in range(2)] == [True, False]
    clock.now = 1_000.0
    assert [allowance.take() for _ in range(5)] == [True, True, True, False, False]


@pytest.mark.parametrize(("per_second", "first"), [(0, False), (0.5, True)])
def test_an_allowance_may_be_nothing_or_less_than_one_a_second(per_second: float, *, first: bool) -> None:
    clock = Clock()
    allowance = Allowance(per_second, clock)
    assert [allowance.take(), allowance.take()] == [first, False]
    clock.now = 1.0
    assert not allowance.take()
    clock.now = 2.1
    assert allowance.take() is first


@pytest.mark.parametrize("edge", [False, True])
def test_what_is_sampled_where_it_begins_is_bounded(*, edge: bool) -> None:
    spans = Spans(print, per_second=2, edge=edge)
    assert [spans.enter(None).sampled for _ in range(4)] == [True, True, False, False]


def test_whoever_is_behind_follows_the_flag_however_many_come() -> None:
    spans = Spans(print, per_second=1)
    assert [spans.enter(f"{ABOVE}01").sampled for _ in range(5)] == [True] * 5
    assert [spans.enter(f"{ABOVE}00").sampled for _ in range(2)] == [False] * 2
    assert spans.enter(None).sampled, "those who followed have used nothing up"


def test_strangers_may_ask_for_less_and_not_for_more_than_is_allowed() -> None:
    spans = Spans(print, per_second=2, edge=True)
    assert not spans.enter(f"{ABOVE}00").sampled
    assert [spans.enter(f"{ABOVE}01").sampled for _ in range(3)] == [True, True, False]


def test_an_unsampled_trace_goes_on_all_the_same() -> None:
    trace = Spans(print, per_second=0, edge=True).enter(f"{ABOVE}01")
    assert trace.header.startswith(ABOVE[:36])
    assert trace.header.endswith("-00")
    assert trace.parent_id == "b7ad6b7169203331"


@pytest.mark.parametrize("edge", [False, True])
def test_without_a_collector_nothing_is_sampled_here_and_nobody_is_overruled(*, edge: bool) -> None:
    spans = Spans(per_second=100, edge=edge)
    assert not spans.enter(None).sampled
    assert spans.enter(f"{ABOVE}01").sampled
    assert not spans.wants(spans.enter(f"{ABOVE}01"))


def add(spans: Spans, trace: Trace, **more: Any) -> None:
    spans.add(trace, "step", Kind.INTERNAL, 1, {"a": 1}, **more)


def test_only_sampled_steps_are_recorded_and_failures_are_named() -> None:
    recorded: list[Span] = []
    spans = Spans(recorded.append)
    trace = Trace.enter(f"{ABOVE}01")
    add(spans, trace)
    add(spans, trace.unsampled())
    add(spans, trace, error="KeyError")
    assert [span.error for span in recorded] == [None, "KeyError"]
    assert [span.attributes for span in recorded] == [{"a": 1}, {"a": 1, "error.type": "KeyError"}]
    assert recorded[0].trace is trace
    assert recorded[0].ended_ns > recorded[0].started_ns


def test_a_batch_stands_below_its_first_sampled_member_and_links_to_all_of_them() -> None:
    recorded: list[Span] = []
    spans = Spans(recorded.append)
    first, second, third = Trace.start().unsampled(), Trace.start(), Trace.start()
    spans.add_batch([first, second, third], "batch", Kind.INTERNAL, 1, {})
    (batch,) = recorded
    assert (batch.trace.trace_id, batch.trace.parent_id) == (second.trace_id, second.span_id)
    assert batch.trace.span_id != second.span_id
    assert batch.links == [second, third]


def test_a_batch_of_which_nobody_is_sampled_is_not_recorded() -> None:
    recorded: list[Span] = []
    Spans(recorded.append).add_batch([Trace.start().unsampled()], "batch", Kind.INTERNAL, 1, {})
    assert recorded == []
