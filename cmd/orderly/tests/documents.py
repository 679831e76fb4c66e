"""The committed AsyncAPI documents, and how messages compare with them."""

import json
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final

from jsonschema import Draft7Validator, FormatChecker
from jsonschema.validators import validator_for

from orderly.contracts import FOLDER, from_yaml
from orderly.newman import ROOT

Json = dict[str, Any]

SPECIFICATION: Final = Path(__file__).parent / "data" / "asyncapi-3.1.0.json"
"""The official schema: `schemas/3.1.0.json` of the npm package @asyncapi/specs 6.11.1, Apache-2.0."""


@cache
def committed(service: str) -> Json:
    """Read the document of a service."""
    return from_yaml((ROOT / FOLDER / f"{service}.yaml").read_text(encoding="utf-8"))


def found_at(document: Json, reference: str) -> Any:
    """Follow a reference within the document; raises KeyError when it dangles."""
    value: Any = document
    for part in reference.removeprefix("#/").split("/"):
        value = value[part.replace("~1", "/").replace("~0", "~")]
    return value


def references(value: Any) -> list[str]:
    """List all references."""
    if isinstance(value, dict):
        own = [value["$ref"]] if isinstance(value.get("$ref"), str) else []
        return own + [one for inner in value.values() for one in references(inner)]
    return [one for inner in value for one in references(inner)] if isinstance(value, list) else []


def components_of(document: Json) -> set[str]:
    """List what can be referred to; ways to authenticate are named, not referred to."""
    return {
        f"#/components/{kind}/{name}"
        for kind, named in document["components"].items()
        if kind != "securitySchemes"
        for name in named
    }


def faults(document: Json) -> list[str]:
    """Say where a document is not what the official schema of AsyncAPI 3.1.0 wants."""
    specification = json.loads(SPECIFICATION.read_text(encoding="utf-8"))
    errors = validator_for(specification)(specification).iter_errors(document)
    return [f"{list(error.absolute_path)}: {error.message[:300]}" for error in errors]


def problems(document: Json, schema: Json, value: Any) -> list[str]:
    """Say where a value breaks a schema of the document, whose references are followed."""
    rooted = {**schema, "components": document["components"]}
    errors = Draft7Validator(rooted, format_checker=FormatChecker()).iter_errors(value)
    return [f"{list(error.absolute_path)}: {error.message}" for error in errors]


def deviations(subject: str, headers: Mapping[str, str], payload: bytes) -> list[str]:
    """Say where a message that its publisher sent is not what the publisher's document says."""
    document = committed(subject.split(".", 1)[0])
    messages = [found_at(document, reference) for reference in _messages_on(document, subject)]
    if not messages:
        return [f"no channel is at {subject}"]
    return [
        said
        for message in messages
        for said in (
            *problems(document, message["headers"], dict(headers)),
            *problems(document, message["payload"], json.loads(payload)),
            *(f"{name} is said nowhere" for name in headers if name not in _headers_of(document, message)),
        )
    ]


def _messages_on(document: Json, subject: str) -> Iterator[str]:
    for operation in document["operations"].values():
        channel = found_at(document, operation["channel"]["$ref"])
        pattern = re.sub(r"\\\{\w+\\\}", "[^.]+", re.escape(channel["address"]))
        if operation["action"] == "send" and re.fullmatch(pattern, subject):
            yield from (found_at(document, message["$ref"])["$ref"] for message in operation["messages"])


def _headers_of(document: Json, message: Json) -> set[str]:
    common, own = message["headers"]["allOf"]
    return {*found_at(document, common["$ref"])["properties"], *own["properties"]}
