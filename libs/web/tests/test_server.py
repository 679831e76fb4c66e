"""No client holds more than its share: what is slow, late or too much is ended, and the rest goes on."""

import asyncio
import json
import socket
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from libs.local.servers import free_port
from libs.settings import HttpSettings
from libs.telemetry import Telemetry
from libs.tests.eventually import eventually
from libs.web import app, server
from libs.web.app import admit, alive, answer_problems, read_body
from libs.web.observing import observing
from libs.web.problems import BODY_AT_MOST
from libs.web.server import serving

pytestmark = pytest.mark.uvloop


class House:
    """A server whose guests can be counted, and held up."""

    def __init__(self, **limits: int) -> None:
        self.settings = HttpSettings(port=free_port(), **limits)  # type: ignore[arg-type] # limits are of that type
        self.url = f"http://127.0.0.1:{self.settings.port}"
        self.may_go = asyncio.Event()
        self.inside = 0

    def app(self) -> web.Application:
        admitting = admit(self.settings.requests_at_most, always=("/livez",))
        middlewares = [observing(Telemetry()), answer_problems, admitting]
        application = web.Application(client_max_size=BODY_AT_MOST, middlewares=middlewares)
        application.router.add_get("/livez", alive)
        application.router.add_get("/stay", self.stay)
        application.router.add_get("/much", self.much)
        application.router.add_post("/read", self.read)
        return application

    async def stay(self, _request: web.Request) -> web.Response:
        self.inside += 1
        await self.may_go.wait()
        return web.Response(text="gone")

    async def much(self, _request: web.Request) -> web.Response:
        return web.Response(body=bytes(64 << 20))

    async def read(self, request: web.Request) -> web.Response:
        return web.Response(text=str(len(await read_body(request))))

    async def connect(self, sent: bytes = b"") -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.settings.port)
        writer.write(sent)
        return reader, writer

    async def ask(self, sent: bytes) -> str:
        """Send, and read until the server closes the connection."""
        reader, writer = await self.connect(sent)
        try:
            async with asyncio.timeout(10):
                return (await reader.read()).decode()
        finally:
            writer.close()


@asynccontextmanager
async def house(**limits: int) -> AsyncIterator[House]:
    one = House(**limits)
    async with serving(one.app(), one.settings):
        yield one
        one.may_go.set()


@asynccontextmanager
async def full_house() -> AsyncIterator[House]:
    """A house whose only guest stays."""
    async with house(connections_at_most=1) as one:
        _, staying = await one.connect(request("GET /stay"))
        await eventually(lambda: one.inside == 1)
        yield one
        staying.close()


def furnished(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Collect the rooms of servers that are started from now on."""
    rooms: list[Any] = []
    furnish = server._Room

    def note(at_most: int) -> Any:
        rooms.append(furnish(at_most))
        return rooms[-1]

    monkeypatch.setattr(server, "_Room", note)
    return rooms


def request(line: str, *headers: str, body: bytes = b"") -> bytes:
    return "\r\n".join([f"{line} HTTP/1.1", "Host: x", *headers, "", ""]).encode() + body


@pytest.mark.parametrize("sent", [b"", b"GET /livez HT", request("GET /livez")[:-2]])
async def test_who_does_not_say_what_they_want_has_to_go(sent: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "HEAD_WITHIN_S", 0.2)
    async with house() as one:
        assert await one.ask(sent) == ""


async def test_who_sends_a_second_request_too_slowly_has_to_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "HEAD_WITHIN_S", 0.2)
    async with house() as one:
        reader, writer = await one.connect(request("GET /livez"))
        await reader.readuntil(b"}")
        writer.write(b"GET /li")
        assert await asyncio.wait_for(reader.read(), 10) == b""
        writer.close()


async def test_a_connection_may_rest_between_two_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "HEAD_WITHIN_S", 0.1)
    loop = asyncio.get_running_loop()
    async with house() as one:
        reader, writer = await one.connect(request("GET /livez"))
        await reader.readuntil(b"}")
        rested = loop.time() + 0.5
        await eventually(lambda: loop.time() > rested)
        writer.write(request("GET /livez"))
        assert b"200" in await asyncio.wait_for(reader.readuntil(b"}"), 5)
        writer.close()


@pytest.mark.parametrize(
    "head", ["Content-Length: 10", "Transfer-Encoding: chunked"], ids=["with a length", "in chunks"]
)
async def test_a_body_that_does_not_arrive_is_not_waited_for(head: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "BODY_WITHIN_S", 0.2)
    async with house() as one:
        answer = await one.ask(request("POST /read", head, body=b'5\r\n{"a"'))
    assert answer.startswith("HTTP/1.1 408 ")
    assert problem_in(answer)["type"] == "/problems/request_timeout"


def problem_in(answer: str) -> dict[str, Any]:
    problem: dict[str, Any] = json.loads(answer.partition("\r\n\r\n")[2])
    return problem


async def test_a_body_that_says_it_is_too_large_is_refused_before_it_comes() -> None:
    async with house() as one, asyncio.timeout(5):
        answer = await one.ask(request("POST /read", f"Content-Length: {BODY_AT_MOST + 1}"))
    assert answer.startswith("HTTP/1.1 413 ")


@pytest.mark.parametrize(("more", "status"), [(0, 200), (1, 413)])
@pytest.mark.parametrize("chunked", [True, False])
async def test_a_body_may_have_so_many_bytes(more: int, status: int, chunked: bool) -> None:
    async def in_chunks() -> AsyncIterator[bytes]:
        yield bytes(BODY_AT_MOST)
        if more:
            yield bytes(more)

    async with house() as one, aiohttp.ClientSession() as session:
        body: Any = in_chunks() if chunked else bytes(BODY_AT_MOST + more)
        async with session.post(f"{one.url}/read", data=body) as response:
            assert response.status == status


async def test_who_does_not_read_the_answer_has_to_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "ANSWERED_WITHIN_S", 0.2)
    left: list[Any] = []
    lose = server._Protocol.connection_lost

    def lost(protocol: Any, error: Any) -> None:
        left.append(protocol)
        lose(protocol, error)

    monkeypatch.setattr(server._Protocol, "connection_lost", lost)
    rooms = furnished(monkeypatch)
    async with house() as one:
        _, writer = await one.connect(request("GET /much"))
        await eventually(lambda: bool(left))
        assert "200" in await one.ask(request("GET /livez", "Connection: close"))
        assert not rooms[0]._resting  # nobody remembers who is gone
        writer.transport.abort()


async def test_who_leaves_before_the_answer_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    rooms = furnished(monkeypatch)
    async with house() as one:
        _, writer = await one.connect(request("GET /stay"))
        await eventually(lambda: one.inside == 1)
        writer.close()
        await eventually(lambda: not rooms[0]._guests)
        one.may_go.set()
        assert "gone" in await one.ask(request("GET /stay", "Connection: close"))
        await eventually(lambda: not rooms[0]._guests)
        assert not rooms[0]._resting


async def test_what_is_too_much_is_refused_at_once_and_health_is_not() -> None:
    async with house(requests_at_most=2) as one, aiohttp.ClientSession() as session:
        staying = [asyncio.create_task(session.get(f"{one.url}/stay")) for _ in range(2)]
        await eventually(lambda: one.inside == 2)
        async with session.get(f"{one.url}/stay") as refused:
            assert (refused.status, refused.headers["Retry-After"]) == (503, "1")
            assert (await refused.json(content_type=None))["type"] == "/problems/overloaded"
        async with session.get(f"{one.url}/livez") as healthy:
            assert healthy.status == 200
        one.may_go.set()
        assert [(await answer).status for answer in staying] == [200, 200]
        async with session.get(f"{one.url}/stay") as admitted:
            assert admitted.status == 200


async def test_a_new_connection_takes_the_place_of_one_that_rests() -> None:
    async with house(connections_at_most=2) as one:
        reader, resting = await one.connect(request("GET /livez"))
        await reader.readuntil(b"}")
        _, staying = await one.connect(request("GET /stay"))
        await eventually(lambda: one.inside == 1)
        assert (await one.ask(request("GET /livez", "Connection: close"))).startswith("HTTP/1.1 200 ")
        assert await asyncio.wait_for(reader.read(), 5) == b""
        for writer in (resting, staying):
            writer.close()


async def test_a_connection_for_which_there_is_no_room_is_told_so() -> None:
    async with house(connections_at_most=2) as one:
        staying = [await one.connect(request("GET /stay", "Connection: close")) for _ in range(2)]
        await eventually(lambda: one.inside == 2)
        answer = await one.ask(request("GET /livez"))
        assert answer.startswith("HTTP/1.1 503 ")
        assert "Retry-After: 1\r\n" in answer
        assert problem_in(answer)["type"] == "/problems/overloaded"
        one.may_go.set()
        for reader, writer in staying:
            assert b"gone" in await asyncio.wait_for(reader.read(), 5)
            writer.close()


async def test_who_has_just_come_is_not_closed_for_somebody_else() -> None:
    async with house(connections_at_most=2) as one:
        first = [await one.connect() for _ in range(2)]
        answer = await one.ask(request("GET /livez", "Connection: close"))
        assert answer.startswith("HTTP/1.1 503 ")
        for reader, writer in first:
            writer.write(request("GET /livez", "Connection: close"))
            assert (await asyncio.wait_for(reader.read(), 5)).startswith(b"HTTP/1.1 200 ")
            writer.close()


async def test_who_has_long_been_silent_makes_room_and_is_told_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "SILENT_S", -1.0)
    async with house(connections_at_most=2) as one:
        (reader, silent), (_, other) = [await one.connect(sent) for sent in (b"", b"GET /li")]
        assert (await one.ask(request("GET /livez", "Connection: close"))).startswith("HTTP/1.1 200 ")
        assert (await asyncio.wait_for(reader.read(), 5)).startswith(b"HTTP/1.1 503 ")
        for writer in (silent, other):
            writer.close()


async def test_who_asks_for_nothing_is_turned_away_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "ASKS_WITHIN_S", 0.1)
    async with full_house() as one:
        assert (await one.ask(b"")).startswith("HTTP/1.1 503 ")


async def test_who_speaks_just_when_they_are_turned_away_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "ASKS_WITHIN_S", 0.1)
    turn_away = server._Protocol._turn_away
    with socket.socket() as client:

        def unread(protocol: Any) -> None:
            client.sendall(request("GET /livez"))
            turn_away(protocol)

        monkeypatch.setattr(server._Protocol, "_turn_away", unread)
        async with full_house() as one:
            client.connect(("127.0.0.1", one.settings.port))
            reader, writer = await asyncio.open_connection(sock=client)
            assert (await asyncio.wait_for(reader.read(), 10)).startswith(b"HTTP/1.1 503 ")
            writer.close()


async def test_who_says_a_lot_is_turned_away_and_told_so() -> None:
    size = 16 * BODY_AT_MOST  # more than is read at once
    async with full_house() as one:
        answer = await one.ask(request("POST /read", f"Content-Length: {size}", body=bytes(size)))
    assert problem_in(answer)["type"] == "/problems/overloaded"


async def test_who_is_turned_away_and_stays_has_to_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "LINGER_S", 0.1)
    async with full_house() as one:
        _, writer = await one.connect(request("GET /livez"))

        def reset() -> bool:
            writer.write(b"still here")
            return writer.is_closing()

        await eventually(reset)


async def test_who_was_turned_away_takes_no_room() -> None:
    async with house(connections_at_most=1) as one:
        staying, host = await one.connect(request("GET /stay", "Connection: close"))
        await eventually(lambda: one.inside == 1)
        reader, writer = await one.connect(request("GET /livez"))
        assert b" 503 " in await asyncio.wait_for(reader.read(), 5)
        one.may_go.set()
        assert b"gone" in await asyncio.wait_for(staying.read(), 5)
        assert (await one.ask(request("GET /livez", "Connection: close"))).startswith("HTTP/1.1 200 ")
        for gone in (host, writer):
            gone.close()


async def test_everybody_of_a_crowd_gets_an_answer() -> None:
    async with house(requests_at_most=3, connections_at_most=20) as one:
        asking = [asyncio.create_task(one.ask(request("GET /stay", "Connection: close"))) for _ in range(100)]
        await eventually(lambda: sum(task.done() for task in asking) == 97, within_s=30)
        one.may_go.set()
        answers = Counter(answer[9:12] for answer in await asyncio.gather(*asking))
        assert answers == {"200": 3, "503": 97}
