"""What only the in-memory bus can do: be away at a word."""

import asyncio

import pytest

from libs.messaging.bus import BusUnavailable, matches
from libs.messaging.memory import MemoryBroker, MemoryBus
from libs.messaging.tests.stage import everything, messages, take


@pytest.fixture
def broker() -> MemoryBroker:
    return MemoryBroker(ack_wait_s=0.05)


async def test_the_twin_refuses_while_it_is_away_and_works_when_it_is_back(broker: MemoryBroker, service: str) -> None:
    bus = MemoryBus(broker)
    await bus.ensure_stream(service)
    bus.go_away()

    assert not bus.connected
    with pytest.raises(BusUnavailable):
        await bus.publish(messages(service, 1))
    with pytest.raises(BusUnavailable):
        await bus.ensure_stream(service)
    subscribing = asyncio.ensure_future(bus.subscribe(everything(service)))  # like JetStream's, it waits
    done, _ = await asyncio.wait({subscribing}, timeout=0.05)
    assert not done

    bus.come_back()
    assert bus.connected
    async with asyncio.timeout(5):
        await subscribing
    assert await bus.publish(messages(service, 1)) == [1]


async def test_the_twin_delivers_nothing_while_it_is_away(broker: MemoryBroker, service: str) -> None:
    bus, publisher = MemoryBus(broker), MemoryBus(broker)
    await bus.ensure_stream(service)
    subscription = await bus.subscribe(everything(service))
    waiting = asyncio.ensure_future(subscription.next_batch(256))
    bus.go_away()
    await publisher.publish(messages(service, 1))
    done, _ = await asyncio.wait({waiting}, timeout=0.1)
    assert not done

    bus.come_back()

    async with asyncio.timeout(5):
        assert len(await waiting) == 1


async def test_the_twin_sends_no_acknowledgement_of_what_an_old_connection_delivered(
    broker: MemoryBroker, service: str
) -> None:
    bus = MemoryBus(broker)
    await bus.ensure_stream(service)
    await bus.publish(messages(service, 1))
    subscription = await bus.subscribe(everything(service))
    (delivery,) = await take(subscription, 1)

    bus.go_away()
    await delivery.ack()
    bus.come_back()
    await delivery.ack()

    assert (await take(subscription, 1))[0].attempt == 2


@pytest.mark.parametrize(
    ("pattern", "subject", "expected"),
    [
        ("orders.order.placed.1", "orders.order.placed.1", True),
        ("orders.*.placed.*", "orders.order.placed.1", True),
        ("*.*.*.1", "orders.order.placed.1", True),
        ("orders.>", "orders.order.placed.1", True),
        (">", "orders", True),
        ("orders.order.placed.>", "orders.order.placed.1.2", True),
        ("orders.>", "orders", False),
        ("orders.*", "orders", False),
        ("orders.order.placed.*", "orders.order.placed.1.2", False),
        ("orders.order.placed.*", "orders.order.placed", False),
        ("orders.order", "orders.orders", False),
        ("*.order.placed.*", "orders.letter.placed.1", False),
    ],
)
def test_patterns_mean_what_they_mean_to_nats(pattern: str, subject: str, expected: bool) -> None:
    assert matches(pattern, subject) is expected
