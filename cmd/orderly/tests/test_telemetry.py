"""What a running system says about itself: an order as one trace, and numbers that are what they are called."""

import asyncio
import math
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass

import aiohttp
import pytest
import pytest_asyncio
from nats.aio.client import Client
from prometheus_client.parser import text_string_to_metric_families

from libs.telemetry.tests.collector import Collector, Received, collecting
from libs.tests.eventually import eventually
from libs.tracing import Trace
from orderly.credentials import ensure_credentials
from orderly.services import NAMES
from orderly.system import System
from orderly.tests.systems import customers, running_system

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.xdist_group("telemetry")]

MEASURED_WITHIN_S = 20
"""Gauges are looked up every five seconds."""

SERVER, CLIENT, PRODUCER, CONSUMER = 2, 3, 4, 5


@dataclass(slots=True)
class Watched:
    """A system, the collector that its traces go to, and whoever scrapes its metrics."""

    system: System
    collector: Collector
    session: aiohttp.ClientSession

    async def metrics(self, service: str) -> dict[str, float]:
        """Scrape a service; the names are as they are in the text, labels included in alphabetical order."""
        urls = [self.system.url] if service == "gateway" else self.system.service_urls(service)
        async with self.session.get(f"{urls[0]}/metrics") as response:
            assert response.status == 200
            families = list(text_string_to_metric_families(await response.text()))
        return {
            one.name + "".join(f" {name}={text}" for name, text in sorted(one.labels.items())): one.value
            for family in families
            for one in family.samples
        }

    async def metric(self, service: str, name: str) -> float:
        """Scrape one number; NaN while it is not there."""
        return (await self.metrics(service)).get(name, math.nan)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def watched() -> AsyncIterator[Watched]:
    """A system that the tests of this module share."""
    async with collecting() as collector, aiohttp.ClientSession() as session:
        settings = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint, "TRACES_PER_SECOND": "1000"}
        async with running_system("sqlite", extra=settings) as system:
            yield Watched(system, collector, session)


async def whole(collector: Collector, client: Trace, last: str) -> list[Received]:
    """Wait until a trace has the span `last`, and every span its parent, which may be the client's."""

    def complete() -> bool:
        spans = collector.of(client.trace_id)
        known = {client.span_id, *(span.span_id for span in spans)}
        return last in {span.name for span in spans} and {span.parent_id for span in spans} <= known

    await eventually(complete, within_s=20)
    return collector.of(client.trace_id)


async def test_an_order_is_one_trace_through_all_services(watched: Watched) -> None:
    client = Trace.start()
    async with customers(watched.system) as customer:
        ann = await customer().arrive("10")
        _, order = await ann.order("5", traceparent=client.header)
    spans = await whole(watched.collector, client, "publish NOTIFICATIONS")
    by_id = {span.span_id: span for span in spans}

    def path(span: Received) -> list[str]:
        above = path(by_id[span.parent_id]) if span.parent_id != client.span_id else []
        return [*above, f"{span.service}: {span.name}"]

    (letter,) = [span for span in spans if span.name == "create notifications.letter.stored"]
    assert path(letter) == [
        "gateway: POST /client/orders",
        "gateway: POST",
        "orders: POST /orders",
        "orders: create orders.order.placed",
        "billing: process orders.order.placed",
        "billing: create billing.payment.accepted",
        "orders: process billing.payment.accepted",
        "orders: create orders.order.confirmed",
        "notifications: process orders.order.confirmed",
        "notifications: create notifications.letter.stored",
    ]
    assert {path(span)[0] for span in spans} == {"gateway: POST /client/orders"}
    assert [by_id[span.parent_id].name for span in spans if span.name == "place_orders"] == ["POST /orders"]
    assert not [span for span in spans if span.failed]
    (asked,) = [span for span in spans if span.name == "process orders.order.placed"]
    assert asked.kind == CONSUMER
    assert asked.attributes["messaging.system"] == "nats"
    assert asked.attributes["messaging.destination.name"] == f"orders.order.placed.{order['id']}"
    assert asked.attributes["messaging.consumer.group.name"] == "billing"
    assert {span.kind for span in spans if span.name.startswith("create ")} == {PRODUCER}


async def test_whatever_is_done_with_several_links_to_each(watched: Watched) -> None:
    clients = [Trace.start() for _ in range(30)]
    async with customers(watched.system) as customer:
        ann = await customer().arrive("100")
        await asyncio.gather(*(ann.order("1", traceparent=client.header) for client in clients))
    for client in clients:
        await whole(watched.collector, client, "create notifications.letter.stored")
    ours = {client.trace_id for client in clients}
    spans = [span for span in watched.collector.spans if span.trace_id in ours]
    for batch, member in (
        ("place_orders", "POST /orders"),
        ("publish ORDERS", "create orders.order.placed"),
        ("process ORDERS", "process orders.order.placed"),
        ("process BILLING", "process billing.payment.accepted"),
    ):
        members = {(span.trace_id, span.span_id) for span in spans if span.name == member}
        linked = [link for span in watched.collector.spans if span.name == batch for link in span.links]
        assert len(members) == 30
        assert members <= set(linked), batch
        assert len(linked) == len(set(linked)), f"{batch}: something is done twice"
    assert max(len(span.links) for span in spans if span.name == "place_orders") > 1


async def test_requests_batches_and_messages_are_counted(watched: Watched) -> None:
    services = ("gateway", "orders", "billing", "notifications")

    async def numbers() -> dict[str, dict[str, float]]:
        return dict(zip(services, await asyncio.gather(*map(watched.metrics, services)), strict=True))

    before = await numbers()
    async with customers(watched.system) as customer:
        ann = await customer().arrive("10")
        for _ in range(3):
            await ann.order("2")
        await ann.audit()
    after = await numbers()

    def grew(service: str, name: str) -> float:
        return after[service][name] - before[service].get(name, 0)

    assert grew("gateway", "http_requests_total method=POST route=/client/orders status=201") == 3
    assert grew("orders", "http_requests_total method=POST route=/orders status=201") == 3
    assert grew("orders", "http_request_duration_seconds_count method=POST route=/orders") == 3
    assert grew("orders", "batch_size_sum work=place_orders") == 3
    assert grew("billing", "batch_size_sum work=orders.order.placed") == 3
    assert grew("billing", "messages_consumed_total outcome=handled stream=ORDERS") == 3
    assert grew("orders", "messages_published_total outcome=stored") == 6
    assert grew("notifications", "batch_duration_seconds_count work=orders.order.confirmed") >= 1
    assert after["orders"]["nats_connected"] == 1
    assert after["orders"]["database_pool_connections state=idle"] >= 1


async def test_a_quiet_system_is_not_behind(watched: Watched) -> None:
    async def caught_up() -> bool:
        numbers = await asyncio.gather(*map(watched.metrics, NAMES))
        behind = [
            value
            for each in numbers
            for name, value in each.items()
            if name.startswith(("consumer_lag_", "consumer_ack_pending_", "outbox_oldest_", "orders_oldest_"))
        ]
        return len(behind) >= 5 and all(value == 0 for value in behind)

    await eventually(caught_up, within_s=MEASURED_WITHIN_S)


async def test_metrics_are_not_reached_through_the_public_door(watched: Watched) -> None:
    for path in ("/metrics", "/orders/metrics", "/orders/../metrics", "/orders/%2e%2e/metrics", "/users/../../metrics"):
        reader, writer = await asyncio.open_connection("127.0.0.1", watched.system.plan.gateway_port)
        writer.write(f"GET /client{path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        answer = (await asyncio.wait_for(reader.read(), 10)).decode()
        writer.close()
        assert answer.split(" ")[1] in ("401", "404"), (path, answer)
        assert "http_requests_total" not in answer


async def test_a_message_that_nobody_can_handle_is_counted_until_attended(watched: Watched) -> None:
    client, password = Client(), ensure_credentials(watched.system.plan.data_dir / "keys").nats["orders"]
    await client.connect(watched.system.nats_url, user="orders", password=password, inbox_prefix="_INBOX_orders")
    await client.jetstream().publish("orders.order.placed.nonsense", b"nonsense")
    await client.close()

    async def counted() -> bool:
        return await watched.metric("billing", "dead_letters_unattended service=billing") == 1

    await eventually(counted, within_s=MEASURED_WITHIN_S)
    assert await watched.metric("billing", "messages_consumed_total outcome=dead stream=ORDERS") == 1


@pytest.mark.parametrize("ails", ["answers 500", "hangs"])
async def test_a_collector_that_ails_hurts_no_request(watched: Watched, ails: str) -> None:
    async with customers(watched.system) as customer:
        ann = await customer().arrive("100")
        well = await _slowest(ann.order, 10)
        asked = watched.collector.asked
        watched.collector.status, watched.collector.hangs = (500, False) if ails == "answers 500" else (200, True)
        try:
            slowest = [await _slowest(ann.order, 10)]
            await eventually(lambda: watched.collector.asked >= asked + 4, within_s=10)
            slowest.append(await _slowest(ann.order, 10))
        finally:
            watched.collector.status, watched.collector.hangs = 200, False
        assert max(slowest) < well + 2, "the collector's five seconds were waited for"
        assert await ann.audit() == {"confirmed": 30}
    assert set(ann.statuses) <= {200, 201}


@pytest.mark.prove  # more than ten seconds have to pass
async def test_what_waits_for_the_broker_gets_older(watched: Watched) -> None:
    """The last test: it takes the broker away, and brings it back."""

    async def older_than(name: str, seconds: float) -> bool:
        return await watched.metric("orders", name) > seconds

    async with customers(watched.system) as customer:
        ann = await customer().arrive("10")
        await watched.system.supervisor.stop(["nats"])
        assert (await ann.order("5"))[0] == 202
        await eventually(lambda: older_than("outbox_oldest_unpublished_seconds", 3), within_s=MEASURED_WITHIN_S)
        await eventually(lambda: older_than("orders_oldest_pending_seconds", 3), within_s=MEASURED_WITHIN_S)
        assert await watched.metric("orders", "nats_connected") == 0
        assert math.isnan(await watched.metric("orders", "consumer_lag_messages consumer=orders stream=BILLING"))
        assert await watched.metric("orders", "messages_published_total outcome=failed") >= 1
        await watched.system.start_nats()
        await watched.system.healthy(within_s=60)
        assert await ann.audit(within_s=45) == {"confirmed": 1}

    async def caught_up() -> bool:
        numbers = await watched.metrics("orders")
        names = ("outbox_oldest_unpublished_seconds", "orders_oldest_pending_seconds")
        return all(numbers[name] == 0 for name in names)

    await eventually(caught_up, within_s=MEASURED_WITHIN_S)


async def _slowest(order: object, count: int) -> float:
    assert callable(order)
    took = []
    for _ in range(count):
        started = time.monotonic()
        status, placed = await order("1")
        assert status == 201, placed
        took.append(time.monotonic() - started)
    return max(took)
