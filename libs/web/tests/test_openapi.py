"""The document says what the routes do: their inputs, their answers, and every way in which they refuse."""

import json
from dataclasses import replace
from enum import StrEnum
from typing import Any
from uuid import UUID

import pytest
from pydantic import BaseModel, Field, create_model

from libs.errors import FieldError, Kind, Refusal
from libs.money import Amount, Money
from libs.web.fields import Page, Request
from libs.web.openapi import STATUSES, Problem, Section, describe
from libs.web.problems import problem_response
from libs.web.routes import Answer, Call, Edge, Route


class Colour(StrEnum):
    """A colour."""

    RED = "red"


class BuyBike(Request):
    """Which bike."""

    price: Amount
    note: str | None = None


class BikesPage(Page):
    """Which bikes."""

    colour: Colour | None = Field(None, description="only bikes of this colour")
    owner: UUID


class Bike(BaseModel):
    """A bike."""

    price: Money
    wheels: int = 2
    note: str | None = None


async def buy_bike(call: Call[BuyBike], edge: Edge[Any]) -> Answer:
    """Buy a bike.

    It is delivered
    by bike.
    """
    raise NotImplementedError


async def list_bikes(call: Call[BikesPage], edge: Edge[Any]) -> Answer:
    """List bikes."""
    raise NotImplementedError


async def ring_bell(call: Call[None], edge: Edge[Any]) -> Answer:
    """Ring the bell."""
    raise NotImplementedError


BUY = Route("POST", "/bikes", buy_bike, {201: Bike, 202: Bike}, body=BuyBike, refusals=("insufficient_funds",))
LIST = Route("GET", "/bikes", list_bikes, {200: Bike}, query=BikesPage)
RING = Route("POST", "/bikes/{bike_id}/bell/{tone}", ring_bell, {200: Bike}, refusals=("no_such_order",))
LOG_IN = Route("POST", "/login", ring_bell, {200: Bike}, body=BuyBike, public=True, refusals=("unauthenticated",))


def document(*routes: Route, **paths: Any) -> dict[str, Any]:
    section = Section("bikes", "Bikes owns the bikes.", routes)
    return describe([section], info={"title": "Bikes", "version": "1"}, base="/client", paths=paths)


def operation(route: Route) -> dict[str, Any]:
    described: dict[str, Any] = document(route)["paths"]["/client" + route.path][route.method.lower()]
    return described


def refusals(route: Route) -> dict[str, list[str]]:
    """Slugs by status, as a reader finds them."""
    described = document(route)
    found = {}
    for status, response in operation(route)["responses"].items():
        if "$ref" in response:
            named = described["components"]["responses"][response["$ref"].rpartition("/")[2]]
            schema = named["content"]["application/problem+json"]["schema"]
            assert schema["properties"]["status"] == {"const": int(status)}
            found[status] = [kind.removeprefix("/problems/") for kind in schema["properties"]["type"]["enum"]]
    return found


def test_an_operation_is_named_after_its_handler_and_told_by_its_docstring() -> None:
    described = operation(BUY)
    assert described["operationId"] == "buy_bike"
    assert described["summary"] == "Buy a bike"
    assert described["description"] == "It is delivered\nby bike."
    assert described["tags"] == ["bikes"]


def test_a_body_is_the_model_that_parses_it() -> None:
    body = operation(BUY)["requestBody"]
    assert body["required"] is True
    assert body["content"] == {"application/json": {"schema": {"$ref": "#/components/schemas/BuyBike"}}}
    schema = document(BUY)["components"]["schemas"]["BuyBike"]
    assert schema["additionalProperties"] is False
    assert schema["required"] == ["price"]


def test_a_field_that_may_be_left_out_is_not_said_to_be_null_then() -> None:
    assert "default" not in document(BUY)["components"]["schemas"]["BuyBike"]["properties"]["note"]


def test_every_answer_is_described_and_has_all_of_its_fields() -> None:
    answers = operation(BUY)["responses"]
    assert {"201", "202"} <= set(answers)
    assert answers["202"]["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/Bike"}
    bike = document(BUY)["components"]["schemas"]["Bike"]
    assert bike["required"] == ["price", "wheels", "note"]
    assert bike["properties"]["price"]["type"] == "string"


def test_the_fields_of_a_query_are_parameters_that_are_never_null() -> None:
    parameters = {parameter["name"]: parameter for parameter in operation(LIST)["parameters"]}
    assert parameters["limit"]["schema"] == {"type": "integer", "default": 20, "minimum": 1, "maximum": 100}
    assert parameters["cursor"]["schema"]["type"] == "string"
    assert parameters["colour"]["schema"]["$ref"] == "#/components/schemas/Colour"
    assert parameters["owner"]["required"] is True
    assert all(not parameter["required"] for name, parameter in parameters.items() if name != "owner")
    assert {parameter["in"] for parameter in parameters.values()} == {"query"}
    assert "BikesPage" not in document(LIST)["components"]["schemas"]


def test_an_id_in_the_path_is_a_uuid_and_anything_else_a_string() -> None:
    bike_id, tone, _key = operation(RING)["parameters"]
    assert (bike_id["name"], bike_id["in"], bike_id["required"]) == ("bike_id", "path", True)
    assert bike_id["schema"] == {"type": "string", "format": "uuid"}
    assert tone["schema"] == {"type": "string"}


def test_every_post_but_the_login_takes_an_idempotency_key_and_says_when_it_is_replayed() -> None:
    key = {"$ref": "#/components/parameters/Idempotency-Key"}
    for route in (BUY, RING):
        assert key in operation(route)["parameters"]
        for status in route.answers:
            assert "Idempotent-Replayed" in operation(route)["responses"][str(status)]["headers"]
    for route in (LIST, LOG_IN):
        assert key not in operation(route).get("parameters", [])
        assert "headers" not in operation(route)["responses"]["200"]


def test_an_answer_carries_the_headers_that_its_line_names() -> None:
    buy = replace(BUY, headers=("Location",))
    for status in buy.answers:
        assert operation(buy)["responses"][str(status)]["headers"] == {
            name: {"$ref": f"#/components/headers/{name}"} for name in ("Location", "Idempotent-Replayed")
        }
    assert list(operation(replace(LIST, headers=("Location",)))["responses"]["200"]["headers"]) == ["Location"]


def test_a_route_refuses_with_what_its_line_names_and_with_what_befalls_its_kind() -> None:
    assert refusals(BUY) == {
        "401": ["unauthenticated"],
        "408": ["request_timeout"],
        "409": ["insufficient_funds"],
        "413": ["body_too_large"],
        "422": ["idempotency_key_reused", "invalid_request"],
        "503": ["overloaded", "unavailable"],
    }
    assert refusals(LIST) == {
        "401": ["unauthenticated"],
        "422": ["invalid_request"],
        "503": ["overloaded", "unavailable"],
    }
    assert refusals(RING) == {
        "401": ["unauthenticated"],
        "404": ["no_such_order"],
        "422": ["invalid_request"],
        "503": ["overloaded", "unavailable"],
    }


def test_only_what_is_not_public_needs_a_token() -> None:
    assert document(BUY)["security"] == [{"bearer": []}]
    assert "security" not in operation(BUY)
    assert operation(LOG_IN)["security"] == []
    keys = Route("GET", "/keys", ring_bell, {200: Bike}, public=True)
    assert refusals(keys) == {"503": ["overloaded", "unavailable"]}
    assert refusals(LOG_IN)["401"] == ["unauthenticated"]


def test_a_503_says_when_to_try_again_and_a_401_how_to_prove_who_one_is() -> None:
    responses = document(BUY)["components"]["responses"]
    assert list(responses["overloaded.unavailable"]["headers"]) == ["Retry-After"]
    assert list(responses["unauthenticated"]["headers"]) == ["WWW-Authenticate"]
    assert "headers" not in responses["insufficient_funds"]


@pytest.mark.parametrize("kind", [Kind.INVALID, Kind.UNAVAILABLE])
def test_a_problem_is_what_the_document_says_it_is(kind: Kind) -> None:
    refusal = Refusal("invalid_request", "price: is too much", kind, [FieldError("price", "is too much")])
    written = json.loads(str(problem_response(refusal, trace_id="abc").text))
    assert Problem.model_validate(written, extra="forbid").model_dump() == written
    schema = document(BUY)["components"]["schemas"]["Problem"]
    assert schema["required"] == ["type", "title", "status", "detail"]
    assert set(schema["properties"]) == set(written)


def test_the_example_of_a_problem_is_written_like_a_real_one() -> None:
    response = document(BUY)["components"]["responses"]["insufficient_funds"]
    examples = response["content"]["application/problem+json"]["examples"]
    refusal = Refusal("insufficient_funds", "What is wrong, for people.", Kind.CONFLICT)
    assert examples == {"insufficient_funds": {"value": json.loads(str(problem_response(refusal).text))}}


def test_a_slug_without_a_status_is_an_error() -> None:
    with pytest.raises(KeyError, match="flat_tyre"):
        document(Route("GET", "/bikes", list_bikes, {200: Bike}, refusals=("flat_tyre",)))


def test_the_table_of_statuses_is_in_order() -> None:
    assert list(STATUSES) == sorted(STATUSES)


def namesake() -> type[BaseModel]:
    class Bike(BaseModel):
        """Another bike."""

        saddle: str

    return Bike


def test_two_models_with_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="two models are called Bike"):
        document(BUY, Route("GET", "/bells", ring_bell, {200: namesake()}))


def test_a_nested_model_with_the_name_of_another_is_refused() -> None:
    shed = create_model("Shed", bike=(namesake(), ...))
    with pytest.raises(ValueError, match="two models are called Bike"):
        document(BUY, Route("GET", "/sheds", ring_bell, {200: shed}))


def test_a_model_that_is_read_one_way_and_written_another_is_refused() -> None:
    class Both(BaseModel):
        price: Amount
        note: str | None = None

    with pytest.raises(ValueError, match="two models are called Both"):
        document(Route("PUT", "/bikes", ring_bell, {200: Both}, body=Both))


def test_two_routes_operations_or_paths_with_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="more than one is called POST /bikes"):
        document(BUY, BUY)
    with pytest.raises(ValueError, match="more than one is called ring_bell"):
        document(RING, LOG_IN)
    with pytest.raises(ValueError, match="more than one is called /client/bikes"):
        document(BUY, **{"/client/bikes": {"get": {"operationId": "look"}}})


def test_what_is_described_by_hand_stands_in_the_document() -> None:
    by_hand = {"get": {"operationId": "look"}}
    assert document(BUY, **{"/client/health/": by_hand})["paths"]["/client/health/"] == by_hand
