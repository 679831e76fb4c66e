"""Least privilege: what a server with the permissions of one service refuses, and what it allows."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from nats.errors import TimeoutError as NatsTimeoutError

from libs.contracts import stream_of
from libs.messaging import jetstream
from libs.messaging.bus import BusUnavailable, Durable
from libs.messaging.jetstream import JetStream
from libs.messaging.rights import observer_permissions, permissions_of
from libs.messaging.tests.conftest import Server
from libs.messaging.tests.stage import everything, message, messages, random_service, subjects_of, take
from libs.tests.eventually import eventually

PASSWORD = "not-a-secret"
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


@pytest.fixture
def other() -> str:
    """Another service, which `service` listens to."""
    return random_service()


@pytest.fixture
def durable(service: str, other: str) -> Durable:
    return Durable(stream_of(other), service, (f"{other}.order.placed.*",))


@pytest.fixture
async def guarded(
    tmp_path: Path, service: str, other: str, durable: Durable, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Server]:
    """A server where `service`, `other` and an observer may do what they need."""
    monkeypatch.setattr(jetstream, "PUBLISH_TIMEOUT_S", 1.0)  # a forbidden request is answered by silence
    rights = {
        service: permissions_of(service, [durable], [f"{service}.order.*.*"]),
        other: permissions_of(other, [], []),
        "observer": observer_permissions([service, other]),
    }
    users = [{"user": name, "password": PASSWORD, "permissions": may} for name, may in rights.items()]
    server = Server(tmp_path, {"authorization": {"users": users}})
    await server.start()
    yield server
    await server.close()


@pytest.fixture
async def own(guarded: Server, service: str) -> JetStream:
    bus = await guarded.connect(service, password=PASSWORD)
    await bus.ensure_stream(service)
    return bus


@pytest.fixture
async def foreign(guarded: Server, other: str) -> JetStream:
    bus = await guarded.connect(other, password=PASSWORD)
    await bus.ensure_stream(other)
    return bus


async def answered(bus: JetStream, subject: str, request: dict[str, Any]) -> bool:
    """Whether the server answers a request at all; it is silent where it forbids one."""
    try:
        await bus._client.request(subject, json.dumps(request).encode(), timeout=0.5)
    except NatsTimeoutError:
        return False
    return True


async def refused(attempts: Sequence[Awaitable[object]]) -> list[bool]:
    """Which attempts come to nothing; all at once, since each is answered by silence."""
    ends = await asyncio.gather(*(asyncio.wait_for(attempt, 3) for attempt in attempts), return_exceptions=True)
    return [isinstance(end, BusUnavailable | TimeoutError) for end in ends]


async def test_a_service_may_do_everything_its_table_needs(
    own: JetStream, foreign: JetStream, service: str, other: str, durable: Durable
) -> None:
    heard: list[str] = []
    await own.listen(f"{service}.order.*.*", heard.append)
    subscription = await own.subscribe(durable)
    await own.ensure_stream(service)
    placed, stated = messages(other, 2), messages(service, 2)
    await foreign.publish(placed)

    assert await own.publish(stated) == [1, 2]
    assert await own.publish(messages(service, 1)) == [3]
    taken = await take(subscription, 2)
    assert subjects_of(taken) == subjects_of(placed)
    await taken[0].nak(0)
    assert [delivery.attempt for delivery in await take(subscription, 1)] == [2]
    await eventually(lambda: heard[:2] == subjects_of(stated))


async def test_acknowledgements_are_among_its_rights(
    own: JetStream, foreign: JetStream, other: str, durable: Durable
) -> None:
    subscription = await own.subscribe(durable)
    await foreign.publish(messages(other, 1))
    await (await take(subscription, 1))[0].ack()

    async def nothing_is_pending() -> bool:
        info = await own._js.consumer_info(durable.stream, durable.name)
        return (info.num_ack_pending, info.num_pending) == (0, 0)

    await eventually(nothing_is_pending)


async def test_a_service_may_look_how_far_those_are_that_answer_it(
    own: JetStream, foreign: JetStream, service: str, other: str, durable: Durable
) -> None:
    subscription = await own.subscribe(durable)
    await foreign.publish([message(other, at=NOON)])
    await take(subscription, 1)

    assert await foreign.handled_until(durable) == NOON
    assert not await answered(own, f"$JS.API.CONSUMER.INFO.{stream_of(other)}.somebody", {})


async def test_a_service_cannot_state_the_facts_of_another(
    own: JetStream, foreign: JetStream, service: str, other: str
) -> None:
    attempts = [own.publish(messages(other, count)) for count in (1, 2)]

    assert await refused(attempts) == [True, True]
    assert (await foreign._js.stream_info(stream_of(other))).state.messages == 0


async def test_a_service_cannot_touch_the_stream_of_another(
    own: JetStream, foreign: JetStream, service: str, other: str
) -> None:
    await foreign.publish(messages(other, 1))
    stream, reader = stream_of(other), {"durable_name": "spy", "ack_policy": "explicit"}
    attempts: dict[str, dict[str, Any]] = {
        f"$JS.API.STREAM.DELETE.{stream}": {},
        f"$JS.API.STREAM.PURGE.{stream}": {},
        f"$JS.API.STREAM.UPDATE.{stream}": {"name": stream, "subjects": [f"{other}.>"], "max_age": 1},
        f"$JS.API.STREAM.MSG.GET.{stream}": {"seq": 1},
        f"$JS.API.STREAM.MSG.DELETE.{stream}": {"seq": 1},
        f"$JS.API.DIRECT.GET.{stream}": {"seq": 1},
        f"$JS.API.CONSUMER.CREATE.{stream}": {"stream_name": stream, "config": {"ack_policy": "none"}},
        f"$JS.API.CONSUMER.CREATE.{stream}.spy": {"stream_name": stream, "config": {**reader, "name": "spy"}},
        f"$JS.API.CONSUMER.CREATE.{stream}.spy.{other}.>": {"stream_name": stream, "config": {**reader, "name": "spy"}},
        f"$JS.API.CONSUMER.DURABLE.CREATE.{stream}.spy": {"stream_name": stream, "config": reader},
        f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{other}": {"batch": 1},
        f"$JS.API.CONSUMER.DELETE.{stream}.{other}": {},
    }

    answers = await asyncio.gather(*(answered(own, subject, request) for subject, request in attempts.items()))

    assert dict(zip(attempts, answers, strict=True)) == dict.fromkeys(attempts, False)
    info = await foreign._js.stream_info(stream)
    assert (info.state.messages, info.state.consumer_count) == (1, 0)


async def test_a_service_cannot_listen_to_the_facts_or_the_inbox_of_another(
    own: JetStream, foreign: JetStream, service: str, other: str
) -> None:
    heard: list[str] = []
    forbidden = (f"{other}.>", f"{other}.order.*.*", "*.order.*.*", f"_INBOX_{other}.>", ">", f"{service}.letter.>")
    for subject in (*forbidden, f"{service}.order.*.*"):
        await own.listen(subject, heard.append)
    await own._client.flush()
    await foreign.publish(messages(other, 1))
    allowed = message(service, "order.placed")
    await own.publish([message(service, "letter.stored"), allowed])

    await eventually(lambda: allowed.subject in heard)
    assert heard == [allowed.subject]


async def test_the_observer_sees_every_fact_and_changes_nothing(
    guarded: Server, own: JetStream, foreign: JetStream, service: str, other: str
) -> None:
    observer = await guarded.connect("observer", password=PASSWORD)
    heard: list[str] = []
    for subject in (f"{service}.>", f"{other}.>"):
        await observer.listen(subject, heard.append)
    await observer._client.flush()
    stated = [message(service), message(other)]
    await own.publish(stated[:1])
    await foreign.publish(stated[1:])

    await eventually(lambda: sorted(heard) == sorted(subjects_of(stated)))
    assert (await observer._js.stream_info(stream_of(service))).state.messages == 1
    attempts = [observer.publish(messages(service, 1)), observer.subscribe(everything(service))]
    assert await refused(attempts) == [True, True]
    forbidden = [f"$JS.API.STREAM.DELETE.{stream_of(service)}", f"$JS.API.STREAM.PURGE.{stream_of(service)}"]
    assert not any(await asyncio.gather(*(answered(observer, subject, {}) for subject in forbidden)))
    assert (await own._js.stream_info(stream_of(service))).state.messages == 1
