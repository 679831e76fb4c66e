"""The catalogue of events: the AsyncAPI documents of all services as one page, with who states what and who listens."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from html import escape
from typing import Any, Final

from gateway.api import BASE

Json = dict[str, Any]
Documents = Mapping[str, Json]

DAY_S: Final = 24 * 3600
ABOUT: Final = (
    "What each service of Orderly states, and who listens. Every subject is `<service>.<entity>.<fact>.<id>`, and "
    "everything about an order ends with its id."
)


@dataclass(frozen=True, slots=True)
class Listener:
    """A service that handles a message."""

    service: str
    handler: str
    operation: Json


def catalogue(documents: Documents) -> str:
    """Write the page. It loads its style and nothing else."""
    return _lines(
        "<!doctype html>",
        '<html lang="en">',
        "<head>",
        '<meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        "<title>Orderly: events</title>",
        '<link rel="icon" href="data:,">',
        f'<link rel="stylesheet" href="{BASE}/docs/events.css">',
        "</head>",
        "<body>",
        "<header>",
        "<h1>Events</h1>",
        f'<p>{_prose(ABOUT)} The requests behind it are in the <a href="{BASE}/docs">HTTP reference</a>.</p>',
        "</header>",
        "<main>",
        _overview(documents),
        *(_service(name, documents) for name in documents),
        "</main>",
        "</body>",
        "</html>",
    )


def _overview(documents: Documents) -> str:
    rows = [row for name in documents for row in _rows(name, documents)]
    head = "<thead><tr><th>service</th><th>states</th><th>and these listen</th></tr></thead>"
    return f'<table class="overview">{head}<tbody>{_lines(*rows)}</tbody></table>'


def _rows(service: str, documents: Documents) -> Iterator[str]:
    messages = [operation["title"] for operation in _sends(documents[service]) if operation["title"] != "DeadLetter"]
    first = f'<th rowspan="{len(messages)}" scope="rowgroup"><a href="#{service}">{service}</a></th>'
    for place, message in enumerate(messages):
        yield f"<tr>{'' if place else first}<td>{_link(message)}</td><td>{_who(message, documents)}</td></tr>"


def _who(message: str, documents: Documents) -> str:
    names = [listener.service for listener in _listeners(message, documents)]
    return ", ".join(f'<a href="#{name}">{name}</a>' for name in names) or '<span class="dim">nobody yet</span>'


def _service(name: str, documents: Documents) -> str:
    document = documents[name]
    sends = _sends(document)
    kept = sends[0]["bindings"]["nats"]["x-jetstream"]
    heard = [operation["title"] for operation in document["operations"].values() if operation["action"] == "receive"]
    listens = ", ".join(_link(message) for message in heard) or "nothing"
    days = kept["max_age_s"] // DAY_S
    contract = f'<a href="{BASE}/asyncapi/{name}.yaml">{name}.yaml</a> (AsyncAPI {document["asyncapi"]})'
    return _lines(
        f'<section id="{name}">',
        f"<h2>{name}</h2>",
        f"<p>{_prose(document['info']['description'])}</p>",
        '<dl class="facts">',
        f"<dt>listens to</dt><dd>{listens}</dd>",
        f"<dt>stream</dt><dd><code>{kept['stream']}</code>, which keeps everything for {days} days</dd>",
        f"<dt>contract</dt><dd>{contract}</dd>",
        "</dl>",
        *(_message(operation, name, documents) for operation in sends),
        "</section>",
    )


def _message(operation: Json, service: str, documents: Documents) -> str:
    document = documents[service]
    name = operation["title"]
    message = document["components"]["messages"][name]
    channel = document["channels"][operation["channel"]["$ref"].rpartition("/")[2]]
    anchor = name if name != "DeadLetter" else f"{service}-{name}"
    return _lines(
        f'<article id="{anchor}">',
        f"<h3>{name}</h3>",
        f'<p class="subject"><code>{_subject(channel["address"])}</code></p>',
        f"<p>{_prose(message.get('description', message['summary']))}</p>",
        _heard_by(name, operation, documents) if name != "DeadLetter" else "",
        '<div class="columns">',
        _fields(document["components"]["schemas"][name], document),
        _example(message["examples"][0]["payload"]),
        "</div>",
        "</article>",
    )


def _heard_by(message: str, operation: Json, documents: Documents) -> str:
    awaited = [one["$ref"].rpartition("/")[2] for one in operation.get("reply", {}).get("messages", ())]
    items = [
        f'<li><a href="#{listener.service}">{listener.service}</a> <code>{listener.handler}</code> '
        f"{_prose(listener.operation['summary'])}{_states(listener.operation.get('x-states', ()), awaited)}</li>"
        for listener in _listeners(message, documents)
    ]
    return f'<ul class="listeners">{_lines(*items)}</ul>' if items else '<p class="dim">Nobody listens yet.</p>'


def _states(facts: Iterable[str], awaited: Iterable[str]) -> str:
    said = " or ".join(_link(fact) for fact in facts)
    answer = ", the awaited answer" if set(facts) & set(awaited) else ""
    return f' <span class="states">→ {said}{answer}</span>' if said else ""


def _fields(schema: Json, document: Json) -> str:
    rows = [
        f"<tr><td><code>{name}</code></td><td>{_type(field, document)}"
        f"{'' if name in schema['required'] else ' <span class=dim>may be absent</span>'}"
        f"{_described(field)}</td></tr>"
        for name, field in schema["properties"].items()
    ]
    return f'<table class="fields"><tbody>{_lines(*rows)}</tbody></table>'


def _type(field: Json, document: Json) -> str:
    if "$ref" in field:
        field = document["components"]["schemas"][field["$ref"].rpartition("/")[2]]
    if "enum" in field:
        return " | ".join(f"<code>{escape(value)}</code>" for value in field["enum"])
    if str(field.get("pattern", "")).endswith(r"\.[0-9]{2}$"):
        return "money"
    return escape(str(field.get("format", field["type"])))


def _described(field: Json) -> str:
    return f"<p>{_prose(field['description'])}</p>" if "description" in field else ""


def _example(payload: Json) -> str:
    return f"<pre>{escape(json.dumps(payload, indent=2, ensure_ascii=False), quote=False)}</pre>"


def _subject(address: str) -> str:
    return re.sub(r"(\{\w+\})", r"<em>\1</em>", escape(address))


def _listeners(message: str, documents: Documents) -> Iterator[Listener]:
    for service, document in documents.items():
        for handler, operation in document["operations"].items():
            if operation["action"] == "receive" and operation["title"] == message:
                yield Listener(service, handler, operation)


def _sends(document: Json) -> list[Json]:
    return [operation for operation in document["operations"].values() if operation["action"] == "send"]


def _link(message: str) -> str:
    return f'<a href="#{message}">{message}</a>'


def _prose(text: str) -> str:
    """Write a text of the code: what stands between backticks is code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text, quote=False))


def _lines(*parts: str) -> str:
    return "".join(f"{part.rstrip()}\n" for part in parts if part)
