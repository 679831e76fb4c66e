"""The committed contracts are what the code says, and what the code says is sound."""

import ast
import json
from pathlib import Path

import pytest

from gateway.api import BASE, DOORS
from gateway.settings import Settings
from libs.errors import Kind
from libs.web.openapi import STATUSES
from libs.web.problems import STATUSES as STATUSES_OF_KINDS
from orderly.contracts import EVENTS, FOLDER, OPENAPI, contracts, openapi_document, write_contracts
from orderly.nats_access import FILES
from orderly.services import NAMES, SERVICES
from orderly.tests.documents import components_of, references

ROOT = Path(__file__).parents[3]
BEHIND_DOORS = {door.service for door in DOORS}
ROUTES = [route for service in SERVICES if service.name in BEHIND_DOORS for route in service.routes]


@pytest.mark.parametrize(("name", "text"), contracts().items(), ids=[*contracts()])
def test_the_committed_contracts_are_what_the_code_says(name: str, text: str) -> None:
    committed = (ROOT / FOLDER / name).read_text(encoding="utf-8")
    assert committed == text, f"asyncapi/{name} is not what the code says; run `just contracts`"


def test_contracts_are_written_the_same_way_every_time(tmp_path: Path) -> None:
    paths = write_contracts(tmp_path)
    first = [path.read_bytes() for path in paths]
    documents = [
        tmp_path / "asyncapi" / name for name in (*(f"{name}.yaml" for name in NAMES), OPENAPI.name, EVENTS.name)
    ]
    assert paths == [*documents, *(tmp_path / file for file in FILES)]
    assert write_contracts(tmp_path) == paths
    assert [path.read_bytes() for path in paths] == first
    for text in first:
        assert text.endswith(b"\n")
        assert b"\r" not in text


def test_the_contract_is_openapi_3_1() -> None:
    validator = pytest.importorskip("openapi_spec_validator", reason="needs openapi-spec-validator")
    found = validator.OpenAPIV31SpecValidator(openapi_document()).iter_errors()
    assert [f"{list(error.absolute_path)}: {error.message}" for error in found] == []


def test_every_reference_leads_somewhere_and_every_component_is_referred_to() -> None:
    document = openapi_document()
    assert set(references(document)) == components_of(document)


def test_every_route_is_in_the_contract() -> None:
    paths = openapi_document()["paths"]
    described = {
        (method.upper(), path) for path, operations in paths.items() for method in operations if path not in OWN
    }
    assert described == {(route.method, BASE + route.path) for route in ROUTES}
    assert set(paths) >= OWN


OWN = {f"{BASE}/{path}" for path in ("health/", "openapi.json", "docs", "docs/events", "asyncapi/{service}.yaml")}


def test_a_door_leads_to_a_service_that_there_is() -> None:
    assert set(NAMES) >= BEHIND_DOORS
    assert set(Settings().replicas()) == BEHIND_DOORS


def test_every_route_is_behind_a_door_that_asks_for_a_token_when_the_contract_says_so() -> None:
    for service in (one for one in SERVICES if one.name in BEHIND_DOORS):
        for route in service.routes:
            doors = [door for door in DOORS if f"{route.path}/".startswith(f"{door.path}/")]
            assert [door.service for door in doors] == [service.name], route.name
            assert doors[0].public == route.public, route.name


def test_every_slug_that_a_route_names_has_a_status() -> None:
    assert {slug for route in ROUTES for slug in route.refusals} <= set(STATUSES)


def test_statuses_are_those_of_the_kinds_that_the_code_raises() -> None:
    """Refusals whose slug and kind stand in the code, literally."""
    raised: dict[str, set[str]] = {}
    for path in [*ROOT.glob("cmd/**/*.py"), *ROOT.glob("libs/**/*.py")]:
        if "tests" not in path.parts:
            for slug, kind in literal_refusals(path):
                raised.setdefault(slug, set()).add(kind)
    seen = {slug: {STATUSES_OF_KINDS[Kind[kind]] for kind in kinds} for slug, kinds in raised.items()}
    assert {slug: {status} for slug, status in STATUSES.items() if slug in seen} == {
        slug: statuses for slug, statuses in seen.items() if slug in STATUSES
    }
    unseen = {"insufficient_funds"}  # billing raises it by its `DeclineReason`
    assert set(STATUSES) - set(seen) == unseen


def literal_refusals(path: Path) -> list[tuple[str, str]]:
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        match node:
            case ast.Call(
                func=ast.Name(id="Refusal"),
                args=[ast.Constant(value=str(slug)), _, ast.Attribute(value=ast.Name(id="Kind"), attr=kind), *_],
            ):
                found.append((slug, kind))
    return found


def test_every_operation_and_every_tag_says_what_it_is_about() -> None:
    document = openapi_document()
    assert all(tag["description"] for tag in document["tags"])
    for operations in document["paths"].values():
        for operation in operations.values():
            assert len(operation["summary"]) > 8, operation["operationId"]


def test_the_document_holds_nothing_but_json() -> None:
    document = openapi_document()
    assert json.loads(json.dumps(document)) == document
