"""The lean client: what it writes and reads is what nats-py would, and nobody who listens can make it deaf."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nats.aio.client import Client
from nats.aio.subscription import Subscription
from nats.errors import NoRespondersError
from nats.js.errors import APIError

from libs.messaging.client import Acknowledged, Heard, LeanClient, read_headers, write_headers
from libs.messaging.envelope import Outgoing
from libs.messaging.jetstream import JetStream
from libs.messaging.tests.conftest import Connect
from libs.messaging.tests.stage import message, messages
from libs.tests.eventually import eventually

NAMES = st.sampled_from(["ce-id", "ce-time", "traceparent", "Nats-Msg-Id"])
LINES = st.text(st.characters(codec="utf-8", exclude_characters="\r\n"), max_size=30)


@pytest.fixture
async def failures() -> list[Exception]:
    """What the client reported."""
    return []


@pytest.fixture
async def client(nats_url: str, failures: list[Exception]) -> AsyncIterator[LeanClient]:
    async def failed(error: Exception) -> None:
        failures.append(error)

    made = LeanClient()
    await made.connect(nats_url, error_cb=failed)
    yield made
    await made.close()


@pytest.fixture
def connect_once(nats_url: str) -> Connect:
    """Only the real thing has a client."""
    from libs.messaging.jetstream import JetStreamSettings  # noqa: PLC0415 - for this one

    return lambda: JetStream.connect(JetStreamSettings(nats_url, "test", max_bytes=1 << 24))


async def heard_by(client: LeanClient, subject: str) -> tuple[list[Heard], Subscription]:
    heard: list[Heard] = []
    subscription = await client.hear(subject, heard.append)
    await client.flush()
    return heard, subscription


# Headers


@given(st.dictionaries(NAMES, LINES))
def test_headers_are_read_as_they_were_written(headers: dict[str, str]) -> None:
    written = write_headers(headers)
    assert written is not None
    assert read_headers(written) == ({name: value.strip() for name, value in headers.items()} or None)


@given(st.dictionaries(NAMES, LINES, min_size=1), st.sampled_from(["\r", "\n", "\r\n", "\r\nce-id: forged\r\n"]))
def test_no_value_becomes_another_header(headers: dict[str, str], end: str) -> None:
    for name, value in headers.items():
        assert write_headers({**headers, name: value + end}) is None


@pytest.mark.parametrize("name", ["", "a b", "a:b", "a\r\nb", "ce-unknown"])
def test_a_name_that_is_not_ours_is_left_to_others(name: str) -> None:
    assert write_headers({name: "x"}) is None


@given(st.lists(st.binary(max_size=30) | st.sampled_from([b"ce-id: 1", b" a : b ", b"a b: c", b"\xc3\xa4: x", b":"])))
def test_lines_are_read_as_by_nats(lines: list[bytes]) -> None:
    raw = b"\r\n".join([*lines, b"", b""])
    known = {name: value for name, value in Client._parse_header_lines(raw).items() if name}
    assert (read_headers(b"NATS/1.0\r\n" + raw) or {}) == known


@pytest.mark.parametrize(
    ("raw", "read"),
    [
        (b"NATS/1.0 404 No Messages\r\n\r\n", {"Status": "404", "Description": "No Messages"}),
        (b"NATS/1.0 503\r\n\r\n", {"Status": "503"}),
        (
            b"NATS/1.0 100 Idle Heartbeat\r\nNats-Last-Stream: 7\r\n\r\n",
            {"Status": "100", "Description": "Idle Heartbeat", "Nats-Last-Stream": "7"},
        ),
        (b"NATS/1.0\r\n\r\n", None),
        (b"", None),
        (None, None),
    ],
)
def test_a_status_is_read(raw: bytes | None, read: dict[str, str] | None) -> None:
    assert read_headers(raw) == read


@given(st.binary(max_size=60))
def test_whatever_it_is_it_is_read(raw: bytes) -> None:
    read = read_headers(raw)
    assert read is None or all(isinstance(value, str) for value in read.values())


@pytest.mark.parametrize("headers", [None, {"ce-id": "ä"}, {"ce-id": "a\r\nb"}, {"Of-Somebody-Else": "x"}])
async def test_any_reader_understands_what_is_sent(
    client: LeanClient, nats_url: str, headers: dict[str, str] | None
) -> None:
    reader = Client()
    await reader.connect(nats_url)
    subscription = await reader.subscribe("lean.subject", max_msgs=2)
    await reader.flush()
    for payload in (b"", b"payload\r\n"):
        await client.publish("lean.subject", payload, reply="lean.reply", headers=headers)
    for payload in (b"", b"payload\r\n"):
        received = await subscription.next_msg(timeout=5)
        assert (received.data, received.reply) == (payload, "lean.reply")
        if headers is None:
            assert received.headers is None
        else:
            assert (received.headers or {}).keys() == headers.keys()
    await reader.close()


async def test_what_is_larger_than_the_server_takes_is_refused_here(client: LeanClient) -> None:
    with pytest.raises(Exception, match="payload"):
        await client.publish("lean.subject", bytes(client.max_payload + 1))
    with pytest.raises(Exception, match="payload"):
        await client.publish("lean.subject", bytes(client.max_payload), headers={"ce-id": "1"})
    assert client.is_connected


# Listening


async def test_messages_are_heard_in_their_order(client: LeanClient) -> None:
    heard, _ = await heard_by(client, "lean.*")
    for number in range(100):
        await client.publish(f"lean.{number}", f"{number}".encode())
    await eventually(lambda: len(heard) == 100)
    assert [one.payload for one in heard] == [f"{number}".encode() for number in range(100)]


async def test_who_fails_to_listen_is_reported_and_hears_the_next(
    client: LeanClient, failures: list[Exception]
) -> None:
    heard: list[bytes] = []

    def hear(one: Heard) -> None:
        if one.payload == b"bad":
            raise ZeroDivisionError
        heard.append(one.payload)

    await client.hear("lean.subject", hear)
    for payload in (b"one", b"bad", b"two"):
        await client.publish("lean.subject", payload)
    await eventually(lambda: heard == [b"one", b"two"])
    assert [type(one) for one in failures] == [ZeroDivisionError]


async def test_nothing_is_heard_after_unsubscribing(client: LeanClient) -> None:
    heard, subscription = await heard_by(client, "lean.subject")
    others, _ = await heard_by(client, "lean.>")
    await subscription.unsubscribe()
    await client.publish("lean.subject", b"late")
    await eventually(lambda: len(others) == 1)
    await client._process_msg(subscription._id, b"lean.subject", b"", b"was on its way", None)
    assert not heard


async def test_subscriptions_of_others_are_served_as_ever(client: LeanClient) -> None:
    heard, _ = await heard_by(client, "lean.subject")
    subscription = await client.subscribe("lean.subject")
    await client.publish("lean.subject", b"x", headers={"ce-id": "1"})
    received = await subscription.next_msg(timeout=5)
    assert (received.data, received.headers) == (b"x", {"ce-id": "1"})
    await eventually(lambda: len(heard) == 1)


# Acknowledgements


async def test_each_message_gets_its_own_answer(bus: JetStream, service: str) -> None:
    acknowledged = Acknowledged(bus._client)
    sent = messages(service, 20)
    first = await acknowledged.publish(sent, within_s=5)
    again = await acknowledged.publish([sent[7], *messages(service, 1), sent[3]], within_s=5)
    assert [answer["seq"] for answer in first] == list(range(1, 21))
    assert [(answer["seq"], answer.get("duplicate", False)) for answer in again] == [(8, True), (21, False), (4, True)]


async def test_several_publish_at_once(bus: JetStream, service: str) -> None:
    acknowledged = Acknowledged(bus._client)
    answers = await asyncio.gather(*(acknowledged.publish(messages(service, 5), within_s=5) for _ in range(10)))
    assert sorted(answer["seq"] for some in answers for answer in some) == list(range(1, 51))


async def test_a_refusal_is_raised_and_what_was_stored_stays(bus: JetStream, service: str) -> None:
    acknowledged = Acknowledged(bus._client)
    good = message(service)
    wrong = Outgoing(good.id, good.subject, b"{}", {"Nats-Batch-Id": "x", "Nats-Batch-Sequence": "7"}, good.created_at)
    with pytest.raises(APIError):
        await acknowledged.publish([good, wrong], within_s=5)
    (answer,) = await acknowledged.publish([good], within_s=5)
    assert (answer["seq"], answer["duplicate"]) == (1, True)


async def test_nobody_keeps_the_subject(client: LeanClient, service: str) -> None:
    with pytest.raises(NoRespondersError):
        await Acknowledged(client).publish(messages(service, 3), within_s=5)


async def test_an_answer_that_does_not_come_is_not_waited_for_and_harms_nobody_later(
    client: LeanClient, service: str
) -> None:
    asked: list[Heard] = []
    await client.hear(f"{service}.>", asked.append)  # takes, and keeps silent
    acknowledged = Acknowledged(client)
    with pytest.raises(TimeoutError):
        await acknowledged.publish(messages(service, 2), within_s=0.1)
    assert len(asked) == 2
    assert not acknowledged._waiting
    for one in asked:
        await client.publish(one.reply.decode(), b'{"seq": 1}')
    await client.flush()
    answering = asyncio.create_task(acknowledged.publish(messages(service, 1), within_s=5))
    await eventually(lambda: len(asked) == 3)
    await client.publish(asked[-1].reply.decode(), b'{"seq": 9}')
    assert await answering == [{"seq": 9}]


async def test_publishing_that_is_given_up_is_forgotten(client: LeanClient, service: str) -> None:
    asked: list[Heard] = []
    await client.hear(f"{service}.>", asked.append)
    acknowledged = Acknowledged(client)
    publishing: asyncio.Task[Any] = asyncio.create_task(acknowledged.publish(messages(service, 2), within_s=5))
    await eventually(lambda: len(asked) == 2)
    publishing.cancel()
    await asyncio.gather(publishing, return_exceptions=True)
    assert not acknowledged._waiting
