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

from libs.settings import HttpSettings
from libs.web.problems import problem

SHUTDOWN_S: Final = 5.0
"""How long requests under way may take to end once no new ones are accepted."""

KEEP_ALIVE_S: Final = 75.0

log = structlog.get_logger()


class _Protocol(RequestHandler):
    """A connection. What cannot be parsed as HTTP is answered like every other mistake."""

    __slots__ = ()

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

    def connection() -> RequestHandler:
        return _Protocol(manager, loop=loop, keepalive_timeout=KEEP_ALIVE_S)

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
