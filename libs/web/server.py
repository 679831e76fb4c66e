"""The HTTP server: aiohttp's, with problems even for what is no HTTP at all."""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Final

import structlog
from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from libs.errors import overloaded
from libs.settings import HttpSettings
from libs.web.problems import problem, problem_response

SHUTDOWN_S: Final = 5.0
"""How long requests under way may take to end once no new ones are accepted."""

KEEP_ALIVE_S: Final = 75.0
HEAD_WITHIN_S: Final = 10.0
"""How long a request line and its headers may take to arrive, counted from the connection or their first byte."""

ANSWERED_WITHIN_S: Final = 60.0
"""How long a client may take to read an answer."""

SILENT_S: Final = 5.0
"""After how long a connection that has asked for nothing yet may be closed for another one. A busy process may take
seconds to read what was sent at once."""

ASKS_WITHIN_S: Final = 1.0
"""How long a client for whom there is no room may take to ask, before it is told so unasked."""

LINGER_S: Final = 1.0
"""How long what a refused client still sends is read, so that it gets to see the refusal: a connection that is closed
with something unread is reset, and a reset overtakes the answer."""

BUSY: Final = (
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nContent-Type: application/problem+json\r\n"
    b"Connection: close\r\nContent-Length: %d\r\n\r\n%b"
)

log = structlog.get_logger()


class _Room:
    """How many connections one server has room for, and which of them may be closed for another one."""

    def __init__(self, at_most: int) -> None:
        self._at_most = at_most
        self._guests: set[_Protocol] = set()
        self._resting: dict[_Protocol, None] = {}
        self._silent: dict[_Protocol, float] = {}

    @property
    def full(self) -> bool:
        """Whether there is no room for another one. Who was turned away takes none, even before they are gone."""
        return len(self._guests) >= self._at_most

    def enters(self, one: "_Protocol") -> None:
        """Note that a connection may stay."""
        self._guests.add(one)

    def leaves(self, one: "_Protocol") -> None:
        """Note that a connection is gone, or was told to go."""
        self._guests.discard(one)
        self.forget(one)

    def rests(self, one: "_Protocol") -> None:
        """Note that a connection was answered, and may stay for the next request."""
        self._resting[one] = None

    def expects(self, one: "_Protocol", now: float) -> None:
        """Note that a connection has begun, or begun a head, and has not asked for anything yet."""
        self._resting.pop(one, None)
        self._silent.setdefault(one, now)

    def forget(self, one: "_Protocol") -> None:
        """Note that a connection has asked for something."""
        self._resting.pop(one, None)
        self._silent.pop(one, None)

    def expendable(self, now: float) -> "_Protocol | None":
        """Pick the connection that has rested longest; otherwise the one that has been silent longest, and too long."""
        resting = next((one for one in self._resting if one.idle), None)
        if resting is not None:
            return resting
        one, since = next(iter(self._silent.items()), (None, now))
        return one if now - since > SILENT_S else None


class _Protocol(RequestHandler):
    """A connection. What cannot be parsed as HTTP is answered like every other mistake."""

    __slots__ = ("_answered", "_head_late", "_room", "_told", "_unwelcome")

    def __init__(self, manager: web.Server, loop: asyncio.AbstractEventLoop, room: _Room) -> None:
        super().__init__(manager, loop=loop, keepalive_timeout=KEEP_ALIVE_S, lingering_time=LINGER_S)
        self._room = room
        self._unwelcome = self._told = self._answered = False
        self._head_late: asyncio.TimerHandle | None = None

    @property
    def idle(self) -> bool:
        """Whether no request is under way."""
        return self._waiter is not None and not self._waiter.done()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        if self._room.full and not self._made_room():
            # Told so once it has asked, as it will read nothing before. (uvloop also forgets to read from the next
            # connection when one is closed while it is being made.)
            self._unwelcome = True
            self._head_late = self._loop.call_later(ASKS_WITHIN_S, self._turn_away)
        else:
            self._room.enters(self)
            self._expect_head()

    def _made_room(self) -> bool:
        expendable = self._room.expendable(self._loop.time())
        if expendable is None:
            return False
        self._room.leaves(expendable)
        expendable.make_room()
        return True

    def make_room(self) -> None:
        """Go, for another connection. Who was answered before finds it closed; who was not is told why."""
        if self._answered:
            self.force_close()
        else:
            self._turn_away()

    def data_received(self, data: bytes) -> None:
        if self._told:
            return
        if self._unwelcome:
            self._turn_away()
            return
        super().data_received(data)
        if self._head_late is None:
            if self.idle:  # some of a head is here
                self._expect_head()
            else:
                self._room.forget(self)
        elif not self.idle:
            self._head_late.cancel()
            self._head_late = None
            self._room.forget(self)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._room.leaves(self)
        if self._head_late is not None:
            self._head_late.cancel()
        super().connection_lost(exc)

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        if self.transport is None:
            return resp, True
        # Aborted and not closed: that would wait until the client has read everything. By a bare timer, since every
        # answer needs one: asyncio.timeout() costs five times as much.
        late = self._loop.call_later(ANSWERED_WITHIN_S, self.transport.abort)
        try:
            finished = await super().finish_response(request, resp, start_time)
        finally:
            late.cancel()
        if self.transport is not None:
            self._answered = True
            self._room.rests(self)
        return finished

    def _expect_head(self) -> None:
        self._room.expects(self, self._loop.time())
        self._head_late = self._loop.call_later(HEAD_WITHIN_S, self._give_up_waiting)

    def _give_up_waiting(self) -> None:
        self._head_late = None
        if self.idle:
            self.force_close()

    def _turn_away(self) -> None:
        """Say that there is no room, and nothing more; then read, and forget, what is still on its way."""
        if self._head_late is not None:
            self._head_late.cancel()
        if self.transport is None or self.transport.is_closing():
            return
        body = problem_response(overloaded()).body
        assert isinstance(body, bytes)
        self._told = True
        self.transport.write(BUSY % (len(body), body))
        self.transport.write_eof()
        self._head_late = self._loop.call_later(LINGER_S, self.force_close)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = HTTPStatus.INTERNAL_SERVER_ERROR,
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002 - aiohttp's signature; may quote the request
    ) -> web.StreamResponse:
        if request.writer.output_size > 0:
            raise ConnectionError("the answer has begun already")
        ours = status >= HTTPStatus.INTERNAL_SERVER_ERROR
        log.info("no HTTP", status=int(status), error=type(exc).__name__, exc_info=exc if ours else None)
        slug, detail = (
            ("internal_error", "this is our fault, and has been noted")
            if ours
            else ("malformed_request", "this is not a well-formed HTTP request")
        )
        response = problem(status, slug, detail)
        response.force_close()
        return response


@asynccontextmanager
async def serving(app: web.Application, settings: HttpSettings) -> AsyncIterator[None]:
    """Answer HTTP until the end of the block; then accept nothing more and finish what is under way.

    Exits with one sentence when the port is taken.
    """
    loop = asyncio.get_running_loop()
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=SHUTDOWN_S)
    await runner.setup()
    manager = runner.server
    assert manager is not None

    room = _Room(settings.connections_at_most)

    def connection() -> RequestHandler:
        return _Protocol(manager, loop, room)

    try:
        try:
            server = await loop.create_server(
                connection, settings.host, settings.port, backlog=1024, reuse_address=True
            )
        except OSError as error:
            sys.stderr.write(f"setting PORT: cannot listen on {settings.host}:{settings.port}: {error.strerror}\n")
            raise SystemExit(2) from None
        try:
            yield
        finally:
            server.close()
    finally:
        await runner.cleanup()
