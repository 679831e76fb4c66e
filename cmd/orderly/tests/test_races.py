"""Races with a meaning: what happens when two things meet, whichever is first. The rules are those of decision 21.

Two processes of every service on PostgreSQL. Nothing here depends on luck: see `racing`.
"""

import asyncio
from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
import pytest_asyncio

from billing.tables import payments, refunds
from libs.messaging.consumer import durables
from libs.messaging.jetstream import JetStream, JetStreamSettings
from libs.tests.eventually import eventually
from orderly.credentials import ensure_credentials
from orderly.system import System
from orderly.tests.racing import WITHIN_S, Held, Story, at_rest, id_of, rows, said
from orderly.tests.systems import Customer, assert_the_books_balance, customers, running_system
from orders.app import service as orders

pytestmark = [pytest.mark.prove, pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(300)]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def system() -> AsyncIterator[System]:
    """A system that the tests of this module share."""
    async with running_system("postgres", replicas=2) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def ann(system: System) -> AsyncIterator[Customer]:
    """Somebody with 100 on the account, whose books are in order in the end, as everybody's are."""
    async with customers(system) as customer:
        one = await customer().arrive("100")
        yield one
        await one.audit(within_s=WITHIN_S)
    await assert_the_books_balance(system)


@pytest_asyncio.fixture(loop_scope="module")
async def story(system: System, ann: Customer) -> Story:
    """Her story."""
    return Story(system, ann)


async def cancel_while_the_payment_waits(story: Story, wallet: Held) -> tuple[str, "asyncio.Task[Any]"]:
    """Have the payment of a new order and, after it, its cancellation wait for the account, in two processes."""
    placing = asyncio.create_task(story.ann.order("60"))
    await wallet.waited_for_by(1)
    order_id = await story.newest()
    assert await story.cancel(order_id) == 200
    await wallet.waited_for_by(2, otherwise=lambda: story.again("orders", f"orders.order.cancelled.{order_id}"))
    return order_id, placing


async def test_a_cancellation_that_billing_sees_after_the_payment_gives_back_what_was_taken(story: Story) -> None:
    async with story.wallet() as wallet:
        order_id, placing = await cancel_while_the_payment_waits(story, wallet)
    await placing
    await story.is_cancelled(order_id, "60.00")
    (payment,) = await rows(story.system, "billing", payments, order_id=UUID(order_id))
    (refund,) = await rows(story.system, "billing", refunds, order_id=UUID(order_id))
    assert (payment.outcome, refund.amount_minor) == ("accepted", 60_00)
    assert await story.ann.balance() == Decimal(100)
    await story.letters_are(order_id, "cancelled")


async def test_a_cancellation_that_billing_sees_before_the_payment_keeps_it_from_being_made(story: Story) -> None:
    async with story.wallet() as wallet:
        order_id, placing = await cancel_while_the_payment_waits(story, wallet)
        await wallet.let_the_second_pass()
    await placing
    await story.is_cancelled(order_id, "0.00")
    (payment,) = await rows(story.system, "billing", payments, order_id=UUID(order_id))
    (refund,) = await rows(story.system, "billing", refunds, order_id=UUID(order_id))
    assert (payment.outcome, payment.reason, refund.amount_minor) == ("declined", "order_cancelled", 0)
    assert [entry["kind"] for entry in await story.ann.pages("/billing/statement")] == ["deposit"]
    await story.letters_are(order_id, "cancelled")


@pytest.mark.parametrize("first", ["answer", "cancellation"])
async def test_an_order_is_confirmed_before_it_is_cancelled_or_not_at_all(story: Story, first: str) -> None:
    async with story.wallet() as wallet:
        placing = asyncio.create_task(story.ann.order("60"))
        await wallet.waited_for_by(1)
        order_id = await story.newest()
        async with story.order(order_id) as order:
            if first == "cancellation":
                cancelling = asyncio.create_task(story.cancel(order_id))
                await order.waited_for_by(1)
            await wallet.release()
            if first == "answer":
                await order.waited_for_by(1)
                cancelling = asyncio.create_task(story.cancel(order_id))
            await order.waited_for_by(2)
    assert await cancelling == 200
    await placing
    await story.is_cancelled(order_id, "60.00")
    assert await story.ann.balance() == Decimal(100)
    confirmed = await said(story.system, "orders", f"orders.order.confirmed.{order_id}")
    assert len(confirmed) == (1 if first == "answer" else 0)
    await story.letters_are(order_id, "cancelled", *(["joy"] if first == "answer" else []))


async def test_of_two_cancellations_at_two_processes_one_is_too_late(story: Story) -> None:
    status, placed = await story.ann.order("60")
    assert (status, placed["status"]) == (201, "confirmed")
    async with story.order(placed["id"]) as order:
        cancelling = [
            asyncio.create_task(cancel_at(story.ann, url, placed["id"])) for url in story.system.service_urls("orders")
        ]
        await order.waited_for_by(2)
    answers = sorted([await one for one in cancelling])
    assert answers == [(200, ""), (409, "/problems/not_cancellable")]
    await story.is_cancelled(placed["id"], "60.00")
    assert len(await said(story.system, "orders", f"orders.order.cancelled.{placed['id']}")) == 1
    assert await story.ann.balance() == Decimal(100)
    await story.letters_are(placed["id"], "joy", "cancelled")


async def cancel_at(ann: Customer, url: str, order_id: str) -> tuple[int, str]:
    """Cancel at one process of orders; return the status, and the type of the problem."""
    headers = {"Authorization": f"Bearer {ann.token}"}
    async with ann.session.post(f"{url}/orders/{order_id}/cancel", headers=headers) as answer:
        return answer.status, (await answer.json(content_type=None)).get("type", "")


async def test_a_cancellation_that_is_stated_twice_gives_the_money_back_once(story: Story) -> None:
    _, placed = await story.ann.order("60")
    subject = f"orders.order.cancelled.{placed['id']}"
    async with story.wallet() as wallet:
        assert await story.cancel(placed["id"]) == 200
        await wallet.waited_for_by(1)
        await wallet.waited_for_by(2, otherwise=lambda: story.again("orders", subject, restated="1"))
    await story.is_cancelled(placed["id"], "60.00")
    await story.letters_are(placed["id"], "joy", "cancelled")
    assert await story.ann.balance() == Decimal(100)
    entries = [entry["kind"] for entry in await story.ann.pages("/billing/statement")]
    assert entries == ["refund", "payment", "deposit"]

    async def answered_again() -> bool:
        answers = await said(story.system, "billing", f"billing.payment.refunded.{placed['id']}")
        return len({row.payload for row in answers}) == 1 and len(answers) >= 2

    await eventually(answered_again, within_s=WITHIN_S)


async def test_an_answer_that_orders_never_got_is_asked_for_again(story: Story) -> None:
    system = story.system
    programs = [program for program in system._programs() if program.name == "orders"]
    async with story.wallet() as wallet:
        placing = asyncio.create_task(story.ann.order("60"))
        await wallet.waited_for_by(1)
        status, order = await placing
        assert (status, order["status"]) == (202, "pending")
        await system.supervisor.stop([program.label for program in programs])
    try:
        await lose_what_waits_for_orders(system, f"billing.payment.accepted.{order['id']}")
    finally:
        for program in programs:
            await system.supervisor.start(program)
    await system.healthy(within_s=60)

    async def confirmed() -> bool:
        return bool((await story.ann.call("GET", f"/orders/{order['id']}"))[1]["status"] == "confirmed")

    await eventually(confirmed, within_s=WITHIN_S)
    asked = await said(system, "orders", f"orders.order.placed.{order['id']}")
    answers = await said(system, "billing", f"billing.payment.accepted.{order['id']}")
    assert ["restated" in row.headers for row in asked][:2] == [False, True]
    assert len(answers) >= 2
    assert await story.ann.balance() == Decimal(40)


async def lose_what_waits_for_orders(system: System, subject: str) -> None:
    """Take what billing says next from the durable consumer of orders, which does not run, and acknowledge it."""
    password = ensure_credentials(system.plan.data_dir / "keys").nats["orders"]
    bus = await JetStream.connect(JetStreamSettings(system.nats_url, "orders", "orders", password))
    (durable,) = durables("orders", orders.listens)
    subscription = await bus.subscribe(durable)
    try:
        async with asyncio.timeout(WITHIN_S):
            (lost,) = await subscription.next_batch(1)
        assert lost.subject == subject
        await lost.ack()
    finally:
        await subscription.close()
        await bus.close()


@pytest.mark.parametrize("first", ["the new one", "the old one"])
async def test_a_profile_change_that_comes_again_late_overwrites_nothing(story: Story, first: str) -> None:
    old, new = f"old.{story.ann.login}@example.org", f"new.{story.ann.login}@example.org"
    subject = f"profiles.profile.changed.{id_of(story.ann)}"
    await story.changes_address(old)
    await story.knows(1)
    async with story.contact() as contact:
        if first == "the new one":
            await story.changes_address(new)
            await contact.waited_for_by(1)
            await contact.waited_for_by(2, otherwise=lambda: story.again("profiles", subject))
        else:
            await story.again("profiles", subject)
            await contact.waited_for_by(1)
            await story.changes_address(new)
            await contact.waited_for_by(2, otherwise=lambda: story.again("profiles", subject, -1))
    await story.knows(2)
    await eventually(lambda: at_rest(story.system, "notifications"), within_s=WITHIN_S)
    await story.knows(2)
    assert await story.note_goes_to() == new


@pytest.mark.parametrize(("first", "outcome", "left"), [("payment", "rejected", 160), ("deposit", "confirmed", 40)])
async def test_a_payment_is_decided_on_what_is_there_when_its_turn_comes(
    story: Story, first: str, outcome: str, left: int
) -> None:
    async with story.wallet() as wallet:
        if first == "deposit":
            depositing = asyncio.create_task(story.ann.deposit("60"))
            await wallet.waited_for_by(1)
        placing = asyncio.create_task(story.ann.order("120"))
        await wallet.waited_for_by(1 if first == "payment" else 2)
        if first == "payment":
            depositing = asyncio.create_task(story.ann.deposit("60"))
            await wallet.waited_for_by(2)
    await depositing
    await placing
    assert await story.ann.audit(within_s=WITHIN_S) == {outcome: 1}
    assert await story.ann.balance() == Decimal(left)


async def test_of_two_orders_for_the_last_coin_the_one_that_comes_first_to_the_account_gets_it(story: Story) -> None:
    async with story.wallet() as wallet:
        placing = [asyncio.create_task(story.ann.order("100"))]
        await wallet.waited_for_by(1)
        winner = await story.newest()
        placing.append(asyncio.create_task(story.ann.order("100")))

        async def placed() -> bool:
            return await story.newest() != winner

        await eventually(placed, within_s=WITHIN_S)
        loser = await story.newest()
        await wallet.waited_for_by(2, otherwise=lambda: story.again("orders", f"orders.order.placed.{loser}"))
    await asyncio.gather(*placing)
    assert await story.ann.audit(within_s=WITHIN_S) == {"confirmed": 1, "rejected": 1}
    statuses = {order["id"]: (order["status"], order["reason"]) for order in await story.ann.pages("/orders")}
    assert statuses == {winner: ("confirmed", None), loser: ("rejected", "insufficient_funds")}
    assert await story.ann.balance() == Decimal(0)


@pytest.mark.parametrize("first", ["change", "letter"])
async def test_a_letter_goes_where_its_reader_was_known_to_be_when_it_was_written(story: Story, first: str) -> None:
    old, new = f"{story.ann.login}@example.org", f"new.{story.ann.login}@example.org"
    await story.knows(0)
    if first == "change":
        async with story.wallet() as wallet:
            placing = asyncio.create_task(story.ann.order("10"))
            await wallet.waited_for_by(1)
            await story.changes_address(new)
            await story.knows(1)
        _, order = await placing
        await story.letters_are(order["id"], "joy")
    else:
        async with story.contact() as contact:
            await story.changes_address(new)
            await contact.waited_for_by(1)
            _, order = await story.ann.order("10")
            await story.letters_are(order["id"], "joy")
        await story.knows(1)
    _, page = await story.ann.call("GET", f"/notifications?order_id={order['id']}")
    assert [letter["recipient"] for letter in page["items"]] == [new if first == "change" else old]
    assert await story.note_goes_to() == new
