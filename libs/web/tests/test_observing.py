"""What is noted about every request: real HTTP, counted and recorded."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from libs.errors import Kind, Refusal
from libs.telemetry import Kind as SpanKind
from libs.telemetry import Metrics, Span, Spans, Telemetry
from libs.telemetry.tests.test_metrics import series, value
from libs.tests.eventually import eventually
from libs.web.app import alive, answer_problems
from libs.web.observing import TRACE, exposing, observing

Client = TestClient[web.Request, web.Application]
ABOVE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Stand:
    """A server with a few routes, and what it noted."""

    def __init__(self) -> None:
        self.recorded: list[Span] = []
        self.metrics = Metrics()
        self.telemetry = Telemetry(self.metrics, Spans(self.recorded.append, per_second=1_000))
        self.held = asyncio.Event()
        self.app = web.Application(middlewares=[observing(self.telemetry), answer_problems])
        self.app.router.add_get("/livez", alive)
        self.app.router.add_get("/metrics", exposing(self.telemetry))
        self.app.router.add_get("/orders/{order_id}", self.show)
        self.app.router.add_get("/held", self.hold)
        self.app.router.add_get("/broken", self.break_down)

    async def show(self, request: web.Request) -> web.Response:
        if request.match_info["order_id"] == "none":
            raise Refusal("no_such_order", "there is no such order", Kind.NOT_FOUND)
        return web.json_response({"trace": request[TRACE].header})

    async def hold(self, _request: web.Request) -> web.Response:
        await self.held.wait()
        return web.json_response({})

    async def break_down(self, _request: web.Request) -> web.Response:
        raise KeyError("broken")


@pytest.fixture
async def stand() -> Stand:
    return Stand()


@pytest.fixture
async def client(stand: Stand) -> AsyncIterator[Client]:
    async with TestClient(TestServer(stand.app)) as client:
        yield client


async def test_a_hundred_paths_are_one_route(stand: Stand, client: Client) -> None:
    for path in ("/orders/1", "/orders/none", "/nothing"):
        await client.get(path)
    before = series(stand.metrics).keys()
    for number in range(100):
        await client.get(f"/orders/x{number}")
        await client.get(f"/nothing/{number}?a={number}")
    assert series(stand.metrics).keys() == before
    labels = {"method": "GET", "route": "/orders/{order_id}"}
    assert value(stand.metrics, "http_requests_total", status="200", **labels) == 101
    assert value(stand.metrics, "http_requests_total", status="404", **labels) == 1
    assert value(stand.metrics, "http_requests_total", method="GET", route="unmatched", status="404") == 101


async def test_requests_in_flight_are_shown_while_they_are(stand: Stand, client: Client) -> None:
    asking = [asyncio.create_task(client.get("/held")) for _ in range(3)]
    await eventually(lambda: value(stand.metrics, "http_requests_in_flight") == 3)
    stand.held.set()
    await asyncio.gather(*asking)
    assert value(stand.metrics, "http_requests_in_flight") == 0


async def test_metrics_are_served_as_prometheus_reads_them(client: Client) -> None:
    await client.get("/orders/1")
    async with client.get("/metrics") as response:
        assert response.status == 200
        assert response.headers["Content-Type"].startswith("text/plain; version=")
        assert 'route="/orders/{order_id}",status="200"' in await response.text()


async def test_the_span_of_a_request_is_the_place_that_its_handler_hands_on(stand: Stand, client: Client) -> None:
    async with client.get("/orders/7?secret=1", headers={"traceparent": ABOVE}) as response:
        handed_on = (await response.json())["trace"]
    (span,) = stand.recorded
    assert span.trace.header == handed_on
    assert f"00-{span.trace.trace_id}-{span.trace.parent_id}-01" == ABOVE
    assert (span.name, span.kind, span.error) == ("GET /orders/{order_id}", SpanKind.SERVER, None)
    assert span.attributes == {
        "http.request.method": "GET",
        "http.response.status_code": 200,
        "http.route": "/orders/{order_id}",
        "server.address": client.host,
        "server.port": client.port,
        "url.path": "/orders/7",
        "url.scheme": "http",
    }


async def test_only_what_is_our_fault_is_a_failure(stand: Stand, client: Client) -> None:
    for path in ("/orders/none", "/nothing", "/broken"):
        await client.get(path)
    assert [(span.name, span.error) for span in stand.recorded] == [
        ("GET /orders/{order_id}", None),
        ("GET", None),
        ("GET /broken", "500"),
    ]


async def test_probes_begin_no_traces(stand: Stand, client: Client) -> None:
    await client.get("/livez", headers={"traceparent": ABOVE})
    await client.get("/metrics")
    assert stand.recorded == []
    assert value(stand.metrics, "http_requests_total", method="GET", route="/livez", status="200") == 1
