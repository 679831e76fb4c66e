"""The Postman collection as data: what a run of newman cannot notice by itself."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from orderly.newman import COLLECTION, LOCK
from orderly.services import SERVICES

TEXT = COLLECTION.read_text()
DATA: dict[str, Any] = json.loads(TEXT)
FOLDERS: dict[str, list[dict[str, Any]]] = {folder["name"]: folder["item"] for folder in DATA["item"]}
ITEMS = [item for items in FOLDERS.values() for item in items]
STEPS = [
    "1 create a user",
    "2 put money on the account",
    "3 place an order the money suffices for",
    "4 the money was taken",
    "5 the letter of joy is there",
    "6 place an order the money does not suffice for",
    "7 the money did not change",
    "8 the letter of sorrow is there",
]

each_request = pytest.mark.parametrize("item", ITEMS, ids=lambda item: item["name"])


def test_its_format_is_the_one_that_newman_runs() -> None:
    assert DATA["info"]["schema"] == "https://schema.getpostman.com/json/collection/v2.1.0/collection.json"


def test_it_asks_arch_homework_unless_told_otherwise() -> None:
    assert DATA["variable"] == [{"key": "baseUrl", "value": "arch.homework"}]


def test_its_folders_are_scenario_and_refusals() -> None:
    assert list(FOLDERS) == ["scenario", "refusals"]
    assert all(folder["description"] for folder in DATA["item"])


def test_the_scenario_takes_its_eight_steps_in_order() -> None:
    names = [item["name"] for item in FOLDERS["scenario"]]
    assert [name for name in names if re.match(r"\d ", name)] == STEPS
    assert [name.split()[0] for name in names] == ["1", "1b", "1c", "2", "3", "3b", "4", "5", "6", "6b", "7", "8"]


def test_no_two_requests_share_a_name() -> None:
    names = [item["name"] for item in ITEMS]
    assert len(set(names)) == len(names), "a request that is sent again is found by its name"


@each_request
def test_every_request_says_what_it_is_for(item: dict[str, Any]) -> None:
    assert item["request"]["description"].strip().endswith(".")


@each_request
def test_every_request_is_tested_in_sentences(item: dict[str, Any]) -> None:
    sentences = re.findall(r"pm\.test\('([^']*)'", _script(item, "test"))
    assert sentences
    assert all(" " in sentence for sentence in sentences)
    assert re.search(r"have\.status\(|response\.code\)", _script(item, "test")), "the status is tested"


@each_request
def test_every_request_asks_a_route_that_exists_through_the_gateway(item: dict[str, Any]) -> None:
    door, path = item["request"]["url"].split("/client", 1)
    asked = f"{item['request']['method']} {path.partition('?')[0]}"
    assert door == "{{baseUrl}}"
    assert any(re.fullmatch(pattern, asked) for pattern in _routes()), asked


@each_request
def test_passwords_are_made_up_in_every_run(item: dict[str, Any]) -> None:
    body = json.loads(item["request"].get("body", {}).get("raw", "{}"))
    assert body.get("password", "{{password}}") in ("{{password}}", "{{$guid}}")


@pytest.mark.parametrize("literal", ["localhost", "127.0.0.1", "[::1]", "eyJ", "Authorization"])
def test_no_address_and_no_token_is_written_into_it(literal: str) -> None:
    assert literal not in TEXT


def test_the_token_is_a_variable() -> None:
    assert [part["value"] for part in DATA["auth"]["bearer"]] == ["{{accessToken}}"]


def test_what_moves_money_in_the_scenario_has_an_idempotency_key() -> None:
    moving = [item["request"] for item in FOLDERS["scenario"] if re.search("deposits$|orders$", item["request"]["url"])]
    assert [request["header"] for request in moving] == [[{"key": "Idempotency-Key", "value": "{{$guid}}"}]] * 3


def test_newman_is_locked_by_its_hashes_and_no_registry_is_named() -> None:
    assert json.loads(LOCK.with_name("package.json").read_text())["dependencies"] == {"newman": "6.2.2"}
    packages = json.loads(LOCK.read_text())["packages"]
    assert packages["node_modules/newman"]["version"] == "6.2.2"
    for name, package in packages.items():
        assert "resolved" not in package, name
        assert not name or package["integrity"].startswith("sha512-"), name


def _script(item: dict[str, Any], listens_to: str) -> str:
    return "\n".join(
        line for event in item["event"] if event["listen"] == listens_to for line in event["script"]["exec"]
    )


def _routes() -> Iterator[str]:
    for service in SERVICES:
        for route in service.routes:
            yield f"{route.method} " + re.sub(r"\\\{\w+\\\}", "[^/]+", re.escape(route.path))
