"""The contracts, and their pages: everything a page shows comes from here, so it works without the internet."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from aiohttp import web

from gateway.api import BASE

STATIC: Final = Path(__file__).parent / "static"
ASSETS: Final = ("docs.css", "events.css", "redoc.standalone.js")
FOLDERS: Final = (
    STATIC / "asyncapi",  # where a wheel has the contracts
    Path(__file__).parents[2] / "asyncapi",  # where a checkout has them
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


EVENTS_HEADERS: Final = {
    **HEADERS,
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
}
"""For the catalogue of events, which needs no script."""

OPEN_HEADERS: Final = {**HEADERS, "Access-Control-Allow-Origin": "*"}
"""For the AsyncAPI documents: public, and read by tools that run in browsers."""


def add_docs(app: web.Application) -> None:
    """Put the contracts and their pages into the application. Raises FileNotFoundError when one is not packed."""
    folder = _find_contracts()
    _serve(app, "/openapi.json", folder / "openapi.json", "application/json", HEADERS)
    _serve(app, "/docs", STATIC / "docs.html", "text/html", HEADERS)
    _serve(app, "/docs/", STATIC / "docs.html", "text/html", HEADERS)
    _serve(app, "/docs/events", folder / "events.html", "text/html", EVENTS_HEADERS)
    for document in sorted(folder.glob("*.yaml")):
        _serve(app, f"/asyncapi/{document.name}", document, "application/yaml", OPEN_HEADERS)

    async def show_asset(request: web.Request) -> web.FileResponse:
        return web.FileResponse(STATIC / request.path.rpartition("/")[2], headers=HEADERS)

    for asset in ASSETS:
        app.router.add_get(f"{BASE}/docs/{asset}", show_asset)


def _serve(app: web.Application, path: str, file: Path, content_type: str, headers: Mapping[str, str]) -> None:
    body = file.read_bytes()

    async def show(_request: web.Request) -> web.Response:
        return web.Response(body=body, content_type=content_type, charset="utf-8", headers=headers)

    app.router.add_get(f"{BASE}{path}", show)


def _find_contracts() -> Path:
    for folder in FOLDERS:
        if (folder / "openapi.json").is_file():
            return folder
    raise FileNotFoundError(f"the contracts are neither in {FOLDERS[0]} nor in {FOLDERS[1]}; run `just contracts`")
