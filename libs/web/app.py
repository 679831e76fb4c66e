"""The aiohttp application of a service, made from its table of routes."""

import asyncio
import re
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Any, Final, Protocol

import structlog
from aiohttp import web
from aiohttp.typedefs import Middleware
from pydantic import BaseModel, ValidationError

from libs.errors import Kind, Refusal, invalid_field, overloaded, unavailable
from libs.messaging.bus import BusUnavailable
from libs.storage import is_transient
from libs.telemetry import Telemetry
from libs.web.identity import Verifier
from libs.web.observing import TRACE, exposing, observing
from libs.web.problems import (
    BODY_AT_MOST,
    body_too_large,
    from_http_exception,
    invalid_request,
    problem,
    problem_response,
)
from libs.web.routes import Call, Edge, Route

BODY_WITHIN_S: Final = 10.0
KEY_AT_MOST: Final = 255
KEY_PATTERN: Final = "^[!-~]([ -~]*[!-~])?$"
"""Printable ASCII. A header's value neither begins nor ends with a blank."""

REQUEST_TIMEOUT_S: Final = 30.0

log = structlog.get_logger()

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Readiness(Protocol):
    """What a process says about itself."""

    def awaits(self) -> Sequence[str]:
        """Name what is not there."""
        ...

    def answers(self) -> bool:
        """Whether requests can be answered, perhaps without all of it."""
        ...

    def edge(self) -> Edge[Any, Any] | None:
        """What routes work with, once it is there."""
        ...


def make_app(
    routes: Sequence[Route], readiness: Readiness, verifier: Verifier, telemetry: Telemetry, *, requests_at_most: int
) -> web.Application:
    """Build the application: the routes, probes, ``/metrics``, and one place that maps errors."""
    admitting = admit(requests_at_most, always=("/livez", "/readyz", "/metrics"))
    middlewares = [observing(telemetry), answer_problems, admitting]
    app = web.Application(client_max_size=BODY_AT_MOST, middlewares=middlewares)
    app.router.add_get("/livez", alive)
    app.router.add_get("/readyz", _ready(readiness))
    app.router.add_get("/metrics", exposing(telemetry))
    for route in routes:
        path = re.sub(r"\{(\w+)\}", r"{\1:[^/]+}", route.path)  # aiohttp's own parameters take no braces
        app.router.add_route(route.method, path, _serve(route, readiness, verifier))
    return app


def admit(at_most: int, *, always: Collection[str]) -> Middleware:
    """Refuse at once what would be more than `at_most` requests under way; the paths in `always` are never refused."""
    under_way = 0

    @web.middleware
    async def admitting(request: web.Request, handler: Handler) -> web.StreamResponse:
        nonlocal under_way
        if request.path in always:
            return await handler(request)
        if under_way >= at_most:
            raise overloaded()
        under_way += 1
        try:
            return await handler(request)
        finally:
            under_way -= 1

    return admitting


@web.middleware
async def answer_problems(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn whatever a handler raises into a problem. Nobody outside ever sees a stack trace."""
    trace = request[TRACE]
    try:
        return await handler(request)
    except Refusal as refusal:
        return problem_response(refusal, trace_id=trace.trace_id)
    except web.RequestPayloadError as error:
        malformed = Refusal("malformed_body", f"the body cannot be read: {type(error).__name__}", Kind.MALFORMED)
        return problem_response(malformed, trace_id=trace.trace_id)
    except web.HTTPException as error:
        known = from_http_exception(error)
        if known is None:
            raise
        response = problem_response(known, trace_id=trace.trace_id)
        if "Allow" in error.headers:
            response.headers["Allow"] = error.headers["Allow"]
        return response
    except Exception as error:
        if is_transient(error) or isinstance(error, BusUnavailable):
            log.warning("request refused", path=request.path, trace_id=trace.trace_id, error=str(error))
            return problem_response(unavailable("a dependency"), trace_id=trace.trace_id)
        log.exception("request failed", method=request.method, path=request.path, trace_id=trace.trace_id)
        return problem(500, "internal_error", "this is our fault, and has been noted", trace_id=trace.trace_id)


def _serve(
    route: Route, readiness: Readiness, verifier: Verifier
) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def serve(request: web.Request) -> web.StreamResponse:
        who = None if route.public else verifier.caller_of(request.headers.get("Authorization"))
        call: Call[Any] = Call(
            input=await _input(route, request),
            path=dict(request.match_info),
            trace=request[TRACE],
            route=route.name,
            key=_key(request),
            who=who,
        )
        edge = readiness.edge()
        if edge is None:
            raise unavailable("this service")
        async with asyncio.timeout(REQUEST_TIMEOUT_S):
            answer = await route.handler(call, edge)
        headers = dict(answer.headers)
        if call.replayed:
            headers["Idempotent-Replayed"] = "true"
        return web.Response(
            status=answer.status,
            body=answer.body.model_dump_json().encode(),
            content_type="application/json",
            headers=headers,
        )

    return serve


async def _input(route: Route, request: web.Request) -> BaseModel | None:
    if route.body is not None:
        return await _body(route.body, request)
    if route.query is not None:
        for name in request.query:
            if len(request.query.getall(name)) > 1:
                raise invalid_field(name[:100], "is given more than once")
        try:
            return route.query.model_validate_strings(dict(request.query))
        except ValidationError as error:
            raise invalid_request(error, where="query") from None
    return None


async def read_body(request: web.Request) -> bytes:
    """Read a body that is neither too large nor too slow. Raises `Refusal`; a stated length is refused unread."""
    if (request.content_length or 0) > BODY_AT_MOST:
        raise body_too_large()
    if request.content.is_eof():  # it came with the head, as nearly all do: nothing to wait for
        return await request.read()
    try:
        async with asyncio.timeout(BODY_WITHIN_S):
            return await request.read()
    except TimeoutError:
        raise Refusal("request_timeout", "the body did not arrive in time", Kind.TOO_SLOW) from None


async def _body(model: type[BaseModel], request: web.Request) -> BaseModel:
    raw = await read_body(request)
    if not raw.strip():
        raise invalid_field("body", "is required")
    try:
        return model.model_validate_json(raw)
    except ValidationError as error:
        raise invalid_request(error, where="body") from None


def _key(request: web.Request) -> str | None:
    key = request.headers.get("Idempotency-Key")
    if key is None or request.method != "POST":
        return None
    if len(key) > KEY_AT_MOST or not re.fullmatch(KEY_PATTERN, key):
        raise invalid_field("Idempotency-Key", f"must have 1 to {KEY_AT_MOST} printable ASCII characters")
    return key


async def alive(_request: web.Request) -> web.Response:
    """Say that the process lives. Checks nothing outside it."""
    return web.json_response({"status": "OK"})


def _ready(readiness: Readiness) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def ready(_request: web.Request) -> web.Response:
        awaits = list(readiness.awaits())
        if not readiness.answers():
            return web.json_response({"status": "waiting", "awaits": awaits}, status=503)
        return web.json_response({"status": "OK", "awaits": awaits})

    return ready
