"""One suite for both buses: JetStream, and its twin in memory."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from libs.contracts import stream_of
from libs.messaging.bus import NOTHING_WAITS, Bus, BusUnavailable, Delivery, Durable, Lag, StreamForgot
from libs.messaging.envelope import Outgoing
from libs.messaging.jetstream import JetStream
from libs.messaging.tests.conftest import Connect
from libs.messaging.tests.stage import acknowledge, everything, message, messages, random_service, subjects_of, take
from libs.tests.eventually import eventually

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
SECOND = timedelta(seconds=1)

# Publishing


async def test_publishing_returns_increasing_sequences(bus: Bus, service: str) -> None:
    sequences = [*await bus.publish(messages(service, 1)), *await bus.publish(messages(service, 1))]

    assert sequences == [1, 2]


async def test_a_batch_is_stored_consecutively_and_in_order(bus: Bus, service: str) -> None:
    await bus.publish(messages(service, 1))
    batch = messages(service, 100)

    sequences = await bus.publish(batch)

    stored = await take(await bus.subscribe(everything(service)), 101)
    assert sequences == list(range(2, 102))
    assert subjects_of(stored[1:]) == subjects_of(batch)
    assert [delivery.sequence for delivery in stored[1:]] == sequences


async def test_publishing_nothing_returns_nothing(bus: Bus) -> None:
    assert await bus.publish([]) == []


async def test_a_message_arrives_as_it_was_sent(bus: Bus, service: str) -> None:
    sent = message(service, payload='{"name": "Zoë"}'.encode())
    await bus.publish([sent])

    (delivery,) = await take(await bus.subscribe(everything(service)), 1)

    assert (delivery.stream, delivery.sequence, delivery.attempt) == (stream_of(service), 1, 1)
    assert (delivery.subject, delivery.payload, dict(delivery.headers)) == (sent.subject, sent.payload, sent.headers)


async def test_the_same_id_published_again_is_not_stored_twice(bus: Bus, service: str) -> None:
    first, last = message(service), message(service)

    again = [await bus.publish([first]), await bus.publish([first]), await bus.publish([last])]

    assert again == [[1], [1], [2]]
    assert subjects_of(await take(await bus.subscribe(everything(service)), 2)) == subjects_of([first, last])


async def test_a_batch_with_an_id_that_is_stored_already_is_still_all_stored_once(bus: Bus, service: str) -> None:
    known, *others = messages(service, 5)
    await bus.publish([known])

    sequences = await bus.publish([others[0], others[1], known, others[2], others[3]])

    assert sequences == [2, 3, 1, 4, 5]
    stored = await take(await bus.subscribe(everything(service)), 5)
    assert subjects_of(stored) == subjects_of([known, *others])


async def test_a_batch_published_twice_is_stored_once(bus: Bus, service: str) -> None:
    batch, last = messages(service, 70), message(service)

    assert await bus.publish(batch) == await bus.publish(batch)
    assert await bus.publish([last]) == [71]


async def test_publishing_leaves_the_headers_alone(bus: Bus, service: str) -> None:
    batch = messages(service, 2)
    before = [dict(one.headers) for one in batch]

    await bus.publish(batch)
    await bus.publish(batch)  # refused as a batch, hence singly

    assert [one.headers for one in batch] == before


async def test_publishing_where_no_stream_is_fails(bus: Bus) -> None:
    nowhere = random_service()

    with pytest.raises(BusUnavailable):
        await bus.publish(messages(nowhere, 1))
    with pytest.raises(BusUnavailable):
        await bus.publish(messages(nowhere, 2))


@pytest.mark.parametrize("count", [1, 3])
async def test_a_stream_that_gives_a_sequence_away_again_has_forgotten(bus: Bus, service: str, count: int) -> None:
    """Whoever publishes knows that 3 was taken; that the last of a batch is above it says nothing of the first."""
    await bus.publish(messages(service, 2))

    with pytest.raises(StreamForgot):
        await bus.publish(messages(service, count), above=3)
    assert min(await bus.publish(messages(service, 3), above=3)) > 3


async def test_making_a_stream_again_loses_nothing(bus: Bus, service: str) -> None:
    await bus.publish(messages(service, 2))

    await bus.ensure_stream(service)

    assert await bus.publish(messages(service, 1)) == [3]


# Delivery


async def test_messages_come_in_stream_order_and_no_more_than_asked_for(bus: Bus, service: str) -> None:
    sent = messages(service, 10)
    await bus.publish(sent)
    subscription = await bus.subscribe(everything(service))

    batches: list[Sequence[Delivery]] = []
    async with asyncio.timeout(10):
        while sum(len(batch) for batch in batches) < 10:
            batches.append(await subscription.next_batch(4))

    assert all(1 <= len(batch) <= 4 for batch in batches)
    assert subjects_of([delivery for batch in batches for delivery in batch]) == subjects_of(sent)


async def test_waiting_for_a_batch_ends_with_the_first_message(bus: Bus, service: str) -> None:
    subscription = await bus.subscribe(everything(service))
    waiting = asyncio.create_task(subscription.next_batch(256))

    await bus.publish(messages(service, 1))

    async with asyncio.timeout(10):
        assert len(await waiting) == 1


async def test_more_messages_than_are_fetched_ahead_all_come(bus: Bus, service: str) -> None:
    sent = [one for _ in range(3) for one in await _published(bus, messages(service, 500))]
    subscription = await bus.subscribe(everything(service))

    taken: list[Delivery] = []
    async with asyncio.timeout(10):
        while len(taken) < len(sent):
            batch = await subscription.next_batch(100)
            await acknowledge(batch)
            taken.extend(batch)

    assert subjects_of(taken) == subjects_of(sent)


async def _published(bus: Bus, batch: list[Outgoing]) -> list[Outgoing]:
    await bus.publish(batch)
    return batch


@pytest.mark.parametrize("ack_wait_s", [0.5])
async def test_only_what_got_no_answer_comes_again(bus: Bus, service: str) -> None:
    await bus.publish(messages(service, 3))
    subscription = await bus.subscribe(everything(service))
    acknowledged, terminated, unanswered = await take(subscription, 3)

    await acknowledged.ack()
    await terminated.term()
    again = await take(subscription, 1)

    # All three were delivered together: had the others been due again, they would have come before or with it.
    assert [(delivery.subject, delivery.attempt) for delivery in again] == [(unanswered.subject, 2)]
    assert not subscription.held()


async def test_a_message_given_back_comes_again_as_the_next_attempt(bus: Bus, service: str) -> None:
    await bus.publish(messages(service, 2))
    subscription = await bus.subscribe(everything(service))
    given_back, kept = await take(subscription, 2)

    await kept.ack()
    attempts = [given_back.attempt]
    for _ in range(2):
        await given_back.nak(0)
        (given_back,) = await take(subscription, 1)
        attempts.append(given_back.attempt)

    assert attempts == [1, 2, 3]


async def test_a_message_given_back_for_later_comes_later(bus: Bus, service: str) -> None:
    await bus.publish(messages(service, 1))
    subscription = await bus.subscribe(everything(service))
    (later,) = await take(subscription, 1)
    loop = asyncio.get_running_loop()

    before = loop.time()
    await later.nak(0.3)
    (again,) = await take(subscription, 1)

    assert again.attempt == 2
    assert loop.time() - before >= 0.25


async def test_a_message_given_back_for_later_holds_up_nobody(bus: Bus, service: str) -> None:
    first, second = messages(service, 2)
    await bus.publish([first])
    subscription = await bus.subscribe(everything(service))

    await (await take(subscription, 1))[0].nak(20)
    await bus.publish([second])

    assert subjects_of(await take(subscription, 1)) == [second.subject]


@pytest.mark.parametrize("ack_wait_s", [1.0])
async def test_work_in_progress_does_not_come_again(bus: Bus, service: str) -> None:
    await bus.publish(messages(service, 2))
    subscription = await bus.subscribe(everything(service))
    worked_on, forgotten = await take(subscription, 2)

    pulling = asyncio.ensure_future(subscription.next_batch(256))
    async with asyncio.timeout(10):
        while not pulling.done():
            await worked_on.in_progress()
            await asyncio.wait({pulling}, timeout=0.1)

    assert subjects_of(pulling.result()) == [forgotten.subject]


# Several processes, several durable consumers


async def test_what_a_closed_subscription_had_not_handed_out_comes_to_another_replica(
    bus: Bus, connect: Connect, service: str
) -> None:
    sent = messages(service, 400)  # so many that some are still on their way when it closes
    await bus.publish(sent)
    closing = await bus.subscribe(everything(service))
    handed_out = await take(closing, 2)
    await acknowledge(handed_out)

    await closing.close()

    # Long before the ack_wait of 30 s is over.
    replica = await connect()
    taken = await take(await replica.subscribe(everything(service)), 398)
    assert sorted(subjects_of([*handed_out, *taken])) == sorted(subjects_of(sent))


@pytest.mark.parametrize("ack_wait_s", [0.5])
async def test_what_a_process_that_left_had_not_acknowledged_comes_to_another_replica(
    bus: Bus, connect: Connect, service: str
) -> None:
    await bus.publish(messages(service, 3))
    leaving = await connect()
    first, *_unanswered = await take(await leaving.subscribe(everything(service)), 3)
    await first.ack()
    await leaving.close()

    taken = await take(await bus.subscribe(everything(service)), 2)

    assert sorted((delivery.sequence, delivery.attempt) for delivery in taken) == [(2, 2), (3, 2)]


async def test_two_replicas_share_the_work_and_nobody_gets_a_message_twice(
    bus: Bus, connect: Connect, service: str
) -> None:
    replicas = [await bus.subscribe(everything(service)), await (await connect()).subscribe(everything(service))]
    taken: list[tuple[int, Delivery]] = []

    async def work(replica: int) -> None:
        while True:
            batch = await replicas[replica].next_batch(8)
            taken.extend((replica, delivery) for delivery in batch)
            await acknowledge(batch)

    working = [asyncio.create_task(work(replica)) for replica in (0, 1)]
    sent = messages(service, 200)
    for start in range(0, 200, 20):
        await bus.publish(sent[start : start + 20])
    await eventually(lambda: len(taken) >= 200)
    last = message(service)
    await bus.publish([last])
    await eventually(lambda: taken[-1][1].subject == last.subject)
    for task in working:
        task.cancel()
    await asyncio.gather(*working, return_exceptions=True)

    assert sorted(subjects_of([delivery for _, delivery in taken])) == sorted(subjects_of([*sent, last]))
    assert {replica for replica, _ in taken} == {0, 1}


async def test_each_durable_consumer_gets_everything(bus: Bus, service: str) -> None:
    sent = messages(service, 3)
    one, other = everything(service), replace(everything(service), name="another")
    await bus.publish(sent)

    assert subjects_of(await take(await bus.subscribe(one), 3)) == subjects_of(sent)
    assert subjects_of(await take(await bus.subscribe(other), 3)) == subjects_of(sent)


async def test_a_durable_consumer_goes_on_where_its_last_process_stopped(
    bus: Bus, connect: Connect, service: str
) -> None:
    await bus.publish(messages(service, 3))
    stopping = await connect()
    await acknowledge(await take(await stopping.subscribe(everything(service)), 3))
    await stopping.close()
    new = message(service)
    await bus.publish([new])

    assert subjects_of(await take(await bus.subscribe(everything(service)), 1)) == [new.subject]


async def test_a_consumer_gets_only_the_subjects_it_wants(bus: Bus, service: str) -> None:
    placed, confirmed, cancelled = (message(service, f"order.{fact}") for fact in ("placed", "confirmed", "cancelled"))
    deeper = message(service, "order.placed.twice")
    await bus.publish([placed, confirmed, deeper, cancelled])
    wanted = (f"{service}.order.placed.*", f"{service}.*.cancelled.>")

    subscription = await bus.subscribe(Durable(stream_of(service), "picky", wanted))

    assert subjects_of(await take(subscription, 2)) == [placed.subject, cancelled.subject]


async def test_subscribing_again_changes_the_subjects(bus: Bus, service: str) -> None:
    placed, cancelled = message(service, "order.placed"), message(service, "order.cancelled")
    narrow = Durable(stream_of(service), "growing", (f"{service}.order.placed.*",))
    first = await bus.subscribe(narrow)
    await bus.publish([placed])
    await acknowledge(await take(first, 1))
    await first.close()

    second = await bus.subscribe(replace(narrow, subjects=(*narrow.subjects, f"{service}.order.cancelled.*")))
    await bus.publish([cancelled])

    assert subjects_of(await take(second, 1)) == [cancelled.subject]


async def test_subscribing_waits_for_a_stream_that_is_not_there_yet(connect: Connect, service: str) -> None:
    publisher, reader = await connect(), await connect()
    subscribing = asyncio.ensure_future(reader.subscribe(everything(service)))
    done, _ = await asyncio.wait({subscribing}, timeout=0.2)
    assert not done

    await publisher.ensure_stream(service)
    sent = messages(service, 2)
    await publisher.publish(sent)

    async with asyncio.timeout(10):
        subscription = await subscribing
    assert subjects_of(await take(subscription, 2)) == subjects_of(sent)


# Listening


async def test_listening_hears_the_subjects_that_pass_by(bus: Bus, connect: Connect, service: str) -> None:
    heard: list[str] = []
    more: list[str] = []
    listener = await connect()
    await listener.listen(f"{service}.order.*.*", heard.append)
    await listener.listen(f"{service}.>", more.append)
    await _in_place(listener)
    order, letter = message(service, "order.placed"), message(service, "letter.stored")
    await bus.publish([order])
    await bus.publish([letter])

    await eventually(lambda: len(more) == 2)
    assert more == [order.subject, letter.subject]
    assert heard == [order.subject]


async def _in_place(bus: Bus) -> None:
    """Wait until the server knows of every subscription: it answers a ping only after what came before."""
    if isinstance(bus, JetStream):
        await bus._client.flush()


# Lag


async def test_a_consumer_knows_how_far_it_is_behind(bus: Bus, service: str) -> None:
    durable = Durable(stream_of(service), "reader", (f"{service}.order.placed.*",))
    subscription = await bus.subscribe(durable)
    assert await bus.lag(durable) == Lag(0, 0)
    await bus.publish([*messages(service, 3), *messages(service, 2, "order.confirmed")])
    taken = await take(subscription, 3)
    assert await bus.lag(durable) == Lag(0, 3)
    await acknowledge(taken)

    async def caught_up() -> bool:
        return await bus.lag(durable) == Lag(0, 0)

    await eventually(caught_up)


async def test_messages_that_nobody_pulls_are_pending(bus: Bus, connect: Connect, service: str) -> None:
    durable = everything(service)
    subscription = await bus.subscribe(durable)
    await subscription.close()
    await bus.publish(messages(service, 4))

    async def all_pending() -> bool:
        lag = await bus.lag(durable)
        return lag.pending + lag.ack_pending == 4

    await eventually(all_pending)


async def test_a_consumer_has_handled_all_until_the_first_message_that_it_has_not(bus: Bus, service: str) -> None:
    durable = Durable(stream_of(service), "reader", (f"{service}.order.placed.*",))
    subscription = await bus.subscribe(durable)
    assert await bus.handled_until(durable) == NOTHING_WAITS
    stated = [message(service, at=at) for at in (NOON, NOON + SECOND, NOON + 2 * SECOND)]
    await bus.publish(stated)
    first, second, third = await take(subscription, 3)
    for done, until in ((third, NOON), (first, NOON + SECOND), (second, NOTHING_WAITS)):
        await done.ack()

        async def is_handled(until: datetime = until) -> bool:
            return await bus.handled_until(durable) == until

        await eventually(is_handled)


async def test_a_consumer_that_is_not_there_has_handled_nothing_one_could_tell(bus: Bus, service: str) -> None:
    with pytest.raises(Exception, match=r"."):
        await bus.handled_until(Durable(stream_of(service), "nobody", ()))


async def test_a_consumer_that_is_not_there_has_no_lag(bus: Bus, service: str) -> None:
    with pytest.raises(Exception, match=r"."):
        await bus.lag(Durable(stream_of(service), "nobody", (f"{service}.>",)))
