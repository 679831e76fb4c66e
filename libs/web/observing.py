"""What is noted about every request: its place in a trace, its duration, what came of it."""

import time
from collections.abc import Awaitable, Callable
from typing import Final

from aiohttp import web
from aiohttp.typedefs import Middleware

from libs.telemetry import Kind, Telemetry
from libs.tracing import Trace

TRACE: Final = web.RequestKey("trace", Trace)
"""Where a request stands in its trace: the span of its being answered."""

PROBES: Final = frozenset({"/livez", "/readyz", "/metrics"})
"""Asked every few seconds by machines; no trace begins here."""

_GONE: Final = 499
"""Nobody waits for the answer any more; nginx's number for it."""


def observing(telemetry: Telemetry) -> Middleware:
    """Make the middleware that stands before all others."""
    metrics, spans = telemetry.metrics, telemetry.spans

    @web.middleware
    async def observe(
        request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        started, started_ns = time.perf_counter(), time.time_ns()
        header = request.headers.get("traceparent")
        trace = Trace.enter(header).unsampled() if request.path in PROBES else spans.enter(header)
        request[TRACE] = trace
        metrics.in_flight += 1
        status = _GONE
        try:
            response = await handler(request)
        except web.HTTPException as answer:
            status = answer.status
            raise
        else:
            status = response.status
            return response
        finally:
            metrics.in_flight -= 1
            resource = request.match_info.route.resource
            route = resource.canonical if resource else None
            metrics.answered(request.method, route, status, time.perf_counter() - started)
            if spans.wants(trace):
                name = f"{request.method} {route}" if route else request.method
                error = str(status) if status >= _GONE else None
                spans.add(trace, name, Kind.SERVER, started_ns, _attributes(request, route, status), error=error)

    return observe


def exposing(telemetry: Telemetry) -> Callable[[web.Request], Awaitable[web.Response]]:
    """Make the handler of ``GET /metrics``."""

    async def expose(request: web.Request) -> web.Response:
        text, content_type = telemetry.metrics.text(request.headers.get("Accept", ""))
        return web.Response(body=text, headers={"Content-Type": content_type})

    return expose


def _attributes(request: web.Request, route: str | None, status: int) -> dict[str, str | int]:
    attributes: dict[str, str | int] = {
        "http.request.method": request.method,
        "http.response.status_code": status,
        "server.address": request.url.host or "",
        "server.port": request.url.port or 0,
        "url.path": request.path,
        "url.scheme": request.scheme,
    }
    if route:
        attributes["http.route"] = route
    return attributes
