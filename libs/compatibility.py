"""What breaks those who rely on a contract, found by comparing two versions of its document.

One rule decides everything: whoever reads must understand whatever may be written. What we state and answer is
written by the new version and read by those who know the old one; what we listen to and are asked is written by those
who know the old one (or waits in a stream since then), and read by the new one. So what is written may gain fields,
but lose none, and its values may only become fewer: a new value of an enum breaks a reader that knows the others.
What is read may gain optional fields and values, but never require more.
"""

from collections.abc import Iterator
from typing import Any, Final, TypeAlias

Json: TypeAlias = dict[str, Any]

EXACT: Final = ("format", "pattern")
LOWEST: Final = ("minimum", "exclusiveMinimum", "minLength", "minItems")
HIGHEST: Final = ("maximum", "exclusiveMaximum", "maxLength", "maxItems")
PROBLEM: Final = "application/problem+json"
METHODS: Final = ("get", "put", "post", "delete", "options", "head", "patch", "trace")


def breaks_of_events(old: Json, new: Json) -> list[str]:
    """Say what a service's new AsyncAPI document breaks for those who know the old one."""
    old, new = _resolved(old, old), _resolved(new, new)
    return [*_no_longer_stated(old, new), *_no_longer_understood(old, new)]


def breaks_of_requests(old: Json, new: Json) -> list[str]:
    """Say what a new OpenAPI document breaks for those who know the old one.

    A new way to refuse is none: the `type` of a problem is an open set, and clients go by the status then.
    """
    old, new = _resolved(old, old), _resolved(new, new)
    return [
        said
        for path, operations in old["paths"].items()
        for method in METHODS
        if method in operations
        for said in _of_operation(
            f"{method.upper()} {path}",
            {"security": old.get("security", []), **operations[method]},
            new["paths"].get(path, {}).get(method),
            new.get("security", []),
        )
    ]


def misfits(written: Json, read: Json, at: str, *, keep: bool = False) -> Iterator[str]:
    """Say why a value that follows the schema `written` may not be understood by a reader of the schema `read`.

    With `keep`, whatever the reader knows must still be written, even what it can do without.
    """
    writes, reads = _choices(written), _choices(read)
    if len(writes) == len(reads) == 1:
        yield from _misfits_of_one(writes[0], reads[0], at, keep=keep)
        return
    for choice in writes:
        if all(any(_misfits_of_one(choice, other, at, keep=keep)) for other in reads):
            yield f"{at} may be {_named(choice)}, which is not expected"


def _misfits_of_one(written: Json, read: Json, at: str, *, keep: bool) -> Iterator[str]:
    expected, values = _values(read), _values(written)
    if expected is not None:
        if values is None:
            yield f"{at} may be anything, expected is one of {', '.join(map(repr, expected))}"
        elif more := [value for value in values if value not in expected]:
            yield f"{at} may be {', '.join(map(repr, more))}, which is not expected"
        return
    if _type(written) != _type(read) and (_type(written), _type(read)) != ("integer", "number") and _type(read):
        yield f"{at} is {_type(written) or 'anything'}, expected is {_type(read)}"
        return
    if values is None:
        yield from _bounds(written, read, at)
    if "items" in read:
        yield from misfits(written.get("items", {}), read["items"], f"{at}[]", keep=keep)
    if "properties" in read or read.get("additionalProperties") is False:
        yield from _misfits_of_fields(written, read, at, keep=keep)
    if isinstance(others := read.get("additionalProperties"), dict):
        yield from misfits(written.get("additionalProperties") or {}, others, f"{at}.*", keep=keep)


def _misfits_of_fields(written: Json, read: Json, at: str, *, keep: bool) -> Iterator[str]:
    known, there = read.get("properties", {}), written.get("properties", {})
    for name, field in known.items():
        if name not in there:
            if keep:
                yield f"{at}.{name} is gone"
            elif name in read.get("required", ()):
                yield f"{at}.{name} is required now"
            continue
        if name in read.get("required", ()) and name not in written.get("required", ()):
            yield f"{at}.{name} may be absent, and is required"
        yield from misfits(there[name], field, f"{at}.{name}", keep=keep)
    if read.get("additionalProperties") is False:
        for name in there:
            if name not in known:
                yield f"{at}.{name} is not known"


def _bounds(written: Json, read: Json, at: str) -> Iterator[str]:
    for keyword in EXACT:
        if keyword in read and written.get(keyword) != read[keyword]:
            yield f"{at} has the {keyword} {written.get(keyword)}, expected is {read[keyword]}"
    for keyword in LOWEST:
        if keyword in read and written.get(keyword, float("-inf")) < read[keyword]:
            yield f"{at} may be below the {keyword} {read[keyword]}"
    for keyword in HIGHEST:
        if keyword in read and written.get(keyword, float("inf")) > read[keyword]:
            yield f"{at} may be above the {keyword} {read[keyword]}"


def _choices(schema: Json) -> list[Json]:
    """Take apart what may be one thing or another."""
    if "anyOf" in schema:
        rest = {key: value for key, value in schema.items() if key != "anyOf"}
        return [one for choice in schema["anyOf"] for one in _choices(_merged(rest, choice))]
    if isinstance(schema.get("type"), list):
        return [{**schema, "type": kind} for kind in schema["type"]]
    return [schema]


def _values(schema: Json) -> list[Any] | None:
    return [schema["const"]] if "const" in schema else schema.get("enum")


def _type(schema: Json) -> str | None:
    """Name the type: as it is said, or as its only value has it."""
    names = {str: "string", bool: "boolean", int: "integer", float: "number"}
    said: str | None = schema.get("type")
    return said or next((names.get(type(value)) for value in _values(schema) or ()), None)


def _named(schema: Json) -> str:
    values = _values(schema)
    return ", ".join(map(repr, values)) if values else _type(schema) or "anything"


def _resolved(value: Any, document: Json) -> Any:
    """Put what is referred to in the place of each reference, and one schema in the place of an `allOf`."""
    if isinstance(value, list):
        return [_resolved(one, document) for one in value]
    if not isinstance(value, dict):
        return value
    if isinstance(value.get("$ref"), str):
        target: Any = document
        for part in value["$ref"].removeprefix("#/").split("/"):
            target = target[part.replace("~1", "/").replace("~0", "~")]
        rest = {key: inner for key, inner in value.items() if key != "$ref"}
        return _merged(_resolved(target, document), _resolved(rest, document))
    found = {key: _resolved(inner, document) for key, inner in value.items()}
    for part in found.pop("allOf", ()):
        found = _merged(found, part)
    return found


def _merged(one: Json, other: Json) -> Json:
    """Join two schemas that both hold."""
    merged = {**one, **other}
    if "properties" in one and "properties" in other:
        fields = {name: {**one["properties"].get(name, {}), **field} for name, field in other["properties"].items()}
        merged["properties"] = {**one["properties"], **fields}
    if "required" in one and "required" in other:
        merged["required"] = [*one["required"], *other["required"]]
    return merged


def _operations(document: Json, action: str) -> dict[str, Json]:
    """List the operations by the names of their messages, on which everything else hangs."""
    return {
        message["name"]: {**operation, "message": message}
        for operation in document["operations"].values()
        if operation["action"] == action
        for message in operation["messages"]
    }


def _no_longer_stated(old: Json, new: Json) -> Iterator[str]:
    now = _operations(new, "send")
    for name, before in _operations(old, "send").items():
        if name not in now:
            yield f"{name} is no longer stated"
            continue
        after = now[name]
        if after["channel"]["address"] != before["channel"]["address"]:
            yield f"{name} moved from {before['channel']['address']} to {after['channel']['address']}"
        if _kept_in(after) != _kept_in(before):
            yield f"{name} is kept in the stream {_kept_in(after)}, before in {_kept_in(before)}"
        if after["message"]["contentType"] != before["message"]["contentType"]:
            yield f"{name} is {after['message']['contentType']}, before {before['message']['contentType']}"
        for part in ("headers", "payload"):
            yield from misfits(after["message"][part], before["message"][part], f"{name} {part}", keep=True)


def _no_longer_understood(old: Json, new: Json) -> Iterator[str]:
    now = _operations(new, "receive")
    for name, before in _operations(old, "receive").items():
        answers = {message["name"] for message in before.get("reply", {}).get("messages", ())}
        after = now.get(name, {})
        lost = answers - {message["name"] for message in after.get("reply", {}).get("messages", ())}
        if lost:
            yield f"{name} is no longer answered with {', '.join(sorted(lost))}"
        for part in ("headers", "payload"):
            if after:  # nobody relies on being listened to, but for the answer
                yield from misfits(before["message"][part], after["message"][part], f"{name} {part}")


def _kept_in(operation: Json) -> str:
    stream: str = operation["bindings"]["nats"]["x-jetstream"]["stream"]
    return stream


def _of_operation(name: str, old: Json, new: Json | None, security: list[Json]) -> Iterator[str]:
    if new is None:
        yield f"{name} is gone"
        return
    if not old["security"] and new.get("security", security):
        yield f"{name} needs a token now"
    yield from _of_parameters(name, old, new)
    yield from _of_body(name, old.get("requestBody"), new.get("requestBody"))
    for status, before in old["responses"].items():
        if status not in new["responses"]:
            yield f"{name} no longer answers {status}"
        else:
            yield from _of_answer(f"{name} {status}", before, new["responses"][status])


def _of_parameters(name: str, old: Json, new: Json) -> Iterator[str]:
    before = {(one["in"], one["name"]): one for one in old.get("parameters", ())}
    after = {(one["in"], one["name"]): one for one in new.get("parameters", ())}
    for place, known in before.items():
        if place not in after:
            yield f"{name} {place[1]} is not known"
        else:
            yield from misfits(known["schema"], after[place]["schema"], f"{name} {place[1]}")
    for place, one in after.items():
        if one.get("required") and not before.get(place, {}).get("required"):
            yield f"{name} {place[1]} is required now"


def _of_body(name: str, old: Json | None, new: Json | None) -> Iterator[str]:
    if old is None:
        if new is not None and new.get("required"):
            yield f"{name} requires a body now"
        return
    if new is None:
        yield f"{name} takes no body any more"
        return
    if new.get("required") and not old.get("required"):
        yield f"{name} requires a body now"
    for kind, before in old["content"].items():
        if kind not in new["content"]:
            yield f"{name} no longer takes {kind}"
        else:
            yield from misfits(before["schema"], new["content"][kind]["schema"], f"{name} body")


def _of_answer(name: str, old: Json, new: Json) -> Iterator[str]:
    for header in old.get("headers", {}):
        if header not in new.get("headers", {}):
            yield f"{name} no longer carries {header}"
    for kind, before in old.get("content", {}).items():
        if kind not in new.get("content", {}):
            yield f"{name} is no longer {kind}"
            continue
        schema = before["schema"]
        if kind == PROBLEM:
            schema = _merged(schema, {"properties": {"type": {"enum": None}}})
        yield from misfits(new["content"][kind]["schema"], schema, f"{name} answer", keep=True)
