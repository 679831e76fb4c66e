"""What the gateway answers itself, and how it passes everything else on."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final
from uuid import uuid4

from aiohttp import web
from multidict import CIMultiDict

from gateway.upstream import Asked, Upstream
from libs.web.identity import Verifier
from libs.web.observing import TRACE

BASE: Final = "/client"
PASSED_IN: Final = ("Authorization", "Content-Type", "Idempotency-Key")
PASSED_OUT: Final = (
    "Allow",
    "Cache-Control",
    "Content-Type",
    "Idempotent-Replayed",
    "Location",
    "Retry-After",
    "WWW-Authenticate",
)


@dataclass(frozen=True, slots=True)
class Door:
    """Paths under the base that belong to a service: `path` itself, and everything below it."""

    path: str
    service: str
    public: bool = False


DOORS: Final = (
    Door("/users", "auth", public=True),
    Door("/login", "auth", public=True),
    Door("/.well-known/jwks.json", "auth", public=True),
    Door("/profiles", "profiles"),
    Door("/billing", "billing"),
    Door("/orders", "orders"),
    Door("/notifications", "notifications"),
)


class Gateway:
    """The door."""

    def __init__(self, upstream: Upstream, verifier: Verifier) -> None:
        self._upstream = upstream
        self._verifier = verifier

    def add_routes(self, app: web.Application) -> None:
        """Put the doors, and the gateway's own answers, into the application."""
        app.router.add_get(f"{BASE}/health", self.health)
        app.router.add_get(f"{BASE}/health/", self.health)
        for door in DOORS:
            handler = self._through(door)
            app.router.add_route("*", BASE + door.path, handler)
            app.router.add_route("*", f"{BASE}{door.path}/{{rest:.*}}", handler)

    def _through(self, door: Door) -> Callable[[web.Request], Awaitable[web.Response]]:
        async def pass_on(request: web.Request) -> web.Response:
            if not door.public:
                self._verifier.caller_of(request.headers.get("Authorization"))
            headers = CIMultiDict({name: request.headers[name] for name in PASSED_IN if name in request.headers})
            if request.method == "POST":
                headers.setdefault("Idempotency-Key", str(uuid4()))
            body = await request.read() if request.body_exists else None
            path = request.rel_url.raw_path_qs.removeprefix(BASE)
            reply = await self._upstream.send(door.service, Asked(request.method, path, headers, body), request[TRACE])
            passed = {name: reply.headers[name] for name in PASSED_OUT if name in reply.headers}
            return web.Response(status=reply.status, body=reply.body, headers=passed)

        return pass_on

    async def health(self, _request: web.Request) -> web.Response:
        """Say whether the gateway and every service behind it are ready; name those that are not."""
        services = self._upstream.services
        ready = await asyncio.gather(*(self._upstream.ready(service) for service in services))
        down = [service for service, is_ready in zip(services, ready, strict=True) if not is_ready]
        states = {service: "down" if service in down else "OK" for service in services}
        if down:
            body = {"status": "unavailable", "down": down, "services": states}
            return web.json_response(body, status=503, headers={"Retry-After": "1"})
        return web.json_response({"status": "OK", "services": states})
