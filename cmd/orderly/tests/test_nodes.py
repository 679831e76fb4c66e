"""Three NATS servers that keep every stream together: one may die at any time, and two must not lie."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Final

import aiohttp
import pytest
from nats.errors import Error as NatsError
from nats.js import JetStreamContext
from nats.js.api import ClusterInfo, StreamInfo
from sqlalchemy import select

from libs.contracts import stream_of
from libs.ids import uuid7
from libs.local.servers import free_port
from libs.local.supervisor import environment
from libs.messaging.durable import incarnation_of
from libs.messaging.tables import outbox
from libs.storage import Database
from libs.tests.eventually import eventually
from orderly.audit.looking import consumed
from orderly.services import NAMES
from orderly.system import Plan, System
from orderly.tail import watching
from orderly.tests.ordering import ordering
from orderly.tests.systems import Customer, assert_the_books_balance, customers, running_system

pytestmark = pytest.mark.prove

NODES: Final = ("nats", "nats-2", "nats-3")
PROGRAM: Final = str(Path(sys.executable).parent / "orderly")
ANSWERED_WITHIN_S: Final = 10.0
"""Patience is half a second; the rest is for a slow machine."""
PAUSE_AT_MOST_S: Final = 20.0


@asynccontextmanager
async def observed(system: System) -> AsyncIterator[JetStreamContext]:
    """What the observer may ask, of whichever node answers."""
    async with watching(system.nats_url, "nothing", lambda _: None) as client:
        yield client.jetstream(timeout=2)


async def state_of(jetstream: JetStreamContext, service: str) -> StreamInfo | None:
    """Ask how the stream of a service stands; nothing while nobody leads it."""
    try:
        return await jetstream.stream_info(stream_of(service))
    except (NatsError, TimeoutError):
        return None


async def leader_of(jetstream: JetStreamContext, service: str) -> str:
    """Name the node that leads the stream of a service."""
    found: list[str] = []

    async def led() -> bool:
        info = await state_of(jetstream, service)
        if info and info.cluster and info.cluster.leader:
            found.append(info.cluster.leader)
        return bool(found)

    await eventually(led, within_s=60)
    return found[0]


def complete(cluster: ClusterInfo | None) -> bool:
    """Whether there is a leader, and two others have all that it has."""
    if cluster is None or not cluster.leader or len(cluster.replicas or []) != 2:
        return False
    return all(peer.current and not peer.offline for peer in cluster.replicas or [])


async def everybody_is_current(jetstream: JetStreamContext) -> bool:
    """Whether every stream and every durable consumer is whole on three nodes."""
    for name in NAMES:
        info = await state_of(jetstream, name)
        if info is None or not complete(info.cluster):
            return False
        try:
            there = await jetstream.consumers_info(stream_of(name))
        except (NatsError, TimeoutError):
            return False
        if {one.name for one in there} != set(consumed()[name]) or not all(complete(one.cluster) for one in there):
            return False
    return True


async def kill(system: System, *nodes: str) -> None:
    """End nodes at once, as a power cut does, and keep them from being started again."""
    for node in nodes:
        pid = system.supervisor.pid(node)
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
    await system.supervisor.stop(nodes)


async def bring_back(system: System, jetstream: JetStreamContext) -> None:
    """Start the nodes that are away, and wait until nothing is missing on any."""
    await system.start_nats()
    await eventually(lambda: everybody_is_current(jetstream), within_s=60)


def names_in(cluster: ClusterInfo | None) -> set[str]:
    """Name the nodes that keep something together."""
    assert cluster is not None
    return {str(cluster.leader), *(str(peer.name) for peer in cluster.replicas or [])}


async def incarnations(jetstream: JetStreamContext) -> set[int]:
    """Say how often streams have been made."""
    streams = [await jetstream.stream_info(stream_of(name)) for name in NAMES]
    return {incarnation_of(stream.config.metadata) for stream in streams}


async def told(system: System, *arguments: str) -> tuple[int | None, str]:
    """Give a command beside the running system; return its exit code and what it printed."""
    plan = system.plan
    env = environment(DATA_DIR=str(plan.data_dir), NATS_PORT=str(plan.nats_port))
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(PROGRAM, *arguments, env=env, stdout=pipe, stderr=pipe)
    printed, complained = await process.communicate()
    return process.returncode, (printed + complained).decode()


async def test_every_stream_is_kept_three_times_and_commands_find_the_nodes_that_are_there() -> None:
    async with (
        running_system("sqlite", cluster=True) as system,
        observed(system) as jetstream,
        customers(system) as customer,
    ):
        await eventually(lambda: everybody_is_current(jetstream), within_s=60)
        for name in NAMES:
            stream = await jetstream.stream_info(stream_of(name))
            assert stream.config.num_replicas == 3
            durables = await jetstream.consumers_info(stream_of(name))
            for cluster in (stream.cluster, *(durable.cluster for durable in durables)):
                assert names_in(cluster) == set(NODES)
        ann = await customer().arrive("100")
        await kill(system, "nats")  # the one whose port is known
        assert (await told(system, "audit"))[0] == 0
        assert (await told(system, "dead", "list"))[0] == 0
        assert (await tailed(system, ann)).startswith("orders.order.")


async def tailed(system: System, ann: Customer) -> str:
    """Order until ``tail`` shows the first event; return it without its time."""
    env = environment(DATA_DIR=str(system.plan.data_dir), NATS_PORT=str(system.plan.nats_port))
    pipe = asyncio.subprocess.PIPE
    tail = await asyncio.create_subprocess_exec(PROGRAM, "tail", "orders.>", env=env, stdout=pipe)
    assert tail.stdout is not None
    reading = asyncio.create_task(tail.stdout.readline())

    async def shown() -> bool:
        await ann.order("1", **{"Idempotency-Key": str(uuid7())})
        return reading.done()

    try:
        await eventually(shown, within_s=60)
    finally:
        tail.send_signal(signal.SIGINT)
        assert await tail.wait() == 0
    return (await reading).decode().partition(" ")[2]


@pytest.mark.timeout(400)
async def test_one_node_after_the_other_is_killed_under_load_and_no_order_is_lost() -> None:
    async with (
        running_system("sqlite", cluster=True) as system,
        observed(system) as jetstream,
        customers(system) as customer,
    ):
        await eventually(lambda: everybody_is_current(jetstream), within_s=60)
        people = [await customer().arrive("100000") for _ in range(4)]
        async with ordering(people) as load:
            await load.confirms(20, within_s=60)
            left = set(NODES)
            while left:
                leaders = [await leader_of(jetstream, name) for name in ("orders", "billing")]
                victim = next((node for node in leaders if node in left), min(left))
                left.remove(victim)
                await kill(system, victim)
                await load.confirms(20, within_s=60)  # by two
                await bring_back(system, jetstream)
            await load.confirms(20, within_s=60)
        said = f"the longest pause between two confirmed orders: {load.longest_pause_s:.1f} s"
        print(f"{said} ({load.pending} answered 202, {load.refused} times 503)")
        for person in people:
            assert set(await person.audit(within_s=90)) == {"confirmed"}
        await assert_the_books_balance(system)
        assert await incarnations(jetstream) == {1}, "a stream was made anew for nothing"
        assert load.longest_pause_s < PAUSE_AT_MOST_S, said


async def answer_to(ann: Customer) -> tuple[int, bool]:
    """Order once more; return the status, and whether it is said when to come again."""
    headers = {"Authorization": f"Bearer {ann.token}", "Idempotency-Key": str(uuid7())}
    url = f"{ann.base}/client/orders"
    async with (
        asyncio.timeout(ANSWERED_WITHIN_S),
        ann.session.post(url, json={"price": "1"}, headers=headers) as response,
    ):
        answer = await response.json()
        if response.status in (201, 202):
            ann.orders[answer["id"]] = Decimal(1)
        return response.status, "Retry-After" in response.headers


@pytest.mark.timeout(400)
async def test_one_node_alone_confirms_nothing_and_what_was_taken_settles_when_the_others_are_back() -> None:
    async with (
        running_system("postgres", cluster=True, extra={"PATIENCE_S": "0.5"}) as system,
        observed(system) as jetstream,
        customers(system) as customer,
    ):
        await eventually(lambda: everybody_is_current(jetstream), within_s=60)
        ann = await customer().arrive("1000")
        await kill(system, *NODES[:2])
        answers: list[tuple[int, bool]] = []

        async def last_answer_is(status: int) -> bool:
            answers.append(await answer_to(ann))
            return answers[-1][0] == status

        await eventually(lambda: last_answer_is(503), within_s=60)
        assert set(answers) == {(202, False), (503, True)}
        assert (await ann.call("GET", "/health/"))[0] == 503
        await bring_back(system, jetstream)
        await eventually(lambda: last_answer_is(201), within_s=60)
        assert set(await ann.audit(within_s=90)) == {"confirmed"}
        await assert_the_books_balance(system)
        assert await incarnations(jetstream) == {1}, "a stream was made anew for nothing"


async def test_one_server_and_three_nodes_take_over_from_each_other(tmp_path: Path) -> None:
    plan = Plan(tmp_path, free_port(), free_port())
    async with aiohttp.ClientSession() as session:
        ann = Customer(session, f"http://127.0.0.1:{plan.gateway_port}")
        for cluster in (False, True, False):
            system = System(replace(plan, cluster=cluster), lambda _: None)
            await system.start()
            try:
                await orders_here(ann, system)
                if len(ann.orders) == 3:
                    assert await ann.audit(within_s=90) == {"confirmed": 3}
                    await assert_the_books_balance(system)
            finally:
                await system.stop()


async def orders_here(ann: Customer, system: System) -> None:
    """Order, and wait until this broker keeps everything that the one before kept, handled or not."""
    if not ann.token:
        await ann.arrive("100")
    assert (await ann.order("1"))[0] in (201, 202)
    async with observed(system) as jetstream:
        await eventually(lambda: published(system, jetstream), within_s=60)


async def published(system: System, jetstream: JetStreamContext) -> bool:
    """Whether the stream of orders has every fact that orders has stated."""
    database = Database(system.database_url("orders"), name="test")
    try:
        async with database.reading() as connection:
            marks = (await connection.execute(select(outbox.c.sequence))).scalars().all()
    finally:
        await database.close()
    stream = await state_of(jetstream, "orders")
    return stream is not None and None not in marks and stream.state.messages == len(marks)
