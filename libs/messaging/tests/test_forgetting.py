"""A broker that forgets: whatever it lost, no fact is missing afterwards, and no effect was had twice."""

import asyncio
import contextlib
import itertools
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy.ext.asyncio import AsyncConnection

from libs.contracts.orders import OrderConfirmed, OrderPlaced
from libs.messaging import durable, outbox, own_stream, pull, relay
from libs.messaging.bus import BusUnavailable
from libs.messaging.consumer import Consumer, Listens, durables
from libs.messaging.envelope import Event, Origin, seal
from libs.messaging.jetstream import JetStream
from libs.messaging.tests.conftest import Cluster, Server
from libs.messaging.tests.stage import (
    Stage,
    effects,
    effects_in,
    everything,
    messages,
    order_placed,
    rows,
    running,
    take,
)
from libs.messaging.unit import Unit
from libs.storage import Database
from libs.storage.sets import insert_new
from libs.tests.eventually import eventually
from libs.tracing import Trace

pytestmark = pytest.mark.prove
Work = Unit[AsyncConnection]
ACK_WAIT_S = 2.0


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rests, sweeps, looks and takes over sooner than in production."""
    monkeypatch.setattr(durable, "ACK_WAIT_S", ACK_WAIT_S)
    monkeypatch.setattr(relay, "SWEEP_EVERY_S", 0.1)
    monkeypatch.setattr(own_stream, "CHECK_EVERY_S", 0.5)
    monkeypatch.setattr(own_stream, "OTHERS_TURN", own_stream.OTHERS_TURN / 10)
    monkeypatch.setattr(pull, "CHECK_EVERY_S", 1.0)


class Replica:
    """One process of orders, which also answers its own facts: each order placed is confirmed, once."""

    def __init__(self, database: Database, bus: JetStream) -> None:
        self.stage = Stage(database, bus)
        self.gate = asyncio.Event()
        self.gate.set()
        self.arrived = asyncio.Event()

    async def on_orders_placed(self, events: Sequence[Event[OrderPlaced]], unit: Work) -> None:
        keys = [event.fact.order_id for event in events]
        new = await insert_new(unit.connection, effects, [{"id": key, "times": 1} for key in keys], key="id")
        for event in events:
            if event.fact.order_id in new:
                new.discard(event.fact.order_id)
                order = event.fact
                confirmed = OrderConfirmed(order_id=order.order_id, user_id=order.user_id, price=order.price)
                unit.publish(confirmed, cause=event)

    @asynccontextmanager
    async def working(self) -> AsyncIterator[None]:
        """Publish and consume until the end of the block."""
        table = [Listens(OrderPlaced, self.on_orders_placed)]
        (wanted,) = durables("billing", table)
        consumer = Consumer("billing", wanted, table, self.stage.units, batch_limit=16)
        commit = consumer._commit

        async def held_up(events: Mapping[str, Sequence[Event[Any]]]) -> None:
            self.arrived.set()
            await self.gate.wait()
            await commit(events)

        consumer._commit = held_up  # type: ignore[method-assign] # outside the transaction: SQLite has one writer
        async with self.stage.relaying(), running(consumer.run(self.stage.bus)):
            yield


class Scene:
    """A database, a broker, and the orders that were placed."""

    def __init__(self, database: Database, server: Server, folder: Path) -> None:
        self.database = database
        self.server = server
        self.placed: list[OrderPlaced] = []
        self._store = folder / "nats" / "store"
        self._copies = (folder / f"copy-{number}" for number in itertools.count())

    async def replica(self) -> Replica:
        return Replica(self.database, await self.server.connect("orders"))

    async def place(self, replica: Replica, count: int) -> None:
        orders = [order_placed() for _ in range(count)]
        await replica.stage.state(*orders)
        self.placed += orders

    async def find(self, count: int, *, older_by: timedelta) -> None:
        """Have orders in the outbox that somebody placed some time ago."""
        orders = [order_placed() for _ in range(count)]
        earlier = int(older_by.total_seconds() * 1000) << 80
        sent = []
        for order in orders:
            new = seal(order, cause=Origin(Trace.start()), now=datetime.now(UTC) - older_by)
            old_id = UUID(int=new.id.int - earlier)
            headers = {**new.headers, "ce-id": str(old_id), "Nats-Msg-Id": str(old_id)}
            sent.append(replace(new, id=old_id, headers=headers))
        async with self.database.writing() as connection:
            await outbox.write(connection, sent)
        self.placed += orders

    @asynccontextmanager
    async def traffic(self, replica: Replica) -> AsyncIterator[None]:
        """Place orders, one after the other, until the end of the block."""
        enough = asyncio.Event()

        async def go_on() -> None:
            while not enough.is_set():
                await self.place(replica, 1)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(enough.wait(), 0.005)

        placing = asyncio.create_task(go_on())
        try:
            yield
        finally:
            enough.set()
            await placing

    async def settled(self, within_s: float = 30) -> None:
        """Wait until every order placed has had its effect, and every fact is in the stream that is there."""
        await eventually(self._all_handled, within_s)
        await eventually(self._all_marked, within_s)
        found = await rows(self.database)
        reader = await (await self.server.connect("checker")).subscribe(everything("orders"))
        kept = await take(reader, len(found), within_s=within_s)
        assert {row.subject for row in found} <= {delivery.subject for delivery in kept}
        confirmed = [row.subject for row in found if "confirmed" in row.subject]
        assert len(confirmed) == len(set(confirmed)) == len(self.placed)
        assert set((await effects_in(self.database)).values()) == {1}

    async def _all_handled(self) -> bool:
        return {order.order_id for order in self.placed} == set(await effects_in(self.database))

    async def _all_marked(self) -> bool:
        return all(row.published_at for row in await rows(self.database))

    async def wipe(self) -> None:
        """Exchange the broker's store for an empty one, while it is down."""
        await self.server.stop()
        shutil.rmtree(self._store)
        await self.server.start()

    async def copy(self) -> Path:
        """Copy the broker's store, as it is at a stop."""
        copy = next(self._copies)
        await self.server.stop()
        shutil.copytree(self._store, copy)
        await self.server.start()
        return copy

    async def restore(self, copy: Path) -> None:
        """Exchange the broker's store for an older copy, while it is down."""
        await self.server.stop()
        shutil.rmtree(self._store)
        shutil.copytree(copy, self._store)
        await self.server.start()


@pytest.fixture
async def scene(database: Database, server: Server, tmp_path: Path) -> Scene:
    return Scene(database, server, tmp_path)


async def handled(scene: Scene, count: int) -> None:
    async def so_many() -> bool:
        return len(await effects_in(scene.database)) >= count

    await eventually(so_many, 30)


async def test_a_store_that_was_wiped(scene: Scene) -> None:
    replica = await scene.replica()
    async with replica.working():
        await scene.place(replica, 50)
        await handled(scene, 50)
        async with scene.traffic(replica):
            await handled(scene, 80)
            await scene.wipe()
            await handled(scene, len(scene.placed) + 20)
        await scene.settled()


async def test_a_store_restored_from_an_older_copy_while_orders_arrive(scene: Scene) -> None:
    replica = await scene.replica()
    async with replica.working():
        await scene.place(replica, 30)
        await handled(scene, 30)
        copy = await scene.copy()
        await scene.place(replica, 30)
        await handled(scene, 60)
        async with scene.traffic(replica):
            await handled(scene, 80)
            await scene.restore(copy)
            await handled(scene, len(scene.placed) + 20)
        await scene.settled()


async def test_a_store_restored_twice_from_the_same_copy(scene: Scene) -> None:
    replica = await scene.replica()
    async with replica.working():
        await scene.place(replica, 30)
        await handled(scene, 30)
        copy = await scene.copy()
        for _ in range(2):
            async with scene.traffic(replica):
                await handled(scene, len(scene.placed) + 20)
                await scene.restore(copy)
                await handled(scene, len(scene.placed) + 20)
        await scene.settled()


async def delete_stream(scene: Scene) -> None:
    admin = await scene.server.connect("admin")
    await admin.delete_stream("orders")


async def test_a_stream_deleted_alone(scene: Scene) -> None:
    replica = await scene.replica()
    async with replica.working():
        async with scene.traffic(replica):
            await handled(scene, 30)
            await delete_stream(scene)
            await handled(scene, len(scene.placed) + 20)
        await scene.settled()


async def test_a_stream_deleted_while_nobody_publishes_is_missed(scene: Scene) -> None:
    replica = await scene.replica()
    async with replica.working():
        await scene.place(replica, 10)
        await handled(scene, 10)
        await eventually(scene._all_marked)
        await delete_stream(scene)
        await scene.settled()


async def test_a_durable_deleted_alone(scene: Scene) -> None:
    replica = await scene.replica()
    async with replica.working():
        async with scene.traffic(replica):
            await handled(scene, 30)
            admin = await scene.server.connect("admin")
            await admin._js.delete_consumer("ORDERS", "billing")
            await handled(scene, len(scene.placed) + 20)
        await scene.settled()


@pytest.mark.parametrize("loss", ["wiped", "deleted"])
async def test_a_loss_while_a_batch_is_in_flight_in_another_replica(scene: Scene, loss: str) -> None:
    slow, quick = await scene.replica(), await scene.replica()
    slow.gate.clear()
    async with slow.working():
        await scene.place(slow, 12)
        await asyncio.wait_for(slow.arrived.wait(), 30)
        async with quick.working():
            await (scene.wipe() if loss == "wiped" else delete_stream(scene))
            await eventually(scene._all_marked, 10)
            # Other messages at the sequences that the slow one is about to acknowledge.
            await scene.place(quick, 12)
            await eventually(scene._all_marked, 10)
            slow.gate.set()
            await scene.settled()


async def test_late_acknowledgements_of_what_is_gone_count_for_nothing(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    late, next_one = await scene.replica(), await scene.replica()
    late.gate.clear()
    async with late.working():
        await scene.place(late, 12)
        await asyncio.wait_for(late.arrived.wait(), 30)
        (blind,) = late.stage.bus._subscriptions  # type: ignore[attr-defined] # as if its process hung
        blind._watching.cancel()
        monkeypatch.setattr(blind, "_doubt", lambda: None)
        # Facts that a process left behind: when everything is published again, they are the first.
        await scene.find(12, older_by=timedelta(minutes=1))
        await eventually(lambda: len(blind.held()) == 12)
        blind._queue.clear()
        blind._closed = True
        await eventually(scene._all_marked, 10)
        await delete_stream(scene)
        await eventually(lambda: late.stage.relay.stream._seen == 2, 10)
        await eventually(scene._all_marked, 10)
        next_one.gate.clear()
        async with next_one.working():
            with contextlib.suppress(AssertionError):
                await eventually(next_one.arrived.is_set, ACK_WAIT_S / 2)
            late.gate.set()
            await handled(scene, 12)
            await eventually(next_one.arrived.is_set, 10)
        # It dies with the messages that were acknowledged by another, for another stream.
    last = await scene.replica()
    async with last.working():
        await scene.settled()


STEPS = ("delete_stream", "ensure_stream", "stream", "publish")


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
async def test_a_recovery_killed_halfway(scene: Scene, step: str, after: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    first = await scene.replica()
    async with first.working():
        await scene.place(first, 40)
        await handled(scene, 40)
        await eventually(scene._all_marked)
        copy = await scene.copy()
        await scene.place(first, 40)
        await handled(scene, 80)
        await eventually(scene._all_marked)
    await scene.restore(copy)

    dying = await scene.replica()
    killed = asyncio.Event()
    does: Callable[..., Awaitable[object]] = getattr(dying.stage.bus, step)
    recovering = False

    async def die(*arguments: object, **options: object) -> object:
        if recovering and not after:
            killed.set()
            await asyncio.Event().wait()
        result = await does(*arguments, **options)
        if recovering:
            killed.set()
            await asyncio.Event().wait()
        return result

    begin = own_stream.OwnStream._begin

    async def begun(self: own_stream.OwnStream, known: int, number: int) -> int:
        nonlocal recovering
        cleared = await begin(self, known, number)
        recovering = True
        return cleared

    with monkeypatch.context() as patch:
        patch.setattr(relay, "BATCH", 10)
        patch.setattr(own_stream.OwnStream, "_begin", begun)
        patch.setattr(dying.stage.bus, step, die)
        async with dying.working():
            await asyncio.wait_for(killed.wait(), 30)
    await dying.stage.bus.close()

    another = await scene.replica()
    async with another.working():
        await scene.place(another, 5)
        await scene.settled()


async def test_replicas_that_notice_at_once_make_one_stream(scene: Scene) -> None:
    replicas = [await scene.replica() for _ in range(3)]
    async with replicas[0].working(), replicas[1].working(), replicas[2].working():
        async with scene.traffic(replicas[0]), scene.traffic(replicas[1]), scene.traffic(replicas[2]):
            await handled(scene, 60)
            await scene.wipe()
            await handled(scene, len(scene.placed) + 30)
        await scene.settled()
    admin = await scene.server.connect("admin")
    state = await admin.stream("orders")
    assert state is not None
    assert state.incarnation == 2


async def test_a_stream_that_lost_its_newest_messages_is_noticed_by_the_next_acknowledgement(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    # No reconnection, no look in between: as when a leader that is behind takes over.
    monkeypatch.setattr(own_stream, "CHECK_EVERY_S", 3600.0)
    replica = await scene.replica()
    async with replica.working():
        await scene.place(replica, 30)
        await handled(scene, 30)
        await eventually(scene._all_marked)
        admin = await scene.server.connect("admin")
        await admin.delete_stream("orders")
        await admin.ensure_stream("orders", 1)
        await scene.place(replica, 1)
        await scene.settled()


def consumers_of(store: Path) -> list[Path]:
    """Where a node keeps how far consumers have got: their state, and that of their Raft groups."""
    return [*store.glob("jetstream/*/streams/ORDERS/obs"), *store.glob("jetstream/*/_js_/C-*")]


@pytest.mark.timeout(240)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # nats-py forgets writers it gave up
async def test_three_nodes_whose_stream_is_older_than_its_consumers(database: Database, cluster: Cluster) -> None:
    scene = Scene(database, cluster, cluster._folder)
    replica = await scene.replica()
    async with replica.working():
        await scene.place(replica, 30)
        await handled(scene, 30)
        await eventually(scene._all_marked, 30)
        await cluster.stop()
        for number in range(3):
            shutil.copytree(cluster.node(number) / "store", cluster.node(number) / "copy")
        await cluster.start()
        await scene.place(replica, 60)
        await handled(scene, 90)
        await eventually(scene._all_marked, 30)
        await cluster.stop()
        for number in range(3):
            older, store = cluster.node(number) / "copy", cluster.node(number) / "store"
            newer = [(path.relative_to(store), path) for path in consumers_of(store)]
            assert newer
            for place, path in newer:
                shutil.rmtree(older / place, ignore_errors=True)
                shutil.move(path, older / place)
            shutil.rmtree(store)
            older.rename(store)
        await cluster.start()
        await scene.place(replica, 40)
        await scene.settled(90)
    assert replica.stage.relay.stream._seen >= 2  # one more for each attempt that an election interrupted


async def test_a_full_stream_that_is_given_more_room_loses_nothing(database: Database, server: Server) -> None:
    small = Stage(database, await server.connect("orders", max_bytes=8_192))
    orders = [order_placed() for _ in range(60)]
    async with small.relaying():
        await small.state(*orders)
        await eventually(lambda: small.relay.lag_s > 2.5, 10)
        with pytest.raises(BusUnavailable):
            await small.bus.publish(messages("orders", 60))

    large = Stage(database, await server.connect("orders", max_bytes=1 << 20))
    async with large.relaying():
        await eventually(lambda: _marked(database), 10)
    reader = await (await server.connect("checker")).subscribe(everything("orders"))
    kept = await take(reader, 60)
    assert {order.subject for order in orders} <= {delivery.subject for delivery in kept}


async def _marked(database: Database) -> bool:
    return all(row.published_at for row in await rows(database))
