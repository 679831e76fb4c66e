"""What every fact on the bus has in common, checked for every fact there is."""

import importlib
import json
import pkgutil
import re
from enum import StrEnum
from types import UnionType
from typing import Any, get_args, get_origin
from uuid import UUID

import pytest
from pydantic import ValidationError

from libs import contracts
from libs.contracts import Fact, publisher_of, stream_of
from libs.contracts.notifications import LetterKind, LetterStored
from libs.ids import uuid7


def facts_there_are() -> list[type[Fact]]:
    """Collect the facts of every publisher's module."""
    found = []
    for module in pkgutil.iter_modules(contracts.__path__, f"{contracts.__name__}."):
        if not module.ispkg:
            members = vars(importlib.import_module(module.name)).values()
            found += [one for one in members if isinstance(one, type) and issubclass(one, Fact) and one is not Fact]
    return sorted(set(found), key=lambda fact: fact.type)


FACTS = facts_there_are()
EVERY_FACT = pytest.mark.parametrize("fact", FACTS, ids=[fact.type for fact in FACTS])


def value_for(annotation: Any) -> Any:
    """Make a value that a field takes in Python."""
    kinds = get_args(annotation) if get_origin(annotation) is UnionType else (annotation,)
    kind = next(one for one in kinds if one is not type(None))
    if issubclass(kind, StrEnum):
        return next(iter(kind))
    return {UUID: uuid7(), int: 15_000, str: "Jörg"}[kind]


def sample(fact: type[Fact], *, full: bool = True) -> Fact:
    """Make a fact, with every field or with those it must have."""
    fields = {name: field for name, field in fact.model_fields.items() if full or field.is_required()}
    return fact(**{name: value_for(field.annotation) for name, field in fields.items()})


def test_there_are_facts_of_every_publisher() -> None:
    assert {publisher_of(fact) for fact in FACTS} >= {"auth", "profiles", "billing", "orders", "notifications"}


def test_no_two_facts_share_a_type() -> None:
    assert len({fact.type for fact in FACTS}) == len(FACTS)


@EVERY_FACT
def test_a_type_is_three_words_that_begin_with_the_publisher(fact: type[Fact]) -> None:
    assert re.fullmatch(r"[a-z]+\.[a-z]+\.[a-z]+", fact.type)
    assert fact.__module__ == f"{contracts.__name__}.{publisher_of(fact)}"
    assert stream_of(publisher_of(fact)) == fact.type.split(".")[0].upper()


@EVERY_FACT
def test_a_class_is_named_like_its_type(fact: type[Fact]) -> None:
    _, entity, happened = fact.type.split(".")
    assert fact.__name__.lower() == entity + happened


@EVERY_FACT
def test_the_last_token_of_a_subject_is_what_the_fact_is_about(fact: type[Fact]) -> None:
    made = sample(fact)
    about = getattr(made, "order_id", None) or vars(made)["user_id"]
    assert made.key == about
    assert made.subject == f"{fact.type}.{about}"
    assert len(made.subject.split(".")) == 4


def test_a_letter_that_belongs_to_no_order_is_about_its_user() -> None:
    letter = LetterStored(letter_id=uuid7(), user_id=uuid7(), kind=LetterKind.NOTE)
    assert letter.subject == f"notifications.letter.stored.{letter.user_id}"


@EVERY_FACT
@pytest.mark.parametrize("full", [True, False], ids=["full", "bare"])
def test_a_fact_is_read_as_it_was_written(fact: type[Fact], *, full: bool) -> None:
    made = sample(fact, full=full)
    payload = made.model_dump_json(exclude_none=True)
    assert fact.model_validate_json(payload) == made
    assert None not in json.loads(payload).values()


@EVERY_FACT
def test_money_travels_as_a_decimal_string(fact: type[Fact]) -> None:
    content = json.loads(sample(fact).model_dump_json())
    assert all(content[name] == "150.00" for name in content.keys() & {"amount", "balance", "price"})


@EVERY_FACT
def test_a_field_that_is_not_known_is_passed_over(fact: type[Fact]) -> None:
    made = sample(fact)
    newer = json.loads(made.model_dump_json()) | {"since_next_year": {"a": [1]}}
    assert fact.model_validate_json(json.dumps(newer)) == made


@EVERY_FACT
def test_a_field_that_is_missing_or_wrong_is_named(fact: type[Fact]) -> None:
    content = json.loads(sample(fact).model_dump_json())
    for name, field in fact.model_fields.items():
        wrong = [content | {name: {"not": "a value"}}]
        if field.is_required():
            wrong.append({other: value for other, value in content.items() if other != name})
        for broken in wrong:
            with pytest.raises(ValidationError) as refused:
                fact.model_validate_json(json.dumps(broken))
            assert [error["loc"][0] for error in refused.value.errors()] == [name]


@EVERY_FACT
def test_a_fact_does_not_change(fact: type[Fact]) -> None:
    made = sample(fact)
    with pytest.raises(ValidationError):
        made.user_id = uuid7()  # type: ignore[attr-defined] # every fact has one
