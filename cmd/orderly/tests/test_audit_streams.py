"""The audit of streams, on a real server: what a stream keeps is compared with what its database says."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

import pytest
import pytest_asyncio
from nats.aio.client import Client
from nats.errors import TimeoutError as NatsTimeoutError
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig, StreamConfig

from libs.local.servers import free_port
from orderly.audit import CannotAudit, Limits, audit
from orderly.audit.kept import _wrong
from orderly.audit.look import Look
from orderly.audit.looking import consumed
from orderly.audit.reading import ORDER, together
from orderly.audit.report import OF_STREAMS
from orderly.audit.streams import State
from orderly.services import NAMES
from orderly.tests.audited import LONG_AGO, YOUNG, dashed, execute, fact, made, reset, uid

Urls = Mapping[str, str]
FACTS = (71, 72, 73)
INCARNATION = {"orderly.incarnation": "1"}


@pytest.fixture(scope="module")
def databases(tmp_path_factory: pytest.TempPathFactory) -> Urls:
    folder = tmp_path_factory.mktemp("audited")
    urls = {name: f"sqlite:///{folder / name}.db" for name in NAMES}
    asyncio.run(made(urls))
    asyncio.run(reset(urls, NAMES))
    return urls


class Kept:
    """A stream of orders with three facts, their rows, and its two consumers."""

    def __init__(self, client: Client, urls: Urls, nats_url: str) -> None:
        self.js: JetStreamContext = client.jetstream()
        self.urls = urls
        self.nats_url = nats_url

    async def make(self, *, direct: bool) -> "Kept":
        await self.js.add_stream(
            StreamConfig(
                name="ORDERS",
                subjects=["orders.>"],
                max_age=7 * 24 * 3600,
                allow_direct=direct,
                metadata=INCARNATION,
            )
        )
        for name, subjects in consumed()["orders"].items():
            await self.consume(name, list(subjects), INCARNATION)
        now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S.%f")
        for sequence, number in enumerate(FACTS, 1):
            await self.publish(number)
            await self.execute(fact(number, "orders.order.placed.x", now, published=now, sequence=sequence))
        await self.execute(f"insert into streams values ('ORDERS', 1, '{now}', 3, '{uid(73)}')")
        return self

    async def consume(self, name: str, subjects: list[str], metadata: dict[str, str]) -> None:
        config = ConsumerConfig(
            durable_name=name, filter_subjects=subjects, ack_policy=AckPolicy.EXPLICIT, metadata=metadata
        )
        await self.js.add_consumer("ORDERS", config)

    async def publish(self, number: int | None) -> None:
        headers = {"Nats-Msg-Id": dashed(number)} if number else None
        await self.js.publish("orders.order.placed.x", b"{}", headers=headers)

    async def execute(self, *statements: str) -> None:
        await execute(self.urls["orders"], statements)

    async def offenders(self, limits: Limits | None = None) -> dict[str, list[str]]:
        """Audit with a second look at whatever the first finds, which has its own way of reading."""
        report = await audit(self.urls, self.nats_url, patience_s=0.05, limits=limits)
        return {name: [one.id.replace("-", "") for one in found] for name, found in report.offenders().items()}


@pytest_asyncio.fixture(params=[True, pytest.param(False, marks=pytest.mark.prove)], ids=["in batches", "singly"])
async def kept(request: pytest.FixtureRequest, databases: Urls, nats_url: str) -> AsyncIterator[Kept]:
    client = Client()
    await client.connect(nats_url)
    yield await Kept(client, databases, nats_url).make(direct=request.param)
    await client.close()
    await reset(databases, ["orders"])


in_batches = pytest.mark.parametrize("kept", [True], indirect=True)


async def test_what_a_stream_keeps_is_read_and_found_to_be_sound(kept: Kept) -> None:
    report = await audit(kept.urls, kept.nats_url)
    assert (report.offenders(), report.looks) == ({}, 1)
    examined = {check.name: check.examined for check in report.checks}
    assert [examined[name] for name in OF_STREAMS] == [5, 3, 3, 2]
    assert not any(check.skipped for check in report.checks)


async def test_long_streams_are_read_to_their_end(kept: Kept) -> None:
    await asyncio.gather(*(kept.publish(1_000 + number) for number in range(600)))
    await kept.execute(*(fact(1_000 + number, "orders.order.placed.x", YOUNG) for number in range(599)))
    (unexplained,) = (await kept.offenders())["messages_explained"]
    message = await kept.js.get_msg("ORDERS", int(unexplained.removeprefix("ORDERS/")))
    assert (message.headers or {})["Nats-Msg-Id"] == dashed(1_599)


async def a_fact_the_stream_lost(kept: Kept) -> None:
    now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S.%f")
    await kept.execute(fact(74, "orders.order.placed.x", now, published=now, sequence=4))


async def facts_that_changed_places(kept: Kept) -> None:
    await kept.execute(f"update outbox set sequence = 3 - sequence where id in ('{uid(71)}', '{uid(72)}')")


async def a_fact_that_aged_out(kept: Kept) -> None:
    await kept.execute(fact(74, "orders.order.placed.x", LONG_AGO, published=LONG_AGO, sequence=4))


async def a_message_nobody_stated(kept: Kept) -> None:
    await kept.publish(75)


async def a_message_without_id(kept: Kept) -> None:
    await kept.publish(None)


async def a_message_not_yet_marked(kept: Kept) -> None:
    await kept.publish(74)
    await kept.execute(fact(74, "orders.order.placed.x", YOUNG))


async def a_message_that_looks_like_a_servers_answer(kept: Kept) -> None:
    """Headers with a status, which end a batch when they are the server's own."""
    reader, writer = await asyncio.open_connection("127.0.0.1", urlsplit(kept.nats_url).port)
    headers = b"NATS/1.0 503\r\nNats-Sequence: 9\r\n\r\n"
    length = str(len(headers)).encode()
    writer.write(b'CONNECT {"headers": true, "verbose": false}\r\n')
    writer.write(b"HPUB orders.a.b.c " + length + b" " + length + b"\r\n" + headers + b"\r\nPING\r\n")
    while b"PONG" not in await reader.readline():
        pass
    writer.close()
    await kept.publish(74)
    now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S.%f")
    await kept.execute(fact(74, "orders.order.placed.x", now, published=now, sequence=5))


async def a_stream_of_another_incarnation(kept: Kept) -> None:
    await kept.execute("update streams set incarnation = 2")


async def a_stream_that_is_gone(kept: Kept) -> None:
    await kept.js.delete_stream("ORDERS")


async def a_mark_beyond_the_end(kept: Kept) -> None:
    await kept.execute("update streams set sequence = 4")


async def a_consumer_that_is_gone(kept: Kept) -> None:
    await kept.js.delete_consumer("ORDERS", "billing")


async def a_consumer_of_another_incarnation(kept: Kept) -> None:
    await kept.js.delete_consumer("ORDERS", "billing")
    await kept.consume("billing", ["orders.order.placed.*"], {"orderly.incarnation": "7"})


FOUND: dict[Callable[[Kept], Awaitable[None]], dict[str, list[str]]] = {
    a_fact_the_stream_lost: {"facts_in_streams": [uid(74)]},
    facts_that_changed_places: {"facts_in_streams": [uid(71), uid(72)]},
    a_fact_that_aged_out: {},
    a_message_nobody_stated: {"messages_explained": ["ORDERS/4"]},
    a_message_without_id: {"messages_explained": ["ORDERS/4"]},
    a_message_not_yet_marked: {},
    a_message_that_looks_like_a_servers_answer: {"messages_explained": ["ORDERS/4"]},
    a_stream_of_another_incarnation: {"streams_of_incarnation": ["ORDERS"]},
    a_stream_that_is_gone: {"streams_of_incarnation": ["ORDERS"]},
    a_mark_beyond_the_end: {"streams_of_incarnation": ["ORDERS"]},
    a_consumer_that_is_gone: {"durables_keep_up": ["ORDERS.billing"]},
    a_consumer_of_another_incarnation: {"durables_keep_up": ["ORDERS.billing"]},
}


@in_batches
@pytest.mark.parametrize("spoil", FOUND, ids=lambda spoil: spoil.__name__)
async def test_what_is_spoiled_is_found(kept: Kept, spoil: Callable[[Kept], Awaitable[None]]) -> None:
    await spoil(kept)
    found = await kept.offenders()
    assert {name: sorted(ids) for name, ids in found.items()} == FOUND[spoil]


@pytest.mark.parametrize("kept", [False], indirect=True)
async def test_what_is_read_singly_is_the_same(kept: Kept) -> None:
    await a_message_that_looks_like_a_servers_answer(kept)
    assert await kept.offenders() == {"messages_explained": ["ORDERS/4"]}


@in_batches
async def test_a_consumer_that_handles_nothing_for_days_is_found(kept: Kept) -> None:
    now = Limits(unhandled=timedelta(0))
    # Nobody but billing wants what the stream keeps.
    assert await kept.offenders(now) == {"durables_keep_up": ["ORDERS.billing"]}
    subscription = await kept.js.pull_subscribe_bind(consumer="billing", stream="ORDERS")
    for message in await subscription.fetch(3):
        await message.ack_sync()
    assert await kept.offenders(now) == {}


@pytest.mark.parametrize(
    ("floor", "delivered", "wrong"), [(3, 3, False), (4, 4, True), (3, 4, True)], ids=["in", "acked", "delivered"]
)
async def test_a_consumer_beyond_the_end_of_its_stream_is_found(floor: int, delivered: int, *, wrong: bool) -> None:
    consumer: dict[str, Any] = {
        "ack_floor": {"stream_seq": floor},
        "delivered": {"stream_seq": delivered},
        "config": {"metadata": INCARNATION, "durable_name": "billing"},
        "num_pending": 0,
        "num_ack_pending": 0,
    }
    state = State(1, 1, 3, timedelta(days=7), direct=True)
    look = Look({}, Limits(), lambda _rows: None)
    assert bool(await _wrong(None, "ORDERS", state, look, consumer)) is wrong  # type: ignore[arg-type] # nobody is asked


@in_batches
async def test_a_question_that_vanishes_is_asked_again(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    """As they do while several servers elect the leader of a stream."""
    vanished: set[str] = set()
    request: Any = Client.request

    async def request_again(client: Client, subject: str, *arguments: Any, **options: Any) -> Any:
        if subject not in vanished:
            vanished.add(subject)
            raise NatsTimeoutError
        return await request(client, subject, *arguments, **options)

    monkeypatch.setattr(Client, "request", request_again)
    assert await kept.offenders() == {}
    assert "$JS.API.STREAM.INFO.ORDERS" in vanished


async def test_without_a_server_it_says_so(databases: Urls) -> None:
    with pytest.raises(CannotAudit, match="the streams cannot be read: no NATS server at"):
        await audit(databases, f"nats://127.0.0.1:{free_port()}")


async def test_snapshots_are_taken_of_every_service() -> None:
    assert sorted(ORDER) == sorted(NAMES)


async def test_sources_are_merged_by_their_first_column() -> None:
    async def rows(*numbers: int) -> AsyncIterator[tuple[int, str]]:
        for number in numbers:
            yield number, "row"

    merged = [(key, [len(group) for group in groups]) async for key, groups in together(rows(1, 2, 2), rows(), rows(2))]
    assert merged == [(1, [1, 0, 0]), (2, [2, 0, 1])]
