"""Connections to services: whatever arrives in whatever pieces is an answer or a failure, and never somebody else's."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httptools
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import connections
from gateway.connections import Broken, Connections, Reply, request_bytes
from libs.tests.eventually import eventually

pytestmark = pytest.mark.uvloop

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"


class Server:
    """A server that reads a request and says what the test wants, and counts connections."""

    def __init__(self, *answers: bytes, close: bool = False, pieces: int | None = None) -> None:
        self.answers = list(answers)
        self.close = close
        self.pieces = pieces
        self.met = 0
        self.open = 0
        self.requests: list[bytes] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.met += 1
        self.open += 1
        try:
            while self.answers:
                self.requests.append(await reader.readuntil(b"\r\n\r\n"))
                answer = self.answers.pop(0)
                for start in range(0, len(answer), self.pieces or max(len(answer), 1)):
                    writer.write(answer[start : start + (self.pieces or len(answer))])
                    await writer.drain()
                    await asyncio.sleep(0)
                if self.close:
                    return
            await reader.read()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self.open -= 1
            writer.close()


@asynccontextmanager
async def asking(server: Server) -> AsyncIterator[Connections]:
    """Connections to a server."""
    listening = await asyncio.start_server(server.serve, "127.0.0.1")
    port = listening.sockets[0].getsockname()[1]
    asked = Connections(f"http://127.0.0.1:{port}")
    try:
        async with asyncio.timeout(20):
            yield asked
    finally:
        asked.close()
        listening.close()
        await eventually(lambda: server.open == 0)


async def get(asked: Connections, path: str = "/") -> Reply:
    return await asked.ask("GET", path, {}, None, deadline=asyncio.get_running_loop().time() + 10)


async def test_a_connection_is_kept_for_the_next_request() -> None:
    server = Server(OK, OK, OK)
    async with asking(server) as asked:
        assert [(await get(asked)).body for _ in range(3)] == [b"hi"] * 3
        assert server.met == 1


async def test_requests_at_once_have_a_connection_each() -> None:
    server = Server(*[OK] * 5)
    async with asking(server) as asked:
        await asyncio.gather(*(get(asked) for _ in range(5)))
        assert server.met == 5


async def test_a_connection_that_the_service_closed_is_not_used_again() -> None:
    server = Server(OK, OK, close=True)
    async with asking(server) as asked:
        await get(asked)
        await eventually(lambda: not asked._idle[0].reusable)
        assert (await get(asked)).body == b"hi"
        assert server.met == 2


async def test_a_connection_that_was_idle_for_long_is_not_used_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "IDLE_AT_MOST_S", 0.0)
    server = Server(OK, OK)
    async with asking(server) as asked:
        await get(asked)
        await get(asked)
        assert server.met == 2


async def test_an_answer_that_says_close_is_the_connections_last() -> None:
    server = Server(OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"), OK)
    async with asking(server) as asked:
        await get(asked)
        await get(asked)
        assert server.met == 2


async def test_an_answer_nobody_waits_for_any_more_is_never_the_answer_to_another_request() -> None:
    slow, released = Server(), asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await reader.readuntil(b"\r\n\r\n")
        if b"/slow" in request:
            await released.wait()
        path = request.split()[1]
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(path), path))
        writer.close()

    slow.serve = serve  # type: ignore[method-assign] # a server of this test's own
    async with asking(slow) as asked:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await get(asked, "/slow")
        released.set()
        assert (await get(asked, "/next")).body == b"/next"


@pytest.mark.parametrize(
    "answer",
    [b"", OK[:-1], b"HTTP/1.1 200 OK\r\nContent-Le", b"NONSENSE\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\nuntil the end"],
    ids=["nothing", "half a body", "half a head", "no HTTP", "no length"],
)
async def test_an_answer_that_is_none_is_a_broken_connection(answer: bytes) -> None:
    async with asking(Server(answer, close=True)) as asked:
        with pytest.raises(Broken):
            await get(asked)


async def test_what_comes_unasked_ends_the_connection() -> None:
    server = Server(OK + OK, OK)
    async with asking(server) as asked:
        await get(asked)
        assert (await get(asked)).body == b"hi"
        assert server.met == 2


async def test_an_answer_that_is_too_long_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "ANSWER_AT_MOST", 1)
    async with asking(Server(OK)) as asked:
        with pytest.raises(Broken, match="too long"):
            await get(asked)


async def test_nobody_there_is_a_broken_connection() -> None:
    async with asking(Server()) as asked:
        pass
    with pytest.raises(Broken):
        await get(asked)


@pytest.mark.parametrize("pieces", [1, 2, 7, None])
async def test_an_answer_may_come_in_any_pieces(pieces: int | None) -> None:
    chunked = (
        b"HTTP/1.1 201 Created\r\nLocation: /a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n3\r\ncde\r\n0\r\n\r\n"
    )
    early = b"HTTP/1.1 103 Early Hints\r\nLink: </b>\r\n\r\n"
    empty = b"HTTP/1.1 204 No Content\r\n\r\n"
    async with asking(Server(chunked, early + OK, empty, OK, pieces=pieces)) as asked:
        first = await get(asked)
        assert (first.status, dict(first.headers)["Location"], first.body) == (201, "/a", b"abcde")
        second = await get(asked)
        assert (second.status, "Link" in second.headers, second.body) == (200, False, b"hi")
        assert ((await get(asked)).status, (await get(asked)).body) == (204, b"hi")


class _Read:
    """What a server reads from bytes: its requests."""

    def __init__(self, sent: bytes) -> None:
        self.requests: list[tuple[str, str, dict[str, str], bytes]] = []
        self._target, self._headers, self._body = b"", dict[str, str](), b""
        self._parser = httptools.HttpRequestParser(self)
        self._parser.feed_data(sent)

    def on_url(self, url: bytes) -> None:
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.decode()] = value.decode("utf-8", "surrogateescape")

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        method = self._parser.get_method().decode()
        self.requests.append((method, self._target.decode(), self._headers, self._body))


anything = st.text(st.characters(codec="utf-8"), max_size=20)
suspicious = st.text(st.sampled_from("a :\r\n\0/?#%&;\tGETé"), max_size=12)


@given(
    target=st.one_of(anything, suspicious).map(lambda text: "/" + text),
    headers=st.dictionaries(st.sampled_from(["A", "Authorization", "X-Y"]), st.one_of(anything, suspicious)),
    name=st.one_of(st.just("B"), suspicious, anything),
    body=st.one_of(st.none(), st.binary(max_size=40)),
)
def test_what_is_sent_is_read_as_one_request_or_is_not_sent(
    target: str, headers: dict[str, str], name: str, body: bytes | None
) -> None:
    try:
        sent = request_bytes("POST", target, {**headers, name: "value"}, body)
    except ValueError:
        return
    try:
        read = _Read(sent).requests
    except httptools.HttpParserError:
        return  # refused by the service, whole
    assert len(read) == 1
    assert read[0][:2] == ("POST", target)
    assert read[0][3] == (body or b"")
    length = {} if body is None else {"Content-Length": str(len(body))}
    expected = {**headers, name: "value", **length}
    assert {one: value.strip(" \t") for one, value in read[0][2].items()} == {
        one: value.strip(" \t") for one, value in expected.items()
    }


@given(
    garbage=st.lists(st.one_of(st.binary(max_size=30), st.sampled_from([OK, OK[:20], OK[20:], b"\r\n"])), max_size=6)
)
async def test_garbage_is_an_answer_or_a_failure_and_never_silence(garbage: list[bytes]) -> None:
    connection = connections._Connection()
    connection.connection_made(_Transport())
    waiting = asyncio.ensure_future(
        connection.exchange(b"GET / HTTP/1.1\r\n\r\n", asyncio.get_running_loop().time() + 10)
    )
    await asyncio.sleep(0)
    for piece in garbage:
        connection.data_received(piece)
    connection.connection_lost(None)
    (outcome,) = await asyncio.gather(waiting, return_exceptions=True)
    assert isinstance(outcome, Reply | Broken)


class _Transport(asyncio.Transport):
    """Takes what is written, and closes."""

    def __init__(self) -> None:
        super().__init__()
        self._closing = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Take it."""

    def abort(self) -> None:
        self._closing = True

    def is_closing(self) -> bool:
        return self._closing
