"""The services behind the gateway: which replica to ask, and what to do when one does not answer."""

import asyncio
import itertools
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import Final

import structlog
from yarl import URL

from gateway.connections import Broken, Connections, Reply
from libs.errors import unavailable
from libs.telemetry import Kind, Spans
from libs.tracing import Trace

READY_WITHIN_S: Final = 2.0

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Asked:
    """A request on its way to a service; `path` is as it came, query included."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes | None


class Upstream:
    """Sends requests to the replicas of the services in turn, over connections that are kept."""

    def __init__(self, replicas: Mapping[str, tuple[str, ...]], *, timeout_s: float, spans: Spans) -> None:
        self._spans = spans
        self._replicas = dict(replicas)
        self._turns = {service: itertools.cycle(urls) for service, urls in replicas.items()}
        self._timeout_s = timeout_s
        self._connections = {url: Connections(url) for urls in replicas.values() for url in urls}

    @property
    def services(self) -> tuple[str, ...]:
        """The services there are."""
        return tuple(self._replicas)

    def close(self) -> None:
        """Close the connections."""
        for connections in self._connections.values():
            connections.close()

    async def send(self, service: str, asked: Asked, trace: Trace) -> Reply:
        """Send a request; a second time, to the next replica, when the first attempt's connection broke.

        Sending twice is safe: reads and PUTs repeat harmlessly, and the caller gives every POST an idempotency
        key. Raises `Refusal` (unavailable) when nobody answers in time; the second attempt has what the first has left.
        """
        deadline = asyncio.get_running_loop().time() + self._timeout_s
        for last in (False, True):
            base = next(self._turns[service])
            try:
                return await self._traced(base, asked, trace.child(), deadline=deadline, again=last)
            except Broken as error:
                if last:
                    log.warning("service does not answer", upstream=service, error=str(error))
                    raise unavailable(service) from error
            except TimeoutError as error:
                log.warning("service took too long", upstream=service, path=asked.path)
                raise unavailable(service) from error
        raise AssertionError("unreachable")

    async def _traced(self, base: str, asked: Asked, trace: Trace, *, deadline: float, again: bool) -> Reply:
        """Send a request once, as a span of its own."""
        started_ns, status, error = time.time_ns(), 0, None
        headers = {**asked.headers, "traceparent": trace.header}
        try:
            reply = await self._once(base, replace(asked, headers=headers), deadline)
        except BaseException as failure:
            error = type(failure).__name__
            raise
        else:
            status = reply.status
            error = str(status) if status >= HTTPStatus.BAD_REQUEST else None
            return reply
        finally:
            if self._spans.wants(trace):
                attributes = _attributes(base, asked, status, again=again)
                self._spans.add(trace, asked.method, Kind.CLIENT, started_ns, attributes, error=error)

    async def ready(self, service: str) -> bool:
        """Whether any replica of a service says that it is ready and awaits nothing."""
        answers = await asyncio.gather(*(self._ready(url) for url in self._replicas[service]))
        return any(answers)

    async def _ready(self, base: str) -> bool:
        try:
            deadline = asyncio.get_running_loop().time() + READY_WITHIN_S
            reply = await self._once(base, Asked("GET", "/readyz", {}, None), deadline)
            return reply.status == HTTPStatus.OK and not json.loads(reply.body).get("awaits")
        except (Broken, TimeoutError, ValueError):
            return False

    async def _once(self, base: str, asked: Asked, deadline: float) -> Reply:
        connections = self._connections[base]
        return await connections.ask(asked.method, asked.path, asked.headers, asked.body, deadline=deadline)


def _attributes(base: str, asked: Asked, status: int, *, again: bool) -> dict[str, str | int]:
    url = URL(base + asked.path, encoded=True).with_query(None)
    attributes: dict[str, str | int] = {
        "http.request.method": asked.method,
        "server.address": url.host or "",
        "server.port": url.port or 0,
        "url.full": str(url),
    }
    if status:
        attributes["http.response.status_code"] = status
    if again:
        attributes["http.request.resend_count"] = 1
    return attributes
