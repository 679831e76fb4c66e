"""A kept HTTP/1.1 connection that costs a few dozen microseconds of CPU a request."""

import asyncio
from typing import Any, Final, cast
from urllib.parse import urlsplit

import orjson

ANSWER_WITHIN_S: Final = 30.0
NOT_JSON: Final = object()
"""In place of an answer that is not JSON, like the plain text of a server that has failed."""


class Connection(asyncio.Protocol):
    """One request under way at a time; knows as much of HTTP as our answers need."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._buffer = b""
        self._answer: asyncio.Future[tuple[int, bytes]] | None = None

    @classmethod
    async def to(cls, base: str) -> "Connection":
        """Connect to ``http://host:port``."""
        url = urlsplit(base)
        _, protocol = await asyncio.get_running_loop().create_connection(cls, url.hostname or "", url.port or 80)
        return protocol

    async def ask(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        """Send a request; return status and JSON, or `NOT_JSON`. Raises `ConnectionError` and `TimeoutError`.

        After either the connection is of no use.
        """
        assert self._transport is not None
        if self._transport.is_closing():
            raise ConnectionError("the connection was closed")
        content = b"" if body is None else orjson.dumps(body)
        lines = [f"{method} {path} HTTP/1.1", "Host: bench", *(f"{name}: {text}" for name, text in headers.items())]
        if content:
            lines += ["Content-Type: application/json", f"Content-Length: {len(content)}"]
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write("\r\n".join(lines).encode() + b"\r\n\r\n" + content)
        async with asyncio.timeout(ANSWER_WITHIN_S):
            status, answer = await self._answer
        return status, _read(answer)

    def close(self) -> None:
        """Close the connection."""
        if self._transport:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's are not registered as such

    def connection_lost(self, exc: Exception | None) -> None:
        if self._answer and not self._answer.done():
            self._answer.set_exception(exc or ConnectionError("the connection was closed"))

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, found, rest = self._buffer.partition(b"\r\n\r\n")
        if not found:
            return
        try:
            status, length = int(head[9:12]), _length_of(head)
        except ValueError as error:
            self._fail(ConnectionError(f"no answer that we understand: {error}"))
            return
        if len(rest) < length:
            return
        self._buffer = rest[length:]
        if self._answer and not self._answer.done():
            self._answer.set_result((status, rest[:length]))

    def _fail(self, error: Exception) -> None:
        if self._answer and not self._answer.done():
            self._answer.set_exception(error)
        self.close()


def _read(answer: bytes) -> Any:
    try:
        return orjson.loads(answer) if answer else None
    except orjson.JSONDecodeError:
        return NOT_JSON


def _length_of(head: bytes) -> int:
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    raise ValueError(f"an answer without its length: {head!r}")
