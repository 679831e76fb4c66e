"""What telemetry costs: ``python -m libs.telemetry.tests.overhead`` prints microseconds a call, the best of five.

Processor time, that of the sending thread included, so that a busy machine does not count.
"""

import asyncio
import contextlib
import sys
import time
import timeit
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from libs.contracts.orders import OrderPlaced
from libs.ids import uuid7
from libs.messaging.bus import Durable
from libs.messaging.envelope import Event
from libs.telemetry import Kind, Metrics, Spans, Telemetry, otlp
from libs.telemetry.messaging import processing
from libs.telemetry.tests.collector import collecting
from libs.tracing import Trace
from libs.web.observing import observing

BATCH = 64
ABOVE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-"


def report(what: str, seconds: float, per: int) -> None:
    sys.stdout.write(f"{what:<68} {seconds / per * 1e6:8.2f} µs\n")


def measure(what: str, call: Callable[[], Any], *, number: int = 20_000, per: int = 1) -> None:
    report(what, min(timeit.repeat(call, number=number, repeat=5, timer=time.process_time)), number * per)


def events(flags: str) -> Sequence[Event[Any]]:
    fact = OrderPlaced(order_id=uuid7(), user_id=uuid7(), price=15_000)
    return [Event(fact, str(uuid7()), datetime.now(UTC), Trace.enter(ABOVE + flags)) for _ in range(BATCH)]


def measure_metrics() -> None:
    metrics = Metrics()
    measure("a request counted and timed", lambda: metrics.answered("POST", "/orders", 201, 0.02))
    measure("a unit of work measured", lambda: metrics.committed("place_orders", BATCH, 0.02))
    for route in range(20):
        metrics.answered("POST", f"/{route}", 201, 0.02)
    measure("a scrape of 22 routes", metrics.text, number=50)


def measure_spans(spans: Spans, called: str, flags: str) -> None:
    trace = spans.enter(ABOVE + flags)
    measure(f"a span, {called}", lambda: spans.add(trace, "step", Kind.SERVER, 1, {"a": "b", "n": 1}), number=1_000)
    telemetry, durable = Telemetry(spans=spans), Durable("ORDERS", "billing", ("orders.order.placed.*",))
    batch = {OrderPlaced.type: events(flags)}

    def handle() -> None:
        with processing(telemetry, durable, batch):
            pass

    measure(f"a message in a batch of {BATCH}, {called}", handle, number=20, per=BATCH)


async def measure_requests(called: str, spans: Spans) -> None:
    """Take a real request, and answer it with the middleware alone, again and again."""
    taken: list[web.Request] = []

    async def take(request: web.Request) -> web.Response:
        taken.append(request)
        return answer

    async def handler(_request: web.Request) -> web.StreamResponse:
        return answer

    answer = web.Response()
    app = web.Application()
    app.router.add_get("/orders/{order_id}", take)
    async with TestClient(TestServer(app)) as client:
        await client.get("/orders/1")
    observe = observing(Telemetry(spans=spans))

    def ask() -> None:
        with contextlib.suppress(StopIteration):
            observe(taken[0], handler).send(None)  # type: ignore[attr-defined] # a coroutine, said to be awaitable

    measure(f"a request, {called}", ask, number=2_000)


async def measure_all() -> None:
    measure_metrics()
    off, unsampled = Spans(), Spans(print, per_second=0, edge=True)
    for called, spans in (("telemetry off", off), ("unsampled", unsampled)):
        measure_spans(spans, called, "00" if spans.on else "01")
        await measure_requests(called, spans)
    otlp.QUEUE = 1 << 30  # type: ignore[misc] # what is dropped would cost next to nothing
    async with collecting() as collector:
        exporter = otlp.Otlp("overhead", collector.endpoint, lambda _outcome, _count: None)
        sampled = Spans(exporter.export, per_second=1e9)
        measure_spans(sampled, "sampled", "01")
        await measure_requests("sampled", sampled)
        await exporter.close()


if __name__ == "__main__":
    asyncio.run(measure_all())
