"""The contracts: documents made from the services' own tables, committed so that a change of them is seen."""

import json
import tomllib
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Final

from gateway.api import BASE, DOORS
from libs import asyncapi
from libs.web.openapi import Section, describe
from orderly.catalogue import catalogue
from orderly.nats_access import FILES, access_file
from orderly.newman import ROOT
from orderly.services import NAMES, SERVICES

FOLDER: Final = Path("asyncapi")
OPENAPI: Final = FOLDER / "openapi.json"
EVENTS: Final = FOLDER / "events.html"

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

What happens because of a request is in the [catalogue of events]({BASE}/docs/events).
"""

Json = dict[str, Any]


def current_version() -> str:
    """Read the version of this checkout, which is that of its contracts, too."""
    version: str = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    return version


def openapi_document(version: str | None = None) -> Json:
    """Describe everything that the gateway answers."""
    info = {
        "title": "Orderly",
        "version": version or current_version(),
        "summary": "Places orders, takes the money for them, and writes letters about it.",
        "description": ABOUT,
        "license": {"name": "MIT", "identifier": "MIT"},
    }
    behind = {door.service for door in DOORS}
    sections = [Section(one.name, _about(one.name), one.routes) for one in SERVICES if one.name in behind]
    sections.append(Section("gateway", _about("gateway")))
    return describe(sections, info=info, base=BASE, paths=_gateway_paths())


def asyncapi_documents(version: str | None = None) -> dict[str, Json]:
    """Describe what each service states and listens to; by the service's name."""
    return {
        service.name: asyncapi.describe(service, SERVICES, info=_info(service.name, version or current_version()))
        for service in SERVICES
    }


def contracts(version: str | None = None) -> dict[str, str]:
    """Write every document as it is committed; by the name of its file."""
    events = asyncapi_documents(version)
    texts = {f"{name}.yaml": yaml_of(document) for name, document in events.items()}
    return {**texts, OPENAPI.name: text_of(openapi_document(version)), EVENTS.name: catalogue(events)}


def write_contracts(root: Path) -> list[Path]:
    """Write the documents, and what the brokers read, into the checkout at `root`; return where they are."""
    rights = [write_texts(root / file.parent, {file.name: access_file()}) for file in FILES]
    return [*write_texts(root / FOLDER, contracts()), *(path for paths in rights for path in paths)]


def write_texts(folder: Path, texts: dict[str, str]) -> list[Path]:
    """Write each text into the file of its name; return where they are."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8", newline="\n")
    return [folder / name for name in texts]


def text_of(document: Json) -> str:
    """Write a document as it is committed: in the order of the tables, so that a diff shows what changed."""
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def yaml_of(document: Json) -> str:
    """Write a document as YAML, in the order of the tables. What stands in it twice is written twice."""
    import yaml  # noqa: PLC0415 - only developers have it

    class Plain(yaml.CSafeDumper):
        def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002 - PyYAML's signature
            return True

    return yaml.dump(document, Dumper=Plain, sort_keys=False, allow_unicode=True, width=110)


def from_yaml(text: str) -> Json:
    """Read a document that `yaml_of` wrote."""
    import yaml  # noqa: PLC0415 - only developers have it

    document: Json = yaml.load(text, Loader=yaml.CSafeLoader)  # several times faster than in Python
    return document


def _info(service: str, version: str) -> Json:
    return {
        "title": f"Orderly: {service}",
        "version": version,
        "description": _about(service),
        "license": {"name": "MIT", "url": "https://opensource.org/license/mit"},
    }


def _about(package: str) -> str:
    """Read what a service owns from its package: everything after the headline."""
    _, _, about = (import_module(package).__doc__ or "").partition("\n\n")
    return " ".join(about.split())


def _gateway_paths() -> Json:
    """Describe what the gateway answers itself. It has no table of routes, so this is written by hand."""
    states = {
        "type": "object",
        "additionalProperties": {"enum": ["OK", "down"]},
        "examples": [dict.fromkeys((door.service for door in DOORS), "OK")],
    }
    names = {"type": "array", "items": {"type": "string"}, "minItems": 1}
    healthy = _object({"status": {"const": "OK"}, "services": states})
    unhealthy = _object({"status": {"const": "unavailable"}, "down": names, "services": states})
    retry_after = {"headers": {"Retry-After": {"$ref": "#/components/headers/Retry-After"}}}
    health = {"200": _is("They are", healthy), "503": {**_is("Those in `down` are not", unhealthy), **retry_after}}
    document = {"200": _is("OpenAPI 3.1", {"type": "object"})}
    page = {"200": _is("HTML", {"type": "string"}, "text/html")}
    unknown = _is("There is no such service", {"$ref": "#/components/schemas/Problem"}, "application/problem+json")
    events = {"200": _is("AsyncAPI 3.1", {"type": "object"}, "application/yaml"), "404": unknown}
    service = {"name": "service", "in": "path", "required": True, "schema": {"enum": [*NAMES]}}
    return {
        f"{BASE}/health/": _get("show_health", "Say whether all services are ready", health),
        f"{BASE}/openapi.json": _get("show_openapi", "Show this description", document),
        f"{BASE}/docs": _get("show_docs", "Show this description as a page", page),
        f"{BASE}/docs/events": _get("show_events", "Show which service states what, and who listens", page),
        f"{BASE}/asyncapi/{{service}}.yaml": _get("show_asyncapi", "Describe a service's events", events, [service]),
    }


def _get(operation_id: str, summary: str, responses: Json, parameters: Sequence[Json] = ()) -> Json:
    operation = {"tags": ["gateway"], "operationId": operation_id, "summary": summary, "security": []}
    given = {"parameters": [*parameters]} if parameters else {}
    return {"get": {**operation, **given, "responses": responses}}


def _is(description: str, schema: Json, media_type: str = "application/json") -> Json:
    return {"description": description, "content": {media_type: {"schema": schema}}}


def _object(properties: Json) -> Json:
    return {"type": "object", "properties": properties, "required": [*properties]}
