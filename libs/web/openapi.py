"""OpenAPI 3.1, made from the tables of routes that answer the requests and the models that parse them."""

import inspect
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final, TypeAlias

import orjson
from pydantic import BaseModel, Field
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaMode, NoDefault, models_json_schema

from libs.web.app import KEY_AT_MOST, KEY_PATTERN
from libs.web.problems import TYPE_PREFIX, problem
from libs.web.routes import Route

STATUSES: Final = {
    "account_not_open": HTTPStatus.NOT_FOUND,
    "body_too_large": HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    "foreign_profile": HTTPStatus.FORBIDDEN,
    "idempotency_key_reused": HTTPStatus.UNPROCESSABLE_ENTITY,
    "insufficient_funds": HTTPStatus.CONFLICT,
    "invalid_request": HTTPStatus.UNPROCESSABLE_ENTITY,
    "login_taken": HTTPStatus.CONFLICT,
    "no_such_order": HTTPStatus.NOT_FOUND,
    "not_cancellable": HTTPStatus.CONFLICT,
    "overloaded": HTTPStatus.SERVICE_UNAVAILABLE,
    "request_timeout": HTTPStatus.REQUEST_TIMEOUT,
    "unauthenticated": HTTPStatus.UNAUTHORIZED,
    "unavailable": HTTPStatus.SERVICE_UNAVAILABLE,
}
"""What a refusal with this slug is answered as."""

WITHOUT_KEY: Final = frozenset({"POST /login"})
"""The POSTs that create nothing and move nothing: an idempotency key means nothing to them."""

HEADERS: Final = {
    "Idempotent-Replayed": {
        "description": "`true` when this is the answer to an earlier request with the same `Idempotency-Key`.",
        "schema": {"type": "string", "const": "true"},
    },
    "Location": {
        "description": "Where to look at it.",
        "schema": {"type": "string", "format": "uri-reference"},
    },
    "Retry-After": {"description": "In how many seconds to try again.", "schema": {"type": "integer"}},
    "WWW-Authenticate": {"description": "How to prove who you are.", "schema": {"type": "string"}},
}
REFUSAL_HEADERS: Final = {
    HTTPStatus.UNAUTHORIZED: "WWW-Authenticate",
    HTTPStatus.SERVICE_UNAVAILABLE: "Retry-After",
}
KEY: Final = {
    "name": "Idempotency-Key",
    "in": "header",
    "description": "Names this request, so that sending it again does nothing again: the first answer comes back.",
    "schema": {"type": "string", "minLength": 1, "maxLength": KEY_AT_MOST, "pattern": KEY_PATTERN},
}
REFERENCE: Final = "#/components/schemas/"

Json: TypeAlias = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Section:
    """The routes of one service: a tag of the document."""

    name: str
    about: str
    routes: Sequence[Route] = ()


class FieldProblem(BaseModel):
    """What is wrong with one field; `field` is its path in the request."""

    field: str = Field(examples=["price"])
    detail: str


class Problem(BaseModel):
    """Why a request was not carried out (RFC 9457). Branch on `type`, which is stable; `detail` is for people."""

    type: str = Field(json_schema_extra={"format": "uri-reference"})
    title: str
    status: int
    detail: str
    errors: list[FieldProblem] = Field(default_factory=list, description="Each field that breaks a rule, if any does.")
    trace_id: str = Field(default_factory=str, description="What to look for in the logs.")


def describe(sections: Sequence[Section], *, info: Json, base: str, paths: Mapping[str, Json]) -> Json:
    """Build the document: the sections' routes below `base`, then `paths`, which are described already.

    Raises ValueError when two models, routes, paths or operations have one name: the one would hide the other.
    """
    lines = [(section.name, route) for section in sections for route in section.routes]
    _refuse_twins(route.name for _, route in lines)
    parts = _Parts([route for _, route in lines])
    described: dict[str, Json] = {}
    for tag, route in lines:
        described.setdefault(base + route.path, {})[route.method.lower()] = {"tags": [tag], **parts.operation(route)}
    _refuse_twins([*described, *paths])
    described |= paths
    _refuse_twins(operation["operationId"] for operations in described.values() for operation in operations.values())
    return {
        "openapi": "3.1.0",
        "info": info,
        "tags": [{"name": section.name, "description": section.about} for section in sections],
        "security": [{"bearer": []}],
        "paths": described,
        "components": {
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}},
            "parameters": {"Idempotency-Key": KEY},
            "headers": HEADERS,
            "responses": dict(sorted(parts.responses.items())),
            "schemas": parts.schemas,
        },
    }


class _Generate(GenerateJsonSchema):
    """Schemas as our wire has them.

    No title repeats a field's name; an answer has all of its fields; and a field that may be left out of a request
    is not said to be null then, because null may mean something else (clear it).
    """

    def field_title_should_be_set(self, schema: Any) -> bool:  # noqa: ARG002 - pydantic's signature
        return False

    def field_is_required(self, field: Any, total: bool) -> bool:
        return self.mode == "serialization" or super().field_is_required(field, total)

    def get_default_value(self, schema: Any) -> Any:
        default = super().get_default_value(schema)
        return NoDefault if default is None else default


class _Parts:
    """What operations refer to: the schemas of all models, and the refusals that were described so far."""

    def __init__(self, routes: Sequence[Route]) -> None:
        self.responses: dict[str, Json] = {}
        queries = [(route.query, "validation") for route in routes if route.query]
        bodies = [(route.body, "validation") for route in routes if route.body]
        answers = [(model, "serialization") for route in routes for model in route.answers.values()]
        models: Any = dict.fromkeys([(Problem, "validation"), *bodies, *answers, *queries])
        self._references, found = models_json_schema(
            list(models), ref_template=REFERENCE + "{model}", schema_generator=_Generate
        )
        self.schemas: dict[str, Json] = found["$defs"]
        for name, schema in self.schemas.items():
            # pydantic tells namesakes apart by their modules, and by the direction in which they travel.
            title = schema.get("title", name)
            if name != re.sub(r"[^\w.-]", "_", title):
                raise ValueError(f"two models are called {title}, one of them {name}: each needs a name of its own")
        # A query's fields are parameters of their own, so nothing refers to it.
        self._queries = {model: self.schemas.pop(model.__name__) for model, _ in dict.fromkeys(queries)}

    def operation(self, route: Route) -> Json:
        """Describe what a request to a route carries, and what it may be answered with."""
        summary, _, more = (inspect.getdoc(route.handler) or "").partition("\n")
        operation: Json = {"operationId": route.handler.__name__, "summary": summary.removesuffix(".")}
        if more.strip():
            operation["description"] = more.strip()
        if route.public:
            operation["security"] = []
        if parameters := self._parameters(route):
            operation["parameters"] = parameters
        if route.body:
            operation["requestBody"] = {"required": True, "content": self._json(route.body, "validation")}
        answers = {str(status): self._answer(status, route) for status in route.answers}
        refusals = {str(status.value): self._refusal(status, slugs) for status, slugs in _refusals(route).items()}
        operation["responses"] = dict(sorted((answers | refusals).items()))
        return operation

    def _parameters(self, route: Route) -> list[Json]:
        parameters: list[Json] = []
        for name in re.findall(r"\{(\w+)", route.path):
            schema = {"type": "string", "format": "uuid"} if name.endswith("_id") else {"type": "string"}
            parameters.append({"name": name, "in": "path", "required": True, "schema": schema})
        if route.query:
            model = self._queries[route.query]
            for name, schema in model["properties"].items():
                required = name in model.get("required", ())
                parameters.append({"name": name, "in": "query", "required": required, "schema": _not_null(schema)})
        if _takes_key(route):
            parameters.append({"$ref": "#/components/parameters/Idempotency-Key"})
        return parameters

    def _answer(self, status: int, route: Route) -> Json:
        answer = {
            "description": HTTPStatus(status).phrase,
            "content": self._json(route.answers[status], "serialization"),
        }
        names = [*route.headers, *(["Idempotent-Replayed"] if _takes_key(route) else [])]
        return {**answer, "headers": _headers(*names)} if names else answer

    def _refusal(self, status: HTTPStatus, slugs: Sequence[str]) -> Json:
        own = {"type": {"enum": [TYPE_PREFIX + slug for slug in slugs]}, "status": {"const": status.value}}
        schema = {"$ref": REFERENCE + Problem.__name__, "properties": own}
        examples = {slug: {"value": _example(status, slug)} for slug in slugs}
        response: Json = {
            "description": " or ".join(f"`{slug}`" for slug in slugs),
            "content": {"application/problem+json": {"schema": schema, "examples": examples}},
        }
        if status in REFUSAL_HEADERS:
            response["headers"] = _headers(REFUSAL_HEADERS[status])
        name = ".".join(slugs)
        self.responses[name] = response
        return {"$ref": f"#/components/responses/{name}"}

    def _json(self, model: type[BaseModel], mode: JsonSchemaMode) -> Json:
        return {"application/json": {"schema": self._references[model, mode]}}


def _refusals(route: Route) -> dict[HTTPStatus, list[str]]:
    """Gather what a route may refuse with: what its line names, and what befalls every route of its kind."""
    takes_key = _takes_key(route)
    of_its_kind = {
        "unauthenticated": not route.public,
        "body_too_large": route.body is not None,
        "invalid_request": route.body is not None or route.query is not None or takes_key,
        "idempotency_key_reused": route.body is not None and takes_key,
        "request_timeout": route.body is not None,
        "overloaded": True,
        "unavailable": True,
    }
    found: dict[HTTPStatus, list[str]] = {}
    for slug in sorted({*route.refusals, *(slug for slug, applies in of_its_kind.items() if applies)}):
        found.setdefault(STATUSES[slug], []).append(slug)
    return found


def _takes_key(route: Route) -> bool:
    return route.method == "POST" and route.name not in WITHOUT_KEY


def _not_null(schema: Json) -> Json:
    """Describe a field as a query has it: it is there, or it is not, but it is never null."""
    if {"type": "null"} not in schema.get("anyOf", ()):
        return schema
    choices = [choice for choice in schema["anyOf"] if choice != {"type": "null"}]
    rest = {key: value for key, value in schema.items() if key != "anyOf"}
    return rest | (choices[0] if len(choices) == 1 else {"anyOf": choices})


def _example(status: HTTPStatus, slug: str) -> Json:
    body: Json = orjson.loads(str(problem(status, slug, "What is wrong, for people.").text))
    return body


def _headers(*names: str) -> Json:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}


def _refuse_twins(names: Iterable[str]) -> None:
    twins = [name for name, times in Counter(names).items() if times > 1]
    if twins:
        raise ValueError(f"more than one is called {', '.join(twins)}")
