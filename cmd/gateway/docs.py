"""The contract, and its reference page: everything the page shows comes from here, so it works without the internet."""

from pathlib import Path
from typing import Final

from aiohttp import web

from gateway.api import BASE

STATIC: Final = Path(__file__).parent / "static"
ASSETS: Final = ("docs.css", "redoc.standalone.js")
DOCUMENTS: Final = (
    STATIC / "openapi.json",  # where a wheel has it
    Path(__file__).parents[2] / "asyncapi" / "openapi.json",  # where a checkout has it
)
POLICY: Final = {
    "default-src": "'none'",
    "script-src": "'self'",
    # Redoc fills an empty <style> rule by rule, and brings the style of its scroll bars: the hashes of the two.
    "style-src": "'self' 'sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU='"
    " 'sha256-QMIg+bpjm3JdElJ388KYke01izlUW0UoNOeKjpMxdgc='",
    "img-src": "data:",
    "connect-src": "'self'",
    "worker-src": "blob:",  # Redoc searches in a worker, which it makes from its own text
    "base-uri": "'none'",
    "form-action": "'none'",
    "frame-ancestors": "'none'",
}
HEADERS: Final = {
    "Cache-Control": "no-cache",
    "Content-Security-Policy": "; ".join(f"{directive} {sources}" for directive, sources in POLICY.items()),
    "X-Content-Type-Options": "nosniff",
}


def add_docs(app: web.Application) -> None:
    """Put the contract and its page into the application. Raises FileNotFoundError when the contract is not packed."""
    document = _find_document().read_bytes()

    async def show_document(_request: web.Request) -> web.Response:
        return web.Response(body=document, content_type="application/json", headers=HEADERS)

    async def show_page(_request: web.Request) -> web.FileResponse:
        return web.FileResponse(STATIC / "docs.html", headers=HEADERS)

    async def show_asset(request: web.Request) -> web.FileResponse:
        return web.FileResponse(STATIC / request.path.rpartition("/")[2], headers=HEADERS)

    app.router.add_get(f"{BASE}/openapi.json", show_document)
    app.router.add_get(f"{BASE}/docs", show_page)
    app.router.add_get(f"{BASE}/docs/", show_page)
    for asset in ASSETS:
        app.router.add_get(f"{BASE}/docs/{asset}", show_asset)


def _find_document() -> Path:
    for path in DOCUMENTS:
        if path.is_file():
            return path
    raise FileNotFoundError(f"the contract is neither at {DOCUMENTS[0]} nor at {DOCUMENTS[1]}; run `just contracts`")
