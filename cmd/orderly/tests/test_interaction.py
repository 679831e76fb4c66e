"""The four styles of interaction: their APIs are valid, their pictures are what they say, and both agree."""

import re
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator, FormatChecker
from openapi_spec_validator import validate

from orderly.contracts import FOLDER
from orderly.tests.documents import components_of, faults, found_at, problems, references
from orderly.tests.interaction import (
    BUILT,
    PLACE,
    STYLES,
    Arrow,
    Json,
    addresses,
    apis,
    documents,
    load,
    operations,
    read,
    seen,
    sequences,
    services_of,
)

BY_HAND = [style for style in STYLES if style != BUILT]


def files(kind: str) -> list[Path]:
    found = sorted(PLACE.glob(f"*/api/*.{kind}.yaml"))
    assert found
    return found


def name_of(path: Path) -> str:
    return f"{path.parts[-3][0]}-{path.name}"


EVERY_STYLE = pytest.mark.parametrize("style", STYLES)
EVERY_STYLE_BY_HAND = pytest.mark.parametrize("style", BY_HAND)
EVERY_OPENAPI = pytest.mark.parametrize("path", files("openapi"), ids=name_of)
EVERY_ASYNCAPI = pytest.mark.parametrize("path", files("asyncapi"), ids=name_of)
EVERY_DOCUMENT = pytest.mark.parametrize("path", [*files("openapi"), *files("asyncapi")], ids=name_of)
EVERY_SEQUENCE = pytest.mark.parametrize("source", sequences(), ids=lambda path: f"{path.parts[-3][0]}-{path.stem}")


def test_there_are_four_styles_each_with_success_no_money_a_service_down_and_registration() -> None:
    assert [style[:2] for style in STYLES] == ["a-", "b-", "c-", "d-"]
    for style in STYLES:
        names = {source.stem for source in sequences(style)}
        assert {"success", "not-enough-money", "registration"} < names
        assert any(name.endswith("-down") for name in names)


@EVERY_OPENAPI
def test_an_openapi_document_is_valid(path: Path) -> None:
    document = load(path)
    assert document["openapi"].startswith("3.1.")
    validate(document)


@EVERY_ASYNCAPI
def test_an_asyncapi_document_is_valid(path: Path) -> None:
    assert faults(load(path)) == []
    assert load(path)["asyncapi"] == "3.1.0"


@EVERY_DOCUMENT
def test_every_reference_leads_somewhere_and_every_component_is_referred_to(path: Path) -> None:
    document = load(path)
    used = set(references(document))
    for reference in used:
        found_at(document, reference)
    assert components_of(document) - used == set()


@EVERY_ASYNCAPI
def test_the_messages_of_an_operation_are_those_of_its_channel(path: Path) -> None:
    document = load(path)
    for name, operation in document["operations"].items():
        channel = operation["channel"]["$ref"]
        assert operation["messages"], name
        for message in operation["messages"]:
            assert message["$ref"].startswith(f"{channel}/messages/"), name
        parameters = found_at(document, channel)["parameters"]
        assert re.findall(r"\{(\w+)\}", found_at(document, channel)["address"]) == list(parameters), name


@EVERY_OPENAPI
def test_every_body_has_examples_that_are_what_its_schema_says(path: Path) -> None:
    document = load(path)
    for media in bodies(document):
        assert media["examples"]
        for name, example in media["examples"].items():
            schema = {**media["schema"], "components": document["components"]}
            errors = Draft202012Validator(schema, format_checker=FormatChecker()).iter_errors(example["value"])
            assert [f"{name}: {error.message}" for error in errors] == []


def bodies(document: Json) -> list[Json]:
    answers = [
        found_at(document, answer["$ref"]) if "$ref" in answer else answer
        for _, _, operation in operations(document)
        for answer in operation["responses"].values()
    ]
    asked = [operation["requestBody"] for _, _, operation in operations(document) if "requestBody" in operation]
    return [media for body in [*answers, *asked] for media in body.get("content", {}).values()]


@EVERY_ASYNCAPI
def test_every_message_has_an_example_that_is_what_its_schemas_say(path: Path) -> None:
    document = load(path)
    for message in document["components"]["messages"].values():
        for example in message["examples"]:
            for part in ("headers", "payload"):
                assert problems(document, message[part], example[part]) == []
                assert problems(document, message[part], {}) != []


@EVERY_STYLE_BY_HAND
def test_what_has_one_name_in_a_style_has_one_meaning(style: str) -> None:
    for kind in ("openapi", "asyncapi"):
        meant: Json = {}
        for document in documents(style, kind).values():
            for name, schema in document["components"]["schemas"].items():
                assert meant.setdefault(name, schema) == schema, name


@EVERY_ASYNCAPI
def test_a_fact_says_what_the_fact_of_that_name_says_that_is_built(path: Path) -> None:
    """So that the styles differ in who talks to whom, and in nothing else."""
    _, built = apis(BUILT)
    facts = {name: schema for one in built.values() for name, schema in one["components"]["schemas"].items()}
    document = load(path)
    for name in document["components"]["messages"]:
        if name == "OrderRequested":
            continue  # style c alone has it: there the gateway is a service that states facts
        for part in ("properties", "required"):
            assert document["components"]["schemas"][name][part] == facts[name][part]


@EVERY_STYLE
def test_who_takes_part_in_a_sequence_has_an_api_there_and_the_other_way_round(style: str) -> None:
    http, events = apis(style)
    shown = set().union(*(services_of(source) for source in sequences(style)))
    assert shown == {*http, *events}
    if style == BUILT:
        page = (PLACE / style / "README.md").read_text(encoding="utf-8")
        assert all(f"{FOLDER}/{name}.yaml" in page for name in events)


@EVERY_STYLE
def test_what_somebody_hears_somebody_states(style: str) -> None:
    _, events = apis(style)
    stated = {address: names for document in events.values() for address, names in addresses(document, "send").items()}
    for service, document in events.items():
        for address, names in addresses(document, "receive").items():
            assert stated[address] == names, service


@EVERY_SEQUENCE
def test_every_step_of_a_sequence_is_in_the_apis(source: Path) -> None:
    http, events = apis(source.parts[-3])
    asked: dict[tuple[str, str], Json] = {}
    for step in read(source)[1]:
        if step.kind == "call":
            asked[step.teller, step.hearer] = operation_of(http[step.hearer], step)
        elif step.kind == "answer":
            assert step.text[:3] in asked[step.hearer, step.teller]["responses"], step
        else:
            if step.teller != "broker":
                assert step.text in addresses(events[step.teller], "send"), step
            if step.hearer != "broker":
                assert step.text in addresses(events[step.hearer], "receive"), step


def operation_of(document: Json, step: Arrow) -> Json:
    method, path = step.text.replace(",", "").split(" ")[:2]
    [operation] = [one for verb, at, one in operations(document) if (verb, at) == (method, path)]
    return operation


@EVERY_STYLE
def test_sending_a_letter_is_a_call_in_a_and_an_event_elsewhere(style: str) -> None:
    http, events = apis(style)
    calls = [one["operationId"] for _, _, one in operations(http["notifications"])] if "notifications" in http else []
    if style.startswith("a-"):
        assert "send_letter" in calls
        assert events == {}
        return
    assert "send_letter" not in calls
    letters = {
        operation["title"]
        for name, operation in events["notifications"]["operations"].items()
        if (name in ("on_orders_confirmed", "on_orders_rejected") if style == BUILT else "tags" in operation)
    }
    assert letters == {"OrderConfirmed", "OrderRejected"}


@EVERY_SEQUENCE
def test_a_picture_shows_what_its_source_says(source: Path) -> None:
    assert seen(source) == read(source)[0]


@EVERY_SEQUENCE
def test_the_step_that_detects_an_error_is_red(source: Path) -> None:
    said, _ = read(source)
    assert said.red == (0 if source.stem in ("success", "registration") else 1)


@EVERY_STYLE
def test_a_page_shows_each_sequence_once_as_it_stands_in_its_file(style: str) -> None:
    page = (PLACE / style / "README.md").read_text(encoding="utf-8")
    shown = sorted(re.findall(r"(?ms)^```mermaid\n(.*?)^```$", page))
    assert shown == sorted(source.read_text(encoding="utf-8") for source in sequences(style))
    assert all(f"(sequences/{source.stem}.svg)" in page for source in sequences(style))


def test_every_link_of_the_pages_leads_somewhere() -> None:
    for page in PLACE.rglob("README.md"):
        for link in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8")):
            assert link.startswith("https://") or (page.parent / link).exists(), f"{page}: {link}"


def test_every_description_is_linked_from_the_page_of_its_style() -> None:
    for path in [*files("openapi"), *files("asyncapi")]:
        page = (path.parent.parent / "README.md").read_text(encoding="utf-8")
        assert f"(api/{path.name})" in page
