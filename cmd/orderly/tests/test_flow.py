"""The map of the system is right: each fact is stated where it says, and the tables promise what the code does."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from libs.contracts.billing import AccountCredited, AccountDebited, PaymentAccepted, PaymentDeclined
from libs.contracts.orders import OrderPlaced
from libs.local.servers import CannotStart
from libs.service import Service
from libs.web.commands import Command
from orderly.flow import ROOT, CannotTell, Place, _statements, publishing_lines, steps_of
from orderly.flow_view import DOCUMENT, Map, diagram, document, facts_of, trace
from orderly.services import SERVICES

STEPS = steps_of(SERVICES)
EVERY_SERVICE = pytest.mark.parametrize("service", SERVICES, ids=[service.name for service in SERVICES])


@EVERY_SERVICE
def test_a_service_states_what_its_table_says_and_nothing_else(service: Service[Any, Any]) -> None:
    stated = {said.fact for step in STEPS if step.service == service.name for said in step.states}
    assert stated == set(service.publishes)


@EVERY_SERVICE
def test_every_line_that_publishes_is_reached_by_a_route_a_fact_or_a_chore(service: Service[Any, Any]) -> None:
    reached = {str(said.place) for step in STEPS if step.service == service.name for said in step.states}
    assert publishing_lines(service) == reached


@EVERY_SERVICE
def test_a_handler_may_state_what_the_table_says_it_answers_with(service: Service[Any, Any]) -> None:
    for line in service.listens:
        (step,) = [
            step for step in STEPS if (step.service, step.kind, step.name) == (service.name, "fact", line.fact.type)
        ]
        assert set(line.answers) <= {said.fact for said in step.states}, step


def line_at(place: Place) -> str:
    return (ROOT / place.file).read_text().splitlines()[place.line - 1]


def test_every_place_is_the_line_it_names() -> None:
    for step in STEPS:
        assert line_at(step.place).startswith(f"async def {step.place.function}("), step
        for said in step.states:
            assert "unit.publish(" in line_at(said.place), said


def test_the_map_follows_an_order_from_the_request_to_the_letter() -> None:
    told = [
        (step.kind, step.service, step.name, sorted({said.fact.type for said in step.states}))
        for step in STEPS
        if "order" in step.name or "payment" in step.name
    ]
    assert ("route", "orders", "POST /client/orders", ["orders.order.placed"]) in told
    assert ("fact", "billing", "orders.order.placed", ["billing.payment.accepted", "billing.payment.declined"]) in told
    assert ("fact", "orders", "billing.payment.accepted", ["orders.order.confirmed"]) in told
    assert ("fact", "notifications", "orders.order.confirmed", ["notifications.letter.stored"]) in told
    assert ("fact", "orders", "billing.payment.refunded", []) in told


def test_facts_that_nobody_handles_are_marked() -> None:
    drawn = Map.of(None)
    ends = {fact for fact in facts_of(STEPS) if not drawn.handlers(fact)}
    assert ends >= {"billing.account.debited", "notifications.letter.stored"}
    assert set(facts_of(STEPS)) == {fact.type for service in SERVICES for fact in service.publishes}
    assert re.findall(r"\| `([\w.]+)` \|.*\| terminal \(nobody listens\) \|", document()) == [
        fact for fact in facts_of(STEPS) if fact in ends
    ]


def test_the_committed_page_is_what_the_code_says() -> None:
    committed = (ROOT / DOCUMENT).read_text(encoding="utf-8")
    assert committed == document(), f"{DOCUMENT} is not what the code says; run `just trace --write`"
    assert not re.search(r"\.py:\d", committed), "lines move with every edit"


def test_the_map_can_begin_with_one_fact(capsys: pytest.CaptureFixture[str]) -> None:
    trace("orders.order.placed", mermaid=False, write=False)
    said = capsys.readouterr().out
    assert "POST /client/orders) states it at cmd/orders/handlers.py:" in said
    assert "restate_overdue (again and again) states it at cmd/orders/handlers.py:" in said
    assert "on_payments_declined" in said
    assert "on_payments_refunded" not in said

    trace("billing.*.debited", mermaid=True, write=False)
    assert diagram(Map.of("billing.*.debited")) == capsys.readouterr().out
    with pytest.raises(CannotStart, match="no fact is called 'orders'"):
        trace("orders", mermaid=False, write=False)


def test_the_whole_map_names_every_route_handler_and_chore(capsys: pytest.CaptureFixture[str]) -> None:
    trace(None, mermaid=False, write=False)
    said = capsys.readouterr().out
    for step in STEPS:
        assert f"{step.service} {step.place.function}  {step.place}" in said
        assert all(f"{said_.fact.type}  " in said for said_ in step.states)


# Ways to state a fact, of which some cannot be told


@dataclass
class Wish:
    fact: OrderPlaced
    other: Any


def answer(taken: bool) -> PaymentAccepted | PaymentDeclined:
    raise NotImplementedError


def vague() -> Any:
    raise NotImplementedError


async def states_either(unit: Any, cause: Any) -> None:
    unit.publish(AccountCredited(**cause) if cause else AccountDebited(**cause), cause=cause)


async def states_an_answer(unit: Any, cause: Any) -> None:
    fact = answer(True)
    unit.publish(fact, cause=cause)


async def states_what_was_asked(commands: Sequence[Command[Wish]], unit: Any) -> None:
    for _number, command in zip(range(9), commands, strict=False):
        unit.publish(command.body.fact, cause=command)


async def states_who_knows_what(unit: Any, cause: Any) -> None:
    unit.publish(vague(), cause=cause)


async def states_something_else(commands: Sequence[Command[Wish]], unit: Any) -> None:
    for command in commands:
        unit.publish(command.body.other, cause=command)


async def states_a_parameter(unit: Any, fact: OrderPlaced) -> None:
    unit.publish(fact, cause=fact)


@pytest.mark.parametrize(
    ("function", "facts"),
    [
        (states_either, [AccountCredited, AccountDebited]),
        (states_an_answer, [PaymentAccepted, PaymentDeclined]),
        (states_what_was_asked, [OrderPlaced]),
    ],
)
def test_what_a_function_states_is_told(function: Any, facts: list[Any]) -> None:
    assert [said.fact for said in _statements(function)] == facts


@pytest.mark.parametrize("function", [states_who_knows_what, states_something_else, states_a_parameter])
def test_what_cannot_be_told_is_not_guessed(function: Any) -> None:
    with pytest.raises(CannotTell, match=r"test_flow\.py:\d+: which fact is "):
        list(_statements(function))
