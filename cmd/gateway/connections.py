"""Kept HTTP/1.1 connections to the services: a request out, an answer back, and nothing that our services do not need.

aiohttp's client does much more, and was a third of what the gateway cost. Parsing is llhttp's, through httptools.
"""

import asyncio
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, cast
from urllib.parse import urlsplit

import httptools
from multidict import CIMultiDict

IDLE_AT_MOST_S: Final = 30.0
"""A connection that nobody used for so long is not used again: the services close theirs after 75 s."""

ANSWER_AT_MOST: Final = 16 << 20
"""Bytes of an answer. A hundred letters are a hundredth of it."""

CONNECT_WITHIN_S: Final = 2.0

_TARGET: Final = re.compile(r"/[!-~]*", re.ASCII)
_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", re.ASCII)
_FORBIDDEN: Final = re.compile(r"[\r\n\0]")


class Broken(ConnectionError):
    """A connection that could not be made, or ended before the answer did. Whether the request arrived is unknown."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What a service answered."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Connections:
    """The connections to one service process, kept for the next request, the most recently used first."""

    def __init__(self, base: str) -> None:
        url = urlsplit(base)
        self._host, self._port, self._authority = url.hostname or "", url.port or 80, url.netloc
        self._idle: list[_Connection] = []
        self._closed = False

    async def ask(
        self, method: str, target: str, headers: Mapping[str, str], body: bytes | None, *, deadline: float
    ) -> Reply:
        """Send a request over a connection that nobody uses; return the answer.

        Raises `Broken`, and `TimeoutError` when there is no answer by `deadline` (of the event loop's clock).
        Given up from outside, for example because it takes too long, it closes its connection: the answer to one
        request never becomes that of another.
        """
        sent = request_bytes(method, target, {"Host": self._authority, **headers}, body)
        connection = self._take() or await self._connect(deadline)
        try:
            reply = await connection.exchange(sent, deadline)
        except BaseException:
            connection.close()
            raise
        if connection.reusable and not self._closed:
            self._idle.append(connection)
        else:
            connection.close()
        return reply

    def close(self) -> None:
        """Close the connections that are kept; those in use close when they have their answer."""
        self._closed = True
        while self._idle:
            self._idle.pop().close()

    def _take(self) -> "_Connection | None":
        while self._idle:
            connection = self._idle.pop()
            if connection.reusable and connection.idle_s < IDLE_AT_MOST_S:
                return connection
            connection.close()
        return None

    async def _connect(self, deadline: float) -> "_Connection":
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout_at(min(deadline, loop.time() + CONNECT_WITHIN_S)):
                _, connection = await loop.create_connection(_Connection, self._host, self._port)
        except (OSError, TimeoutError) as error:
            raise Broken(str(error) or f"no connection within {CONNECT_WITHIN_S:.0f} s") from error
        return connection


def request_bytes(method: str, target: str, headers: Mapping[str, str], body: bytes | None) -> bytes:
    """Write a request. Raises `ValueError` for what would not be read as exactly this one request."""
    if not _TOKEN.fullmatch(method) or not _TARGET.fullmatch(target):
        raise ValueError("this is no method and target of a request")
    lines = [f"{method} {target} HTTP/1.1"]
    for name, value in headers.items():
        if not _TOKEN.fullmatch(name) or _FORBIDDEN.search(value):
            raise ValueError(f"this is no header: {name}")
        lines.append(f"{name}: {value}")
    if body is not None:
        lines.append(f"Content-Length: {len(body)}")
    head = "\r\n".join(lines) + "\r\n\r\n"
    return head.encode("utf-8", "surrogateescape") + (body or b"")


class _Connection(asyncio.Protocol):
    """One connection; one request at a time. What the parser calls is named as httptools wants it."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._answer: asyncio.Future[Reply] | None = None
        self._since = 0.0
        self.reusable = True
        self._parser = httptools.HttpResponseParser(self)
        self._begin()

    @property
    def idle_s(self) -> float:
        """How long ago the last answer was complete."""
        return self._loop.time() - self._since

    async def exchange(self, request: bytes, deadline: float) -> Reply:
        """Send a request and wait for its answer. Raises `Broken` and `TimeoutError`."""
        if self._transport is None or self._transport.is_closing():
            raise Broken("the connection was closed")
        self._begin()
        self._answer = self._loop.create_future()
        self._transport.write(request)
        # By a bare timer, since every request needs one: asyncio.timeout_at() costs five times as much.
        late = self._loop.call_at(deadline, self._fail, TimeoutError("no answer in time"))
        try:
            return await self._answer
        finally:
            late.cancel()

    def close(self) -> None:
        """Close the connection at once."""
        self.reusable = False
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's are not registered as such

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(Broken(str(exc) if exc else "the connection was closed"))

    def data_received(self, data: bytes) -> None:
        if self._answer is None:
            self._fail(Broken("bytes that nobody asked for"))
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(Broken(f"this is no HTTP: {error}"))

    def on_message_begin(self) -> None:
        if self._answer is None:  # a second answer to one request: nobody knows to what
            self.reusable = False

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.add(name.decode("latin-1"), value.decode("utf-8", "surrogateescape"))

    def on_body(self, body: bytes) -> None:
        self._length += len(body)
        if self._length > ANSWER_AT_MOST:
            self._fail(Broken("the answer is too long"))
        else:
            self._body.append(body)

    def on_message_complete(self) -> None:
        status = self._parser.get_status_code()
        if status < 200:  # noqa: PLR2004 - "100 Continue" and its like: the answer is still to come
            self._begin()
            return
        self._since = self._loop.time()
        self.reusable = self.reusable and self._parser.should_keep_alive()
        answer, self._answer = self._answer, None
        if answer is not None and not answer.done():
            answer.set_result(Reply(status, self._headers, b"".join(self._body)))

    def _begin(self) -> None:
        self._headers: CIMultiDict[str] = CIMultiDict()
        self._body: list[bytes] = []
        self._length = 0

    def _fail(self, why: Exception) -> None:
        self.close()
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(why)
