"""The gateway passes on what it is asked, no more than it can, and can always be asked how it is."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from gateway.app import make_gateway
from gateway.settings import Settings
from libs.tests.eventually import eventually
from libs.web.keys import new_key, public_pem

Client = TestClient[web.Request, web.Application]


class Service:
    """A service behind the gateway: it answers what it was asked, when it may."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.breaks_after_s: float | None = None
        """When its next connection breaks, unless it may answer before."""

    async def answer(self, request: web.Request) -> web.Response:
        self.asked.append(f"{request.method} {request.path_qs}")
        if request.path != "/readyz":
            await self._may_answer(request)
        return web.json_response({"asked": self.asked[-1]})

    async def _may_answer(self, request: web.Request) -> None:
        try:
            async with asyncio.timeout(self.breaks_after_s):
                await self.may_answer.wait()
        except TimeoutError:
            self.breaks_after_s = None
            assert request.transport is not None
            request.transport.abort()

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self.answer)
        return app


@pytest.fixture
def service() -> Service:
    return Service()


@asynccontextmanager
async def gateway(
    service: Service, folder: Path, *, requests_at_most: int = 1000, upstream_timeout_s: float = 10
) -> AsyncIterator[Client]:
    """A gateway in front of one service that plays all of them."""
    (folder / "public.pem").write_bytes(public_pem([new_key().public_key()]))
    async with TestServer(service.app()) as server:
        url = str(server.make_url("/"))
        settings = Settings(
            auth_url=url,
            profiles_url=url,
            billing_url=url,
            orders_url=url,
            notifications_url=url,
            jwt_public_keys=folder / "public.pem",
            requests_at_most=requests_at_most,
            upstream_timeout_s=upstream_timeout_s,
        )
        async with TestClient(TestServer(make_gateway(settings))) as client:
            yield client
            service.may_answer.set()


async def test_what_is_too_much_is_refused_at_once_and_health_is_answered(service: Service, tmp_path: Path) -> None:
    async with gateway(service, tmp_path, requests_at_most=3) as client:
        service.may_answer.clear()
        waiting = [asyncio.create_task(client.get("/client/users")) for _ in range(3)]
        await eventually(lambda: len(service.asked) == 3)
        refused = await client.get("/client/users")
        assert (refused.status, refused.headers["Retry-After"]) == (503, "1")
        for path in ("/client/health", "/client/health/", "/livez", "/readyz"):
            assert (await client.get(path)).status == 200, path
        service.may_answer.set()
        assert [(await answer).status for answer in waiting] == [200] * 3


async def test_however_many_ask_for_health_each_service_is_asked_once(service: Service, tmp_path: Path) -> None:
    async with gateway(service, tmp_path) as client:
        answers = await asyncio.gather(*(client.get("/client/health/") for _ in range(30)))
        assert {answer.status for answer in answers} == {200}
        assert len(service.asked) < 30


async def test_head_is_get_without_the_body(service: Service, tmp_path: Path) -> None:
    async with gateway(service, tmp_path) as client:
        full, head = await client.get("/client/users?a=1"), await client.head("/client/users?a=1")
        assert service.asked == ["GET /users?a=1"] * 2
        assert (head.status, await head.read()) == (200, b"")
        assert head.headers["Content-Length"] == full.headers["Content-Length"] != "0"


async def test_without_a_token_nothing_is_passed_on(service: Service, tmp_path: Path) -> None:
    async with gateway(service, tmp_path) as client:
        for path in ("/client/orders", "/client/billing/account", "/client/profiles/ann", "/client/notifications"):
            assert (await client.get(path)).status == 401
        assert service.asked == []


async def test_a_connection_that_breaks_late_does_not_make_a_client_wait_twice(
    service: Service, tmp_path: Path
) -> None:
    clock = asyncio.get_running_loop().time
    async with gateway(service, tmp_path, upstream_timeout_s=2) as client:
        service.may_answer.clear()
        service.breaks_after_s = 1.5
        began = clock()
        refused = await client.post("/client/users")
        assert (refused.status, refused.headers["Retry-After"], len(service.asked)) == (503, "1", 2)
        assert clock() - began < 3
