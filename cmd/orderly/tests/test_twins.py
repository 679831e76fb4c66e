"""Twins in YAML: what is said about one service is said about another, and nothing else changes."""

from itertools import pairwise

import pytest
import yaml

from orderly.twins import Twin, twin_of, with_twin

TWIN = Twin("billing", "loyalty", ("auth", "orders"), unlike=("stream: AUTH",))

COMPOSE = """\
services:
  databases:
    command: [auth, billing, orders]
    environment:
      PASSWORD_BILLING: ${PASSWORD_BILLING:?}
      PASSWORD_ORDERS: ${PASSWORD_ORDERS:?}

  billing-migrate:
    command: [billing, migrate]

  # Takes the money.
  billing:
    command: [billing]
    depends_on:
      billing-migrate: {condition: service_completed_successfully}

  gateway:
    environment:
      BILLING_URL: http://billing:8000
"""

SCALED = """\
# Whoever falls behind.
kind: ScaledObject
metadata:
  name: billing
spec:
  triggers:
    - type: cpu
    - metadata:
        stream: AUTH
        consumer: billing
    - metadata:
        stream: ORDERS
        consumer: billing
---
kind: ScaledObject
metadata:
  name: orders
spec:
  triggers:
    - metadata:
        stream: BILLING
        consumer: orders
"""


def test_compose_gets_a_service_beside_the_model() -> None:
    text = with_twin(COMPOSE, TWIN)
    document = yaml.safe_load(text)
    before = yaml.safe_load(COMPOSE)
    services = document["services"]
    assert services["databases"]["command"] == ["auth", "billing", "loyalty", "orders"]
    assert services["databases"]["environment"]["PASSWORD_LOYALTY"] == "${PASSWORD_LOYALTY:?}"
    assert services["loyalty-migrate"] == {"command": ["loyalty", "migrate"]}
    assert services["loyalty"] == {
        "command": ["loyalty"],
        "depends_on": {"loyalty-migrate": {"condition": "service_completed_successfully"}},
    }
    assert services["gateway"]["environment"]["LOYALTY_URL"] == "http://loyalty:8000"
    for name in ("billing", "billing-migrate"):
        assert services[name] == before["services"][name]
    assert text.count("# Takes the money.") == 1
    assert not any(first == second == "" for first, second in pairwise(text.splitlines()))


def test_what_is_not_wanted_is_left_out() -> None:
    services = yaml.safe_load(with_twin(COMPOSE, TWIN, without="BILLING_URL"))["services"]
    assert services["gateway"]["environment"] == {"BILLING_URL": "http://billing:8000"}
    assert "loyalty" in services


def test_a_document_gets_a_document_without_what_is_the_models_alone() -> None:
    documents = list(yaml.safe_load_all(with_twin(SCALED, TWIN)))
    assert [document["metadata"]["name"] for document in documents] == ["billing", "loyalty", "orders"]
    billing, orders = yaml.safe_load_all(SCALED)
    assert (documents[0], documents[2]) == (billing, orders)
    assert documents[1]["spec"]["triggers"] == [
        {"type": "cpu"},
        {"metadata": {"stream": "ORDERS", "consumer": "loyalty"}},
    ]


@pytest.mark.parametrize(
    ("line", "with_the_new_one"),
    [
        ("x: [auth, billing, orders]", "x: [auth, billing, loyalty, orders]"),
        ("x: [auth, orders, billing]", "x: [auth, orders, billing, loyalty]"),
        ('x: ["auth", "billing"]', 'x: ["auth", "billing", "loyalty"]'),
        ("x: for name in auth billing orders; do", "x: for name in auth billing loyalty orders; do"),
        ("x: [auth, orders]", "x: [auth, orders]"),
        ("# billing and auth", "# billing and auth"),
    ],
)
def test_a_list_in_one_line_gets_one_more(line: str, with_the_new_one: str) -> None:
    assert with_twin(f"{line}\n", TWIN) == f"{with_the_new_one}\n"


def test_an_item_is_copied_whole_wherever_the_name_stands() -> None:
    text = "from:\n  - selector:\n      name: billing\n    ports: [1]\n  - other: 2\n"
    (first, second, third) = yaml.safe_load(with_twin(text, TWIN))["from"]
    assert first == {"selector": {"name": "billing"}, "ports": [1]}
    assert second == {"selector": {"name": "loyalty"}, "ports": [1]}
    assert third == {"other": 2}


def test_a_file_of_the_models_own_becomes_one_of_the_new_service() -> None:
    text = "# Billing: accounts.\nname: billing\nsecret: billing-db-secret\nkey: BILLING_KEY\nnot: rebilling\n"
    said = "name: loyalty\nsecret: loyalty-db-secret\nkey: LOYALTY_KEY\nnot: rebilling\n"
    assert twin_of(text, TWIN) == said


def test_what_says_nothing_about_the_model_stays() -> None:
    text = "a: 1\n\n# a comment\nb: [auth]\n"
    assert with_twin(text, TWIN) == text
