"""The envelope: what is sealed can be opened, and what is no such fact is refused by name."""

import json
import re
from datetime import UTC, datetime, timedelta, timezone
from uuid import UUID

import pytest

from libs.contracts.orders import OrderPlaced
from libs.errors import Kind, Refusal
from libs.ids import uuid7
from libs.messaging.envelope import Origin, open_envelope, seal
from libs.messaging.tests.stage import order_placed
from libs.tracing import Trace

NOW = datetime(2026, 11, 22, 12, 30, 15, 123456, tzinfo=UTC)
CAUSE = Origin(Trace.start())


def payload(**changes: object) -> bytes:
    """An order as JSON; a field that is None is left out."""
    fields = {"order_id": str(uuid7()), "user_id": str(uuid7()), "price": "150.00", **changes}
    return json.dumps({name: value for name, value in fields.items() if value is not None}).encode()


def test_what_is_sealed_can_be_opened() -> None:
    fact = OrderPlaced(order_id=uuid7(), user_id=uuid7(), price=15_000, description="Zoë's tea")

    sealed = seal(fact, cause=CAUSE, now=NOW)
    event = open_envelope(OrderPlaced, sealed.payload, sealed.headers)

    assert event.fact == fact
    assert (event.id, event.time, event.restated) == (str(sealed.id), NOW, False)
    assert sealed.subject == f"orders.order.placed.{fact.order_id}"
    assert sealed.created_at == NOW


def test_the_headers_are_a_complete_cloudevent() -> None:
    sealed = seal(order_placed(), cause=CAUSE, now=NOW)

    headers = dict(sealed.headers)
    trace = Trace.parse(headers.pop("traceparent"))
    assert headers == {
        "ce-specversion": "1.0",
        "ce-id": str(sealed.id),
        "ce-type": "orders.order.placed",
        "ce-source": "/orders",
        "ce-time": "2026-11-22T12:30:15.123456Z",
        "content-type": "application/json",
        "Nats-Msg-Id": str(sealed.id),
    }
    assert trace.trace_id == CAUSE.trace.trace_id
    assert trace.span_id != CAUSE.trace.span_id
    assert sealed.trace is not None
    assert (sealed.trace.header, sealed.trace.parent_id) == (trace.header, CAUSE.trace.span_id)


def test_the_payload_is_plain_json_without_what_is_absent() -> None:
    fact = order_placed()

    assert json.loads(seal(fact, cause=CAUSE, now=NOW).payload) == {
        "order_id": str(fact.order_id),
        "user_id": str(fact.user_id),
        "price": "150.00",
    }


def test_every_envelope_has_an_id_of_its_own_and_ids_sort_by_time() -> None:
    fact = order_placed()

    ids = [seal(fact, cause=CAUSE, now=NOW).id for _ in range(100)]

    assert ids == sorted(set(ids))
    assert {UUID(int=one.int).version for one in ids} == {7}


def test_a_restatement_says_so() -> None:
    sealed = seal(order_placed(), cause=CAUSE, now=NOW, restated=True)

    assert sealed.headers["restated"] == "1"
    assert open_envelope(OrderPlaced, sealed.payload, sealed.headers).restated


@pytest.mark.parametrize(
    "traceparent",
    [
        None,
        "",
        "nonsense",
        f"00-{'0' * 32}-{'1' * 16}-01",
        f"00-{'1' * 32}-{'0' * 16}-01",
        f"ff-{'1' * 32}-{'1' * 16}-01",
    ],
)
def test_a_missing_or_malformed_traceparent_begins_a_new_trace(traceparent: str | None) -> None:
    headers = {} if traceparent is None else {"traceparent": traceparent}

    traces = [open_envelope(OrderPlaced, payload(), headers).trace for _ in range(2)]

    assert all(re.fullmatch(r"[0-9a-f]{32}", trace.trace_id) for trace in traces)
    assert traces[0].trace_id != traces[1].trace_id


def test_a_trace_goes_on() -> None:
    event = open_envelope(OrderPlaced, payload(), {"traceparent": CAUSE.trace.header})

    assert event.trace.trace_id == CAUSE.trace.trace_id
    assert event.trace.parent_id == CAUSE.trace.span_id


def test_fields_that_nobody_knows_are_ignored() -> None:
    order_id = uuid7()

    event = open_envelope(OrderPlaced, payload(order_id=str(order_id), colour="blue"), {})

    assert event.fact.order_id == order_id


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"price": None}, "price"),
        ({"price": "much"}, "price"),
        ({"user_id": None}, "user_id"),
        ({"order_id": 7}, "order_id"),
    ],
)
def test_a_missing_or_wrong_field_is_refused_by_name(changes: dict[str, object], field: str) -> None:
    with pytest.raises(Refusal) as caught:
        open_envelope(OrderPlaced, payload(**changes), {})

    refusal = caught.value
    assert (refusal.slug, refusal.kind, refusal.transient) == ("unreadable_message", Kind.MALFORMED, False)
    assert [found.field for found in refusal.fields] == [field]
    assert f"{field}: " in refusal.detail
    assert "orders.order.placed" in refusal.detail


@pytest.mark.parametrize("garbage", [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 10_000, b'{"price": NaN}'])
def test_what_is_not_json_is_refused(garbage: bytes) -> None:
    with pytest.raises(Refusal):
        open_envelope(OrderPlaced, garbage, {})


def test_the_time_is_read_in_its_zone() -> None:
    here = NOW.astimezone(timezone(timedelta(hours=2))).isoformat()

    assert open_envelope(OrderPlaced, payload(), {"ce-time": here}).time == NOW


@pytest.mark.parametrize(
    "time",
    [
        "yesterday",
        "",
        "2026-13-01T00:00:00Z",
        "0001-01-01T00:00:00+14:00",  # before the first moment that Python can name
    ],
)
def test_a_time_that_is_none_is_refused_by_name(time: str) -> None:
    with pytest.raises(Refusal, match="ce-time"):
        open_envelope(OrderPlaced, payload(), {"ce-time": time})


def test_a_message_without_headers_is_read_all_the_same() -> None:
    event = open_envelope(OrderPlaced, payload(), {})

    assert event.id == ""
    assert event.time == datetime.fromtimestamp(0, UTC)
