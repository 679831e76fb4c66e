"""An OpenTelemetry collector inside the test: takes OTLP over HTTP for real, and shows what it was sent."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


@dataclass(frozen=True, slots=True)
class Received:
    """A span as it arrived."""

    service: str
    name: str
    kind: int
    trace_id: str
    span_id: str
    parent_id: str
    attributes: dict[str, Any]
    links: Sequence[tuple[str, str]]
    failed: bool
    started_ns: int
    ended_ns: int


@dataclass(slots=True)
class Collector:
    """What has arrived. `status` is what it answers with; while `hangs` is set it does not answer at all."""

    endpoint: str = ""
    status: int = 200
    hangs: bool = False
    asked: int = 0
    over: asyncio.Event = field(default_factory=asyncio.Event)
    spans: list[Received] = field(default_factory=list)
    resources: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)

    def of(self, trace_id: str) -> list[Received]:
        """The spans of one trace."""
        return [span for span in self.spans if span.trace_id == trace_id]

    async def take(self, request: web.Request) -> web.Response:
        """Answer ``POST /v1/traces``."""
        self.asked += 1
        self.headers.append(dict(request.headers))
        if self.hangs:
            await self.over.wait()
        if self.status == 200:
            for resource in ExportTraceServiceRequest.FromString(await request.read()).resource_spans:
                about = _values(resource.resource.attributes)
                self.resources.append(about)
                self.spans += [
                    _received(about["service.name"], span) for scope in resource.scope_spans for span in scope.spans
                ]
        return web.Response(status=self.status)


@asynccontextmanager
async def collecting() -> AsyncIterator[Collector]:
    """Run a collector until the end of the block."""
    collector = Collector()
    app = web.Application(client_max_size=64 << 20)
    app.router.add_post("/v1/traces", collector.take)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    collector.endpoint = f"http://{host}:{port}"
    try:
        yield collector
    finally:
        collector.over.set()
        await runner.cleanup()


def _values(attributes: Any) -> dict[str, Any]:
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in attributes}


def _received(service: str, span: Any) -> Received:
    return Received(
        service,
        span.name,
        span.kind,
        span.trace_id.hex(),
        span.span_id.hex(),
        span.parent_span_id.hex(),
        _values(span.attributes),
        [(link.trace_id.hex(), link.span_id.hex()) for link in span.links],
        span.status.code == 2,
        span.start_time_unix_nano,
        span.end_time_unix_nano,
    )
