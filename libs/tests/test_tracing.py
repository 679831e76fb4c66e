"""W3C Trace Context: what continues a trace, and what begins a new one."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from libs.tracing import Trace

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


def test_a_trace_is_continued() -> None:
    trace = Trace.parse(f"00-{TRACE}-{SPAN}-01")
    assert (trace.trace_id, trace.span_id, trace.flags) == (TRACE, SPAN, "01")
    assert trace.header == f"00-{TRACE}-{SPAN}-01"


def test_a_caller_that_does_not_sample_is_not_overruled() -> None:
    assert Trace.parse(f"00-{TRACE}-{SPAN}-00").child().header.endswith("-00")


def test_a_child_is_another_span_of_the_same_trace() -> None:
    parent = Trace.parse(f"00-{TRACE}-{SPAN}-01")
    first, second = parent.child(), parent.child()
    assert {first.trace_id, second.trace_id} == {TRACE}
    assert len({parent.span_id, first.span_id, second.span_id}) == 3


@pytest.mark.parametrize("rest", ["", "-", "-what-the-future-brings"])
def test_a_future_version_is_read_as_far_as_it_is_known(rest: str) -> None:
    trace = Trace.parse(f"cc-{TRACE}-{SPAN}-01{rest}")
    assert trace.trace_id == TRACE
    assert trace.header == f"00-{TRACE}-{SPAN}-01"


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "nonsense",
        f"ff-{TRACE}-{SPAN}-01",
        f"0-{TRACE}-{SPAN}-01",
        f"000-{TRACE}-{SPAN}-01",
        f"0x-{TRACE}-{SPAN}-01",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{TRACE}-{SPAN.upper()}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE[1:]}-{SPAN}-01",
        f"00-{TRACE}0-{SPAN}-01",
        f"00-{TRACE}-{SPAN[1:]}-01",
        f"00-{TRACE}-{SPAN}0-01",
        f"00-{TRACE}-{SPAN}-1",
        f"00-{TRACE}-{SPAN}-011",
        f"00-{TRACE}-{SPAN}-0A",
        f"00-{TRACE}-{SPAN}-xx",
        f"00-{TRACE}-{SPAN}",
        f"00-{TRACE}-{SPAN}-01.",
        f"cc-{TRACE}-{SPAN}-01.what",
        f" 00-{TRACE}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-01\n",
        f"00_{TRACE}_{SPAN}_01",
        f"00-{TRACE.replace('0', chr(0x660))}-{SPAN}-01",
    ],
)
def test_a_malformed_header_begins_a_new_trace(header: str | None) -> None:
    trace, other = Trace.parse(header), Trace.parse(header)
    assert trace.trace_id != TRACE
    assert trace != other
    assert re.fullmatch(r"00-[0-9a-f]{32}-[0-9a-f]{16}-01", trace.header)


@pytest.mark.parametrize("rest", ["-", "-what-the-future-brings"])
def test_a_header_of_this_version_ends_after_its_flags(rest: str) -> None:
    assert Trace.parse(f"00-{TRACE}-{SPAN}-01{rest}").trace_id != TRACE


@pytest.mark.parametrize("version", ["00", "cc"])
def test_flags_that_are_not_known_are_not_handed_on(version: str) -> None:
    flags = int(Trace.parse(f"{version}-{TRACE}-{SPAN}-ff").child().header.rpartition("-")[2], 16)
    assert flags & 0x01
    assert flags <= 0x03  # sampled, and the second level's random flag


@settings(deadline=None)
@given(st.lists(st.sampled_from(["00", "cc", "ff", "-", "01", TRACE, SPAN, "G", "0" * 16, chr(0x660)]), max_size=9))
def test_whatever_a_client_sends_becomes_a_trace(parts: list[str]) -> None:
    trace = Trace.parse("".join(parts))
    assert Trace.parse(trace.header) == trace


def test_what_is_handed_on_is_read_again() -> None:
    trace = Trace.start()
    assert Trace.parse(trace.header) == trace
    assert Trace.start() != trace


def test_whoever_enters_knows_where_from() -> None:
    trace = Trace.enter(f"00-{TRACE}-{SPAN}-00")
    assert (trace.trace_id, trace.parent_id, trace.flags) == (TRACE, SPAN, "00")
    assert trace.span_id != SPAN
    assert trace.child().parent_id == trace.span_id
    assert Trace.enter("nonsense").parent_id is None


def test_what_is_not_sampled_is_the_same_place() -> None:
    trace = Trace.enter(f"00-{TRACE}-{SPAN}-01")
    assert trace.sampled
    assert not trace.unsampled().sampled
    assert trace.unsampled().header == f"{trace.header[:-2]}00"
    assert trace.unsampled().parent_id == SPAN
