"""What the gateway answers itself, and how it passes everything else on."""

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

from aiohttp import web
from multidict import CIMultiDict

from gateway.upstream import Asked, Upstream
from libs.web.app import read_body
from libs.web.identity import Verifier
from libs.web.observing import TRACE

BASE: Final = "/client"
HEALTH: Final = (f"{BASE}/health", f"{BASE}/health/")
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
        self._checking: asyncio.Task[Sequence[bool]] | None = None

    def add_routes(self, app: web.Application) -> None:
        """Put the doors, and the gateway's own answers, into the application."""
        for path in HEALTH:
            app.router.add_get(path, self.health)
        for door in DOORS:
            handler = self._through(door)
            app.router.add_route("*", BASE + door.path, handler)
            app.router.add_route("*", f"{BASE}{door.path}/{{rest:[\\s\\S]*}}", handler)

    def _through(self, door: Door) -> Callable[[web.Request], Awaitable[web.Response]]:
        async def pass_on(request: web.Request) -> web.Response:
            if not door.public:
                self._verifier.caller_of(request.headers.get("Authorization"))
            headers = CIMultiDict({name: request.headers[name] for name in PASSED_IN if name in request.headers})
            if request.method == "POST":
                headers.setdefault("Idempotency-Key", secrets.token_hex(16))
            body = await read_body(request) if request.body_exists else None
            path = request.rel_url.raw_path_qs.removeprefix(BASE)
            # HEAD is GET whose body stays here.
            method = "GET" if request.method == "HEAD" else request.method
            reply = await self._upstream.send(door.service, Asked(method, path, headers, body), request[TRACE])
            passed = {name: reply.headers[name] for name in PASSED_OUT if name in reply.headers}
            return web.Response(status=reply.status, body=reply.body, headers=passed)

        return pass_on

    async def health(self, _request: web.Request) -> web.Response:
        """Say whether the gateway and every service behind it are ready; name those that are not."""
        services = self._upstream.services
        if self._checking is None or self._checking.done():  # however many ask, the services are asked once
            self._checking = asyncio.create_task(self._check())
        ready = await asyncio.shield(self._checking)
        down = [service for service, is_ready in zip(services, ready, strict=True) if not is_ready]
        states = {service: "down" if service in down else "OK" for service in services}
        if down:
            body = {"status": "unavailable", "down": down, "services": states}
            return web.json_response(body, status=503, headers={"Retry-After": "1"})
        return web.json_response({"status": "OK", "services": states})

    async def _check(self) -> Sequence[bool]:
        return await asyncio.gather(*(self._upstream.ready(service) for service in self._upstream.services))
