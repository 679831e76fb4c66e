"""What the description of events is made of: tables that fit together, and models that can be pictured."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar
from uuid import UUID

import pytest
from pydantic import Field
from sqlalchemy import MetaData

from libs.asyncapi import describe, example_id
from libs.contracts import Fact
from libs.messaging.consumer import Listens
from libs.messaging.envelope import Event
from libs.messaging.unit import Unit
from libs.service import Service
from libs.settings import ServiceSettings


class BikeOrdered(Fact):
    """Somebody wants a bike. The workshop answers."""

    type: ClassVar[str] = "shop.bike.ordered"
    keyed_by: ClassVar[tuple[str, ...]] = ("bike_id",)

    bike_id: UUID
    bells: int
    note: str | None = Field(None, examples=["red"])


class BikeBuilt(Fact):
    """A bike is there."""

    type: ClassVar[str] = "workshop.bike.built"
    keyed_by: ClassVar[tuple[str, ...]] = ("bike_id",)

    bike_id: UUID


class WheelMissed(Fact):
    """A wheel is not there."""

    type: ClassVar[str] = "workshop.wheel.missed"
    keyed_by: ClassVar[tuple[str, ...]] = ("bike_id",)

    bike_id: UUID


async def on_bikes_ordered(events: Sequence[Event[BikeOrdered]], unit: Unit[Any]) -> None:
    """Build bikes."""


async def on_answers(events: Sequence[Event[Any]], unit: Unit[Any]) -> None:
    """Hand them over."""


def service(name: str, publishes: Sequence[type[Fact]] = (), listens: Sequence[Listens[Any]] = ()) -> Service[Any, Any]:
    return Service(
        name=name,
        folder=Path(),
        settings=ServiceSettings,
        store=lambda _connection: None,
        tables=MetaData(),
        routes=(),
        publishes=publishes,
        listens=listens,
    )


def described(name: str, *services: Service[Any, Any]) -> dict[str, Any]:
    [one] = [one for one in services if one.name == name]
    return describe(one, services, info={"title": name, "version": "1"})


def workshop(*answers: type[Fact]) -> Service[Any, Any]:
    return service("workshop", answers, [Listens(BikeOrdered, on_bikes_ordered, answers=answers)])


def shop(*awaited: type[Fact]) -> Service[Any, Any]:
    return service("shop", [BikeOrdered], [Listens(fact, on_answers) for fact in awaited])


def test_an_answer_that_is_listened_to_is_a_reply_on_both_sides() -> None:
    pair = (shop(BikeBuilt), workshop(BikeBuilt))
    reply = {
        "channel": {"$ref": "#/channels/bikeBuilt"},
        "messages": [{"$ref": "#/channels/bikeBuilt/messages/BikeBuilt"}],
    }
    assert described("shop", *pair)["operations"]["publish_bike_ordered"]["reply"] == reply
    assert described("workshop", *pair)["operations"]["on_bikes_ordered"]["reply"] == reply


def test_an_answer_that_nobody_awaits_is_stated_and_no_reply() -> None:
    operation = described("workshop", shop(), workshop(BikeBuilt))["operations"]["on_bikes_ordered"]
    assert operation["x-states"] == ["BikeBuilt"]
    assert "reply" not in operation
    assert operation["bindings"]["nats"]["x-jetstream"]["filter_subjects"] == ["shop.bike.ordered.*"]


def test_answers_on_unlike_subjects_cannot_be_one_channel() -> None:
    with pytest.raises(ValueError, match="answers to BikeOrdered come on unlike subjects"):
        described("shop", shop(BikeBuilt, WheelMissed), workshop(BikeBuilt, WheelMissed))


def test_only_who_listens_announces_dead_letters() -> None:
    assert "deadLetter" not in described("shop", shop())["channels"]
    channel = described("workshop", workshop())["channels"]["deadLetter"]
    assert channel["address"] == "workshop.dead.{entity}.{id}"
    assert channel["parameters"]["entity"]["examples"] == ["bike"]


def test_an_example_shows_every_field() -> None:
    [example] = described("shop", shop())["components"]["messages"]["BikeOrdered"]["examples"]
    assert example["payload"] == {"bike_id": example_id("bike_id"), "bells": 1, "note": "red"}
    assert UUID(example_id("bike_id")).version == 7


def test_a_text_without_an_example_is_an_error() -> None:
    class BikeRung(Fact):
        """A bell rang."""

        type: ClassVar[str] = "shop.bike.rung"

        user_id: UUID
        tone: str

    with pytest.raises(ValueError, match="tone needs an example"):
        described("shop", service("shop", [BikeRung]))
