"""Three servers, and the one that leads a stream dies again and again: what is published is stored, in order, once."""

import os
import signal
from collections.abc import Sequence
from contextlib import suppress

import pytest

from libs.contracts import stream_of
from libs.messaging.bus import BusUnavailable
from libs.messaging.envelope import Outgoing
from libs.messaging.jetstream import JetStream
from libs.messaging.tests.conftest import Cluster
from libs.messaging.tests.stage import everything, messages, running, take
from libs.tests.eventually import eventually

pytestmark = pytest.mark.prove


async def made(bus: JetStream, service: str) -> bool:
    """Make the stream, once there is somebody to ask."""
    with suppress(BusUnavailable):
        await bus.ensure_stream(service)
        return True
    return False


async def stored(bus: JetStream, service: str) -> dict[int, str]:
    """Which id a stream has at each sequence."""
    state = await bus.stream(service)
    assert state is not None
    reader = await bus.subscribe(everything(service))
    kept = await take(reader, state.last_sequence - state.first_sequence + 1, within_s=60)
    return {delivery.sequence: delivery.headers["Nats-Msg-Id"] for delivery in kept}


class Publisher:
    """Publishes one batch after the other, each again and again until it is acknowledged, as the relay does."""

    def __init__(self, bus: JetStream, service: str) -> None:
        self.service = service
        self.bus = bus
        self.sent: list[Outgoing] = []
        self.sequences: list[int] = []
        self.repeated = 0

    async def run(self) -> None:
        """Publish until cancelled."""
        while True:
            batch = messages(self.service, 10)
            self.sent += batch
            await eventually(lambda batch=batch: self._published(batch), within_s=60)  # type: ignore[misc] # bound now

    async def _published(self, batch: Sequence[Outgoing]) -> bool:
        try:
            self.sequences += await self.bus.publish(batch)
        except BusUnavailable as error:
            self.repeated += 1
            print(f"not stored: {error}")  # noqa: T201 - shown when the test fails
            return False
        return True

    async def acknowledges(self, count: int) -> None:
        """Wait until so many more messages are acknowledged."""
        wanted = len(self.sequences) + count
        await eventually(lambda: len(self.sequences) >= wanted, within_s=60)


async def kill_leader(cluster: Cluster, bus: JetStream, service: str) -> None:
    """End the server that leads the stream of `service`; its supervisor starts it again."""
    leaders: list[str] = []

    async def led() -> bool:
        with suppress(Exception):
            info = await bus._questions.stream_info(stream_of(service))
            peers = info.cluster.replicas or [] if info.cluster else []
            if info.cluster and info.cluster.leader and all(peer.current for peer in peers):
                leaders.append(info.cluster.leader)
        return bool(leaders)

    await eventually(led, within_s=60)
    pid = cluster._supervisor.pid(leaders[0])
    assert pid is not None
    os.kill(pid, signal.SIGKILL)


@pytest.mark.timeout(240)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # nats-py forgets writers it gave up
async def test_batches_that_are_published_while_leaders_die_are_where_it_is_said_and_once(
    cluster: Cluster, service: str
) -> None:
    bus, other = await cluster.connect(), await cluster.connect()
    await eventually(lambda: made(bus, service), within_s=60)
    publisher = Publisher(bus, service)
    async with running(publisher.run()):
        for _ in range(4):
            await publisher.acknowledges(200)
            await kill_leader(cluster, other, service)
        await publisher.acknowledges(200)
    assert publisher.repeated, "no leader died while anything was published"
    kept = await stored(other, service)
    marked = {sequence: str(message.id) for sequence, message in zip(publisher.sequences, publisher.sent, strict=False)}
    assert marked.items() <= kept.items(), "a message is not where its acknowledgement says"
    assert publisher.sequences == sorted(publisher.sequences), "a later message is before an earlier one"
    assert len(set(kept.values())) == len(kept), "a message is stored twice"
