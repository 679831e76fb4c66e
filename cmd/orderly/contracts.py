"""The contracts: documents made from the services' own tables, committed so that a change of them is seen."""

import json
from importlib import import_module
from pathlib import Path
from typing import Any, Final

from gateway.api import BASE
from libs.web.openapi import Section, describe
from orderly.services import NAMES, SERVICES

OPENAPI: Final = Path("asyncapi", "openapi.json")

ABOUT: Final = f"""\
Register at `POST {BASE}/users`, get a token at `POST {BASE}/login`, and send it with every other request as
`Authorization: Bearer <token>`.

- **Money** is a decimal string with two places, like `"150.00"`. A request may write it as a number, too.
- **Times** are RFC 3339 in UTC. **Ids** are UUIDs that grow with time.
- **Lists** are newest first. The `next` of a page is the `cursor` of the page after it; the last one has `null`.
- **A POST can be sent again** with the `Idempotency-Key` of the first time, for seven days: nothing happens
  twice, and the first answer comes back.
- **Problems** are RFC 9457 documents whose `type` never changes. After a 503 or a lost connection, send the
  request again with the same key.
"""

INFO: Final = {
    "title": "Orderly",
    "version": "1.0.0",
    "summary": "Places orders, takes the money for them, and writes letters about it.",
    "description": ABOUT,
    "license": {"name": "MIT", "identifier": "MIT"},
}


def openapi_document() -> dict[str, Any]:
    """Describe everything that the gateway answers."""
    sections = [Section(service.name, _about(service.name), service.routes) for service in SERVICES]
    sections.append(Section("gateway", _about("gateway")))
    return describe(sections, info=INFO, base=BASE, paths=_gateway_paths())


def write_contracts(root: Path) -> list[Path]:
    """Write the documents into the checkout at `root`; return where they are."""
    path = root / OPENAPI
    path.parent.mkdir(exist_ok=True)
    path.write_text(text_of(openapi_document()), encoding="utf-8", newline="\n")
    return [path]


def text_of(document: dict[str, Any]) -> str:
    """Write a document as it is committed: in the order of the tables, so that a diff shows what changed."""
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def _about(package: str) -> str:
    """Read what a service owns from its package: everything after the headline."""
    _, _, about = (import_module(package).__doc__ or "").partition("\n\n")
    return " ".join(about.split())


def _gateway_paths() -> dict[str, Any]:
    """Describe what the gateway answers itself. It has no table of routes, so this is written by hand."""
    states = {
        "type": "object",
        "additionalProperties": {"enum": ["OK", "down"]},
        "examples": [dict.fromkeys(NAMES, "OK")],
    }
    names = {"type": "array", "items": {"type": "string"}, "minItems": 1}
    healthy = _object({"status": {"const": "OK"}, "services": states})
    unhealthy = _object({"status": {"const": "unavailable"}, "down": names, "services": states})
    retry_after = {"headers": {"Retry-After": {"$ref": "#/components/headers/Retry-After"}}}
    health = {"200": _is("They are", healthy), "503": {**_is("Those in `down` are not", unhealthy), **retry_after}}
    document = {"200": _is("OpenAPI 3.1", {"type": "object"})}
    page = {"200": _is("HTML", {"type": "string"}, "text/html")}
    return {
        f"{BASE}/health/": _get("show_health", "Say whether all services are ready", health),
        f"{BASE}/openapi.json": _get("show_openapi", "Show this description", document),
        f"{BASE}/docs": _get("show_docs", "Show this description as a page", page),
    }


def _get(operation_id: str, summary: str, responses: dict[str, Any]) -> dict[str, Any]:
    operation = {"tags": ["gateway"], "operationId": operation_id, "summary": summary, "security": []}
    return {"get": {**operation, "responses": responses}}


def _is(description: str, schema: dict[str, Any], media_type: str = "application/json") -> dict[str, Any]:
    return {"description": description, "content": {media_type: {"schema": schema}}}


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": [*properties]}
