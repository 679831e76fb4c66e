"""The composition root of the gateway."""

from collections.abc import AsyncIterator

from aiohttp import web

from gateway.api import HEALTH, Gateway
from gateway.docs import add_docs
from gateway.settings import Settings
from gateway.upstream import Upstream
from libs.telemetry import Telemetry
from libs.web.app import admit, alive, answer_problems
from libs.web.identity import Verifier
from libs.web.observing import exposing, observing
from libs.web.problems import BODY_AT_MOST


def make_gateway(settings: Settings) -> web.Application:
    """Build the gateway's application.

    Strangers reach ``/client`` only, through the ingress; probes and metrics stand beside it, for those inside.
    """
    telemetry = Telemetry.of("gateway", settings, edge=True)
    upstream = Upstream(settings.replicas(), timeout_s=settings.upstream_timeout_s, spans=telemetry.spans)
    verifier = Verifier(settings.jwt_public_keys, issuer=settings.jwt_issuer, audience=settings.jwt_audience)

    async def connections(_app: web.Application) -> AsyncIterator[None]:
        yield
        upstream.close()
        await telemetry.close()

    admitting = admit(settings.requests_at_most, always=("/livez", "/readyz", "/metrics", *HEALTH))
    middlewares = [observing(telemetry), answer_problems, admitting]
    app = web.Application(client_max_size=BODY_AT_MOST, middlewares=middlewares)
    app.cleanup_ctx.append(connections)
    app.router.add_get("/livez", alive)
    app.router.add_get("/readyz", alive)
    app.router.add_get("/metrics", exposing(telemetry))
    Gateway(upstream, verifier).add_routes(app)
    add_docs(app)
    return app
