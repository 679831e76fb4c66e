"""Every change that breaks somebody is found, and no other."""

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest

from libs.compatibility import breaks_of_events, breaks_of_requests, misfits

Json = dict[str, Any]
Change = Callable[[Json], object]

BIKE: Json = {
    "type": "object",
    "properties": {
        "id": {"type": "string", "format": "uuid"},
        "colour": {"$ref": "#/components/schemas/Colour"},
        "wheels": {"type": "integer", "minimum": 2, "maximum": 3},
        "price": {"type": "string", "pattern": r"^[0-9]+\.[0-9]{2}$"},
        "note": {"type": "string"},
        "bells": {"type": "array", "items": {"type": "object", "properties": {"tone": {"type": "string"}}}},
    },
    "required": ["id", "colour", "wheels", "price"],
}
COLOUR: Json = {"type": "string", "enum": ["red", "blue"]}
HEADERS: Json = {
    "type": "object",
    "properties": {"ce-id": {"type": "string"}, "ce-type": {"type": "string"}},
    "required": ["ce-id", "ce-type"],
}


def message(name: str) -> Json:
    own = {"properties": {"ce-type": {"const": name}}, "required": ["ce-type"]}
    return {
        "name": name,
        "contentType": "application/json",
        "headers": {"type": "object", "allOf": [{"$ref": "#/components/schemas/Headers"}, own]},
        "payload": {"$ref": "#/components/schemas/Bike"},
    }


def operation(action: str, channel: str, **more: Any) -> Json:
    return {
        "action": action,
        "channel": {"$ref": f"#/channels/{channel}"},
        "messages": [{"$ref": f"#/channels/{channel}/messages/it"}],
        "bindings": {"nats": {"x-jetstream": {"stream": "BIKES"}}},
        **more,
    }


def events(action: str) -> Json:
    answer = {"channel": {"$ref": "#/channels/painted"}, "messages": [{"$ref": "#/channels/painted/messages/it"}]}
    more = {"reply": answer} if action == "receive" else {}
    return {
        "channels": {
            "sold": {
                "address": "bikes.bike.sold.{id}",
                "messages": {"it": {"$ref": "#/components/messages/Sold"}},
            },
            "painted": {
                "address": "bikes.bike.painted.{id}",
                "messages": {"it": {"$ref": "#/components/messages/Painted"}},
            },
        },
        "operations": {"sold": operation(action, "sold", **more)},
        "components": {
            "messages": {"Sold": message("bikes.bike.sold"), "Painted": message("bikes.bike.painted")},
            "schemas": {"Bike": BIKE, "Colour": COLOUR, "Headers": HEADERS},
        },
    }


def changed(document: Json, change: Change) -> Json:
    new = deepcopy(document)
    change(new)
    return new


def bike(document: Json) -> Json:
    schema: Json = document["components"]["schemas"]["Bike"]
    return schema


def fields(document: Json) -> Json:
    properties: Json = bike(document)["properties"]
    return properties


def headers(document: Json) -> Json:
    schema: Json = document["components"]["schemas"]["Headers"]
    return schema


def require(name: str) -> Change:
    return lambda document: bike(document)["required"].append(name)


def make_optional(name: str) -> Change:
    return lambda document: bike(document)["required"].remove(name)


def drop_field(name: str) -> Change:
    return lambda document: fields(document).pop(name)


def set_field(name: str, **schema: Any) -> Change:
    return lambda document: fields(document).update({name: schema})


def set_colours(*colours: str) -> Change:
    return lambda document: document["components"]["schemas"]["Colour"].update(enum=[*colours])


def move(document: Json) -> None:
    document["channels"]["sold"]["address"] = "bikes.bike.gone.{id}"


def store_elsewhere(document: Json) -> None:
    document["operations"]["sold"]["bindings"]["nats"]["x-jetstream"]["stream"] = "CARS"


def write_otherwise(document: Json) -> None:
    document["components"]["messages"]["Sold"]["contentType"] = "application/cbor"


def rename_type(document: Json) -> None:
    document["components"]["messages"]["Sold"]["headers"]["allOf"][1]["properties"]["ce-type"]["const"] = "sold"


STATED_BREAKS: dict[str, tuple[Change, str]] = {
    "message removed": (lambda new: new["operations"].clear(), "bikes.bike.sold is no longer stated"),
    "address changed": (move, "moved from bikes.bike.sold.{id} to bikes.bike.gone.{id}"),
    "stream changed": (store_elsewhere, "kept in the stream CARS"),
    "content type changed": (write_otherwise, "is application/cbor"),
    "header removed": (lambda new: headers(new)["properties"].pop("ce-id"), "headers.ce-id is gone"),
    "header optional": (lambda new: headers(new)["required"].remove("ce-id"), "headers.ce-id may be absent"),
    "ce-type changed": (rename_type, "headers.ce-type may be 'sold'"),
    "field removed": (drop_field("price"), "payload.price is gone"),
    "optional field removed": (drop_field("note"), "payload.note is gone"),
    "field in a list removed": (
        set_field("bells", type="array", items={"type": "object", "properties": {}}),
        "payload.bells[].tone is gone",
    ),
    "field retyped": (set_field("wheels", type="string"), "payload.wheels is string, expected is integer"),
    "integer becomes number": (set_field("wheels", type="number"), "payload.wheels is number"),
    "format changed": (set_field("id", type="string", format="date"), "payload.id has the format date"),
    "pattern changed": (set_field("price", type="string", pattern="^.*$"), "payload.price has the pattern"),
    "newly optional": (make_optional("price"), "payload.price may be absent"),
    "newly null": (set_field("id", anyOf=[{"type": "string", "format": "uuid"}, {"type": "null"}]), "may be null"),
    "value added": (set_colours("red", "blue", "green"), "payload.colour may be 'green'"),
    "values opened": (set_field("colour", type="string"), "payload.colour may be anything"),
    "lower bound lowered": (set_field("wheels", type="integer", minimum=1, maximum=3), "below the minimum 2"),
    "upper bound raised": (set_field("wheels", type="integer", minimum=2, maximum=4), "above the maximum 3"),
}

STATED_FINE: dict[str, Change] = {
    "nothing": lambda new: None,
    "field added": set_field("saddle", type="string"),
    "optional field always there": require("note"),
    "value removed": set_colours("red"),
    "bounds narrowed": set_field("wheels", type="integer", minimum=2, maximum=2),
    "said better": lambda new: bike(new).update(description="A bike, with wheels."),
    "message added": lambda new: new["operations"].update(painted=operation("send", "painted")),
    "header added": lambda new: headers(new)["properties"].update({"ce-subject": {"type": "string"}}),
}


@pytest.mark.parametrize(("change", "said"), STATED_BREAKS.values(), ids=[*STATED_BREAKS])
def test_what_is_stated_may_lose_nothing(change: Change, said: str) -> None:
    old = events("send")
    [broken] = breaks_of_events(old, changed(old, change))
    assert said in broken


@pytest.mark.parametrize("change", STATED_FINE.values(), ids=[*STATED_FINE])
def test_what_is_stated_may_grow(change: Change) -> None:
    old = events("send")
    assert breaks_of_events(old, changed(old, change)) == []


def stop_answering(document: Json) -> None:
    del document["operations"]["sold"]["reply"]


HEARD_BREAKS: dict[str, tuple[Change, str]] = {
    "field newly required": (require("note"), "payload.note may be absent, and is required"),
    "required field added": (lambda new: (set_field("saddle", type="string")(new), require("saddle")(new)), "saddle"),
    "header newly required": (lambda new: headers(new)["required"].append("ce-subject"), ""),
    "field retyped": (set_field("wheels", type="string"), "payload.wheels is integer, expected is string"),
    "value removed": (set_colours("red"), "payload.colour may be 'blue'"),
    "bounds narrowed": (set_field("wheels", type="integer", minimum=2, maximum=2), "above the maximum 2"),
    "pattern added": (set_field("note", type="string", pattern="^a"), "payload.note has the pattern None"),
    "no longer answered": (stop_answering, "no longer answered with bikes.bike.painted"),
    "no longer listened to, though it was answered": (lambda new: new["operations"].clear(), "no longer answered"),
}

HEARD_FINE: dict[str, Change] = {
    "nothing": lambda new: None,
    "field no longer needed": drop_field("note"),
    "field no longer required": make_optional("price"),
    "optional field added": set_field("saddle", type="string"),
    "value added": set_colours("red", "blue", "green"),
    "integer becomes number": set_field("wheels", type="number"),
}


@pytest.mark.parametrize(("change", "said"), HEARD_BREAKS.values(), ids=[*HEARD_BREAKS])
def test_what_is_listened_to_may_not_have_to_be_more(change: Change, said: str) -> None:
    old = events("receive")
    new = changed(old, change)
    if said == "":
        headers(new)["properties"]["ce-subject"] = {"type": "string"}
    [broken] = breaks_of_events(old, new)
    assert (said or "headers.ce-subject is required now") in broken


@pytest.mark.parametrize("change", HEARD_FINE.values(), ids=[*HEARD_FINE])
def test_what_is_listened_to_may_be_less(change: Change) -> None:
    old = events("receive")
    assert breaks_of_events(old, changed(old, change)) == []


def test_nobody_relies_on_being_listened_to_but_for_the_answer() -> None:
    old = changed(events("receive"), stop_answering)
    assert breaks_of_events(old, changed(old, lambda new: new["operations"].clear())) == []


def requests() -> Json:
    answer = {
        "headers": {"Location": {"schema": {"type": "string"}}},
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Bike"}}},
    }
    problem = {
        "type": "object",
        "properties": {"type": {"type": "string", "enum": ["flat_tyre"]}, "status": {"const": 409}},
        "required": ["type", "status"],
    }
    wanted = {**BIKE, "additionalProperties": False}
    return {
        "security": [{"bearer": []}],
        "paths": {
            "/bikes": {
                "post": {
                    "security": [],
                    "parameters": [{"name": "shop", "in": "query", "schema": {"type": "string", "maxLength": 9}}],
                    "requestBody": {"required": True, "content": {"application/json": {"schema": wanted}}},
                    "responses": {
                        "201": answer,
                        "409": {"content": {"application/problem+json": {"schema": problem}}},
                    },
                }
            }
        },
        "components": {"schemas": {"Bike": deepcopy(BIKE), "Colour": COLOUR}},
    }


def post(document: Json) -> Json:
    operation: Json = document["paths"]["/bikes"]["post"]
    return operation


def body(document: Json) -> Json:
    schema: Json = post(document)["requestBody"]["content"]["application/json"]["schema"]
    return schema


def parameter(**more: Any) -> Change:
    return lambda new: post(new)["parameters"][0].update(more)


def problem_of(document: Json) -> Json:
    schema: Json = post(document)["responses"]["409"]["content"]["application/problem+json"]["schema"]
    return schema


def set_body(name: str, **schema: Any) -> Change:
    return lambda new: body(new)["properties"].update({name: schema})


ASKED_BREAKS: dict[str, tuple[Change, str]] = {
    "path removed": (lambda new: new["paths"].clear(), "POST /bikes is gone"),
    "method removed": (lambda new: new["paths"]["/bikes"].clear(), "POST /bikes is gone"),
    "token needed": (lambda new: post(new).pop("security"), "needs a token now"),
    "parameter removed": (lambda new: post(new)["parameters"].clear(), "shop is not known"),
    "parameter newly required": (parameter(required=True), "shop is required now"),
    "required parameter added": (
        lambda new: post(new)["parameters"].append({"name": "page", "in": "query", "required": True, "schema": {}}),
        "page is required now",
    ),
    "parameter narrowed": (parameter(schema={"type": "string", "maxLength": 8}), "shop may be above the maxLength 8"),
    "body removed": (lambda new: post(new).pop("requestBody"), "takes no body any more"),
    "media type of the body removed": (
        lambda new: post(new)["requestBody"].update(content={}),
        "no longer takes application/json",
    ),
    "request field newly required": (lambda new: body(new)["required"].append("note"), "body.note may be absent"),
    "request field removed": (lambda new: body(new)["properties"].pop("note"), "body.note is not known"),
    "request field retyped": (set_body("note", type="integer"), "body.note is string, expected is integer"),
    "request values narrowed": (set_body("colour", type="string", enum=["red"]), "body.colour may be 'blue'"),
    "status removed": (lambda new: post(new)["responses"].pop("409"), "no longer answers 409"),
    "response header removed": (lambda new: post(new)["responses"]["201"]["headers"].clear(), "carries Location"),
    "media type of the answer removed": (
        lambda new: post(new)["responses"]["201"].update(content={}),
        "201 is no longer application/json",
    ),
    "response field removed": (drop_field("note"), "201 answer.note is gone"),
    "response field newly optional": (make_optional("price"), "201 answer.price may be absent"),
    "response field retyped": (set_field("wheels", type="string"), "201 answer.wheels is string"),
    "response value added": (
        set_field("colour", type="string", enum=["red", "blue", "green"]),
        "201 answer.colour may be 'green'",
    ),
    "field of a problem removed": (lambda new: problem_of(new)["properties"].pop("type"), "409 answer.type is gone"),
}

ASKED_FINE: dict[str, Change] = {
    "nothing": lambda new: None,
    "path added": lambda new: new["paths"].update({"/bells": {"get": {"responses": {}}}}),
    "optional parameter added": lambda new: post(new)["parameters"].append(
        {"name": "page", "in": "query", "schema": {"type": "integer"}}
    ),
    "optional request field added": set_body("saddle", type="string"),
    "request field no longer required": lambda new: body(new)["required"].remove("price"),
    "request values widened": set_body("colour", type="string", enum=["red", "blue", "green"]),
    "body no longer required": lambda new: post(new)["requestBody"].update(required=False),
    "response field added": set_field("saddle", type="string"),
    "status added": lambda new: post(new)["responses"].update({"429": {}}),
    "another reason to refuse": lambda new: problem_of(new)["properties"]["type"]["enum"].append("no_saddle"),
}


@pytest.mark.parametrize(("change", "said"), ASKED_BREAKS.values(), ids=[*ASKED_BREAKS])
def test_what_is_asked_and_answered_may_lose_nothing(change: Change, said: str) -> None:
    old = requests()
    [broken] = breaks_of_requests(old, changed(old, change))
    assert broken.startswith("POST /bikes")
    assert said in broken


@pytest.mark.parametrize("change", ASKED_FINE.values(), ids=[*ASKED_FINE])
def test_what_is_asked_and_answered_may_grow(change: Change) -> None:
    old = requests()
    assert breaks_of_requests(old, changed(old, change)) == []


def test_a_body_that_comes_to_be_required_breaks_a_request_without() -> None:
    old = changed(requests(), lambda new: post(new)["requestBody"].update(required=False))
    assert breaks_of_requests(old, requests()) == ["POST /bikes requires a body now"]
    bare = changed(requests(), lambda new: post(new).pop("requestBody"))
    assert breaks_of_requests(bare, requests()) == ["POST /bikes requires a body now"]


def test_values_that_an_object_has_by_any_name_are_compared() -> None:
    def states(*values: str) -> Json:
        return {"type": "object", "additionalProperties": {"enum": [*values]}}

    assert [*misfits(states("OK"), states("OK", "down"), "services")] == []
    assert [*misfits(states("OK", "gone"), states("OK"), "services")] == [
        "services.* may be 'gone', which is not expected"
    ]


def test_what_may_be_one_thing_or_another_is_compared_thing_by_thing() -> None:
    either: Json = {"anyOf": [{"type": "string"}, {"type": "null"}]}
    assert [*misfits({"type": "string"}, either, "note")] == []
    assert [*misfits(either, {"type": ["string", "null"]}, "note")] == []
    assert [*misfits(either, {"type": "string"}, "note")] == ["note may be null, which is not expected"]


def test_a_body_that_may_be_left_out_may_be_added() -> None:
    bare = changed(requests(), lambda new: post(new).pop("requestBody"))
    optional = changed(requests(), lambda new: post(new)["requestBody"].update(required=False))
    assert breaks_of_requests(bare, optional) == []


def test_what_is_known_must_be_kept_however_deep_it_is() -> None:
    rich: Json = {"type": "object", "properties": {"note": {"type": "string"}}}
    poor: Json = {"type": "object", "properties": {}}
    null: Json = {"type": "null"}
    for hide in (
        lambda schema: {"anyOf": [schema, null]},
        lambda schema: {"type": "object", "additionalProperties": schema},
        lambda schema: {"type": "array", "items": schema},
    ):
        assert [*misfits(hide(poor), hide(rich), "it")] == []
        assert len([*misfits(hide(poor), hide(rich), "it", keep=True)]) == 1


def test_the_type_of_a_value_is_that_of_the_values_it_may_have() -> None:
    assert [*misfits({"const": "a"}, {"type": "string"}, "it")] == []
    assert [*misfits({"enum": ["a", "b"]}, {"type": "string"}, "it")] == []
    assert [*misfits({"const": 1}, {"type": "string"}, "it")] == ["it is integer, expected is string"]
    assert [*misfits({}, {"type": "string"}, "it")] == ["it is anything, expected is string"]
