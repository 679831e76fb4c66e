"""The composition root of the gateway."""

from collections.abc import AsyncIterator

from aiohttp import web

from gateway.api import Gateway
from gateway.docs import add_docs
from gateway.settings import Settings
from gateway.upstream import Upstream
from libs.web.app import BODY_AT_MOST, alive, answer_problems
from libs.web.identity import Verifier


def make_gateway(settings: Settings) -> web.Application:
    """Build the gateway's application."""
    upstream = Upstream(settings.replicas(), timeout_s=settings.upstream_timeout_s)
    verifier = Verifier(settings.jwt_public_keys, issuer=settings.jwt_issuer, audience=settings.jwt_audience)

    async def connections(_app: web.Application) -> AsyncIterator[None]:
        await upstream.open()
        yield
        await upstream.close()

    app = web.Application(client_max_size=BODY_AT_MOST, middlewares=[answer_problems])
    app.cleanup_ctx.append(connections)
    app.router.add_get("/livez", alive)
    app.router.add_get("/readyz", alive)
    Gateway(upstream, verifier).add_routes(app)
    add_docs(app)
    return app
