"""What is said about the events is valid AsyncAPI, hangs together, and is what the code reads and writes."""

import json
import re
from typing import Any, get_args

import pytest
from pydantic import BaseModel

from libs.contracts import Fact
from libs.contracts.dead_letters import DeadLetter
from libs.messaging.envelope import open_envelope
from orderly.contracts import FOLDER
from orderly.newman import ROOT
from orderly.services import NAMES, SERVICES
from orderly.tests.documents import committed, components_of, faults, found_at, problems, references

FACTS: dict[str, type[Fact]] = {fact.__name__: fact for service in SERVICES for fact in service.publishes}
EVERY_SERVICE = pytest.mark.parametrize("service", NAMES)


def messages() -> list[Any]:
    return [
        pytest.param(service, name, id=f"{service}-{name}")
        for service in NAMES
        for name in committed(service)["components"]["messages"]
    ]


@EVERY_SERVICE
def test_a_document_is_valid_asyncapi_3_1(service: str) -> None:
    assert faults(committed(service)) == []
    assert committed(service)["asyncapi"] == "3.1.0"


@EVERY_SERVICE
def test_every_reference_leads_somewhere_and_every_component_is_referred_to(service: str) -> None:
    document = committed(service)
    used = set(references(document))
    for reference in used:
        found_at(document, reference)
    assert components_of(document) - used == set()


@EVERY_SERVICE
def test_the_messages_of_an_operation_and_of_its_reply_are_those_of_their_channels(service: str) -> None:
    for name, operation in committed(service)["operations"].items():
        for said in (operation, *([operation["reply"]] if "reply" in operation else [])):
            assert said["messages"], name
            for message in said["messages"]:
                assert message["$ref"].startswith(f"{said['channel']['$ref']}/messages/"), name


@EVERY_SERVICE
def test_an_address_names_its_parameters(service: str) -> None:
    for channel in committed(service)["channels"].values():
        assert re.findall(r"\{(\w+)\}", channel["address"]) == list(channel["parameters"])


@EVERY_SERVICE
def test_a_service_sends_what_its_table_states_and_receives_what_it_listens_to(service: str) -> None:
    [table] = [one for one in SERVICES if one.name == service]
    operations = committed(service)["operations"].values()
    sent = [operation["title"] for operation in operations if operation["action"] == "send"]
    received = [operation["title"] for operation in operations if operation["action"] == "receive"]
    assert sent == [*(fact.__name__ for fact in table.publishes), *(["DeadLetter"] if table.listens else [])]
    assert received == [line.fact.__name__ for line in table.listens]


def awaited(service: str) -> dict[str, list[str]]:
    """By operation, the messages that answer it."""
    return {
        name: [message["$ref"].rpartition("/")[2] for message in operation["reply"]["messages"]]
        for name, operation in committed(service)["operations"].items()
        if "reply" in operation
    }


def test_a_question_names_its_answers_on_both_sides() -> None:
    assert {service: found for service in NAMES if (found := awaited(service))} == {
        "auth": {"publish_user_registered": ["AccountOpened"]},
        "billing": {
            "on_users_registered": ["AccountOpened"],
            "on_orders_placed": ["PaymentAccepted", "PaymentDeclined"],
            "on_orders_cancelled": ["PaymentRefunded"],
        },
        "orders": {
            "publish_order_placed": ["PaymentAccepted", "PaymentDeclined"],
            "publish_order_cancelled": ["PaymentRefunded"],
        },
    }
    answer = committed("orders")["channels"]["answerToOrderPlaced"]
    assert answer["address"] == "billing.payment.{outcome}.{order_id}"
    assert answer["parameters"]["outcome"]["enum"] == ["accepted", "declined"]


@pytest.mark.parametrize(("service", "name"), messages())
def test_an_example_is_what_its_schemas_say(service: str, name: str) -> None:
    document = committed(service)
    message = document["components"]["messages"][name]
    for example in message["examples"]:
        for part in ("headers", "payload"):
            assert problems(document, message[part], example[part]) == []


@pytest.mark.parametrize(("service", "name"), messages())
def test_an_example_is_read_and_written_by_its_model(service: str, name: str) -> None:
    [example] = committed(service)["components"]["messages"][name]["examples"]
    payload = json.dumps(example["payload"]).encode()
    if name == "DeadLetter":
        assert DeadLetter.model_validate_json(payload).model_dump() == example["payload"]
        return
    event = open_envelope(FACTS[name], payload, example["headers"])
    assert json.loads(event.fact.model_dump_json(exclude_none=True)) == example["payload"]
    assert event.fact.type == example["headers"]["ce-type"]
    assert event.id == example["headers"]["ce-id"]
    address = re.sub(
        r"\{\w+\}", str(event.fact.key), committed(service)["channels"][name[0].lower() + name[1:]]["address"]
    )
    assert event.fact.subject == address


def optional(model: type[BaseModel]) -> set[str]:
    return {name for name, field in model.model_fields.items() if type(None) in get_args(field.annotation)}


@pytest.mark.parametrize(("service", "name"), messages())
def test_a_field_is_required_unless_it_may_be_absent_and_never_null(service: str, name: str) -> None:
    schema = committed(service)["components"]["schemas"][name]
    model: type[BaseModel] = FACTS.get(name, DeadLetter)
    assert list(schema["properties"]) == list(model.model_fields)
    assert set(schema["required"]) == set(model.model_fields) - optional(model)
    assert "null" not in json.dumps(schema)


@pytest.mark.parametrize(("service", "name"), messages())
def test_what_lacks_a_header_or_a_field_or_has_another_type_is_refused(service: str, name: str) -> None:
    """The schemas are no formality: they tell a wrong message from a right one."""
    document = committed(service)
    message = document["components"]["messages"][name]
    headers, payload = message["examples"][0]["headers"], message["examples"][0]["payload"]
    for header in headers:
        assert problems(document, message["headers"], {key: value for key, value in headers.items() if key != header})
    assert problems(document, message["headers"], headers | {"ce-type": "billing.account.closed"})
    for field in payload:
        assert problems(document, message["payload"], payload | {field: None})


def test_only_a_question_may_be_asked_again() -> None:
    restated = {
        name
        for service in NAMES
        for name, message in committed(service)["components"]["messages"].items()
        if "restated" in message["headers"]["allOf"][1]["properties"]
    }
    assert restated == {"UserRegistered", "OrderPlaced", "OrderCancelled"}


def test_a_document_is_written_without_anchors() -> None:
    for service in NAMES:
        text = (ROOT / FOLDER / f"{service}.yaml").read_text(encoding="utf-8")
        assert re.findall(r"(?m)(?:^|[:-] )[&*]\w+", text) == []
