"""What only a real server shows: its absence, late acknowledgements, the stream's own properties."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from libs.contracts import stream_of
from libs.local.servers import free_port
from libs.messaging import durable, jetstream
from libs.messaging.bus import BusUnavailable, Lag
from libs.messaging.envelope import Outgoing
from libs.messaging.jetstream import JetStream, JetStreamSettings
from libs.messaging.tests.conftest import Server
from libs.messaging.tests.stage import acknowledge, everything, message, messages, subjects_of, take
from libs.tests.eventually import eventually


@pytest.fixture
async def stream(server: Server, service: str) -> JetStream:
    """A connection to `server`, and the stream of `service`."""
    bus = await server.connect()
    await bus.ensure_stream(service)
    return bus


async def test_publishing_fails_while_the_server_is_away_and_works_when_it_is_back(
    server: Server, stream: JetStream, service: str
) -> None:
    await stream.publish(messages(service, 1))
    await server.stop()
    await eventually(lambda: not stream.connected)

    for count in (1, 2):
        with pytest.raises(BusUnavailable):
            await stream.publish(messages(service, count))

    await server.start()
    await eventually(lambda: stream.connected)
    assert await stream.publish(messages(service, 2)) == [2, 3]


async def test_a_connection_that_is_lost_counts_at_once(server: Server, stream: JetStream) -> None:
    """Before it is said to be back there is a moment in which it could be published to, unseen."""
    before = stream.epoch
    await server.stop()
    await eventually(lambda: stream.epoch > before)
    assert not stream.connected


async def test_a_subscription_survives_the_absence_of_the_server(
    server: Server, stream: JetStream, service: str
) -> None:
    subscription = await stream.subscribe(everything(service))
    await stream.publish(messages(service, 1))
    await acknowledge(await take(subscription, 1))
    await server.stop()
    await server.start()
    await eventually(lambda: stream.connected)

    new = message(service)
    await stream.publish([new])

    assert subjects_of(await take(subscription, 1)) == [new.subject]


async def test_what_nobody_answers_is_asked_again_before_long(
    tmp_path: Path, service: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While several servers elect the leader of a stream, questions about it vanish."""
    for module in (durable, jetstream):
        monkeypatch.setattr(module, "ANSWER_WITHIN_S", 0.2)
    server = Server(tmp_path, {"jetstream": {"enabled": False}})
    await server.start()
    try:
        asked: list[str] = []
        silent, bus = await server.connect(), await server.connect()
        await silent.listen("$JS.API.>", asked.append)
        async with asyncio.timeout(4):
            for question in (bus.stream(service), bus.message_id_at(service, 1), bus.lag(everything(service))):
                with pytest.raises(BusUnavailable):
                    await question
        asked.clear()
        subscribing = asyncio.create_task(bus.subscribe(everything(service)))
        await eventually(lambda: len(asked) >= 4, within_s=4)
        subscribing.cancel()
        await asyncio.gather(subscribing, return_exceptions=True)
    finally:
        await server.close()


async def test_no_acknowledgement_goes_to_another_connection_than_the_one_that_delivered(
    server: Server, stream: JetStream, service: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(durable, "ACK_WAIT_S", 1.0)
    subscription = await stream.subscribe(everything(service))
    await stream.publish(messages(service, 2))
    delivered = await take(subscription, 1)
    await eventually(lambda: len(subscription.held()) == 1)

    await server.stop()
    await server.start()
    await eventually(lambda: stream.connected)
    await eventually(lambda: not subscription.held())
    await acknowledge(delivered)

    again = await take(subscription, 2)
    assert sorted((delivery.sequence, delivery.attempt) for delivery in again) == [(1, 2), (2, 2)]


async def test_no_acknowledgement_slips_through_while_the_connection_comes_back(
    server: Server, stream: JetStream, service: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(durable, "ACK_WAIT_S", 1.0)
    subscription = await stream.subscribe(everything(service))
    await stream.publish(messages(service, 1))
    (delivery,) = await take(subscription, 1)
    flush: Any = stream._client.flush

    async def flush_after_the_handler(*arguments: Any, **options: Any) -> None:
        # The client is connected again, and about to say so: a handler that ends now acknowledges its batch.
        await delivery.ack()
        await flush(*arguments, **options)

    monkeypatch.setattr(stream._client, "flush", flush_after_the_handler)
    await server.stop()
    await server.start()

    assert [again.attempt for again in await take(subscription, 1, within_s=4)] == [2]


async def test_what_is_settled_is_acknowledged_even_if_the_process_ends_now(
    server: Server, stream: JetStream, service: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    subscription = await stream.subscribe(everything(service))
    await stream.publish(messages(service, 3))
    deliveries = await take(subscription, 3)

    async def later(*_arguments: Any, **_options: Any) -> None:
        """Leave for later what is to be sent, as the client does when it is busy."""

    with monkeypatch.context() as busy:
        busy.setattr(stream._client, "_flush_pending", later)
        for delivery in deliveries:
            await delivery.ack()
        assert stream._client.pending_data_size

    await subscription.settle()

    assert not stream._client.pending_data_size

    async def handled() -> bool:
        return await stream.lag(everything(service)) == Lag(0, 0)

    await eventually(handled)  # the server has them, and works them off in its own time


async def test_what_a_stream_delivered_before_it_was_made_anew_is_forgotten(
    server: Server, stream: JetStream, service: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(durable, "ACK_WAIT_S", 0.5)
    subscription = await stream.subscribe(everything(service))
    await stream.publish(messages(service, 5))
    taken = await take(subscription, 1)
    await eventually(lambda: len(subscription.held()) == 4)

    await stream.delete_stream(service)
    await stream.ensure_stream(service, 2)
    others = messages(service, 5)
    await stream.publish(others)
    await eventually(lambda: not subscription.held())
    await acknowledge(taken)

    again = await take(subscription, 5)
    assert [delivery.subject for delivery in again] == [one.subject for one in others]


async def test_a_durable_of_another_incarnation_is_made_anew(server: Server, stream: JetStream, service: str) -> None:
    reader = everything(service)
    await stream.publish(messages(service, 3))
    await acknowledge(await take(await stream.subscribe(reader), 3))
    config = (await stream._js.consumer_info(reader.stream, reader.name)).config
    stale = config.evolve(metadata={durable.INCARNATION: "7"})
    await stream._js.add_consumer(reader.stream, stale)

    another = await (await server.connect()).subscribe(reader)

    assert [delivery.sequence for delivery in await take(another, 3)] == [1, 2, 3]
    made = (await stream._js.consumer_info(reader.stream, reader.name)).config
    assert durable.incarnation_of(made.metadata) == 1


async def test_a_durable_whose_files_are_lost_is_made_anew(server: Server, stream: JetStream, service: str) -> None:
    reader = everything(service)
    await stream.publish(messages(service, 3))
    await take(await stream.subscribe(reader), 3)
    [files] = server.store.glob(f"jetstream/*/streams/{reader.stream}/obs/{reader.name}")
    files.rename(server.store / "lost")  # not file by file: the server may be writing

    another = await (await server.connect()).subscribe(reader)

    assert [delivery.sequence for delivery in await take(another, 3)] == [1, 2, 3]
    assert (files / "meta.inf").exists()


async def test_connecting_says_which_server_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"nats://127.0.0.1:{free_port()}"
    impatient = asyncio.timeout
    monkeypatch.setattr(asyncio, "timeout", lambda _delay_s: impatient(0.5))

    with pytest.raises(BusUnavailable, match=url):
        await JetStream.connect(JetStreamSettings(url, "test"))


async def test_a_subject_that_is_no_text_makes_nobody_deaf(server: Server, stream: JetStream, service: str) -> None:
    subscription = await stream.subscribe(everything(service))
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(f'CONNECT {{"verbose":false}}\r\nPUB {service}.order.placed.'.encode() + b"\xff 2\r\n{}\r\nPING\r\n")
    while await reader.readline() != b"PONG\r\n":  # then it is stored
        pass
    writer.close()
    readable = message(service)
    await (await server.connect()).publish([readable])

    assert readable.subject in subjects_of(await take(subscription, 2, within_s=3))


@pytest.mark.parametrize("headers", [b"NATS/1.0", b"X", b"", b"NATS/1.0 \xff\r\n\r\n", b"NATS/1.0 404\r\n\r\n"])
async def test_headers_that_are_none_make_nobody_deaf(
    server: Server, stream: JetStream, service: str, headers: bytes
) -> None:
    subscription = await stream.subscribe(everything(service))
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(b'CONNECT {"verbose":false,"headers":true}\r\n')
    writer.write(f"HPUB {service}.order.placed.x {len(headers)} {len(headers) + 2}\r\n".encode() + headers + b"{}\r\n")
    writer.write(b"PING\r\n")
    while await reader.readline() != b"PONG\r\n":  # then it is stored
        pass
    writer.close()
    readable = message(service)
    await (await server.connect()).publish([readable])

    assert readable.subject in subjects_of(await take(subscription, 2, within_s=3))


# The stream's own properties


async def test_the_room_of_a_stream_is_never_lowered(server: Server, service: str) -> None:
    rooms = []
    for max_bytes in (2 << 20, 4 << 20, 1 << 20):
        bus = await server.connect(max_bytes=max_bytes)
        await bus.ensure_stream(service)
        rooms.append((await bus._js.stream_info(stream_of(service))).config.max_bytes)

    assert rooms == [2 << 20, 4 << 20, 4 << 20]


async def test_a_stream_keeps_what_it_is_told_to_keep(stream: JetStream, service: str) -> None:
    config = (await stream._js.stream_info(stream_of(service))).config

    assert config.subjects == [f"{service}.>"]
    assert (config.retention, config.storage, config.discard) == ("limits", "file", "new")
    assert config.max_age == 7 * 24 * 3600
    assert (config.deny_delete, config.deny_purge, config.allow_atomic) == (True, True, True)


async def test_a_full_stream_refuses_what_is_new(server: Server, service: str) -> None:
    small = await server.connect(max_bytes=4096)
    await small.ensure_stream(service)
    kept = messages(service, 3)
    await small.publish(kept)

    with pytest.raises(BusUnavailable):
        await small.publish([message(service, payload=b"x" * 4096)])
    with pytest.raises(BusUnavailable):
        await small.publish([message(service, payload=b"x" * 2048) for _ in range(2)])

    assert subjects_of(await take(await small.subscribe(everything(service)), 3)) == subjects_of(kept)


async def test_few_messages_are_stored_singly_and_many_as_one_batch(
    server: Server, stream: JetStream, service: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches: list[int] = []
    really = stream._publish_batch

    async def batch(messages: Sequence[Outgoing], above: int) -> list[int] | None:
        batches.append(len(messages))
        return await really(messages, above)

    monkeypatch.setattr(stream, "_publish_batch", batch)
    few, many = messages(service, jetstream.ATOMIC_FROM - 1), messages(service, jetstream.ATOMIC_FROM)
    assert await stream.publish(few) == list(range(1, len(few) + 1))
    assert await stream.publish(many) == list(range(len(few) + 1, len(few) + len(many) + 1))
    assert batches == [jetstream.ATOMIC_FROM]
