"""Notifications' handlers over the real store, on both databases: one letter for each cause, to the newest address."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, TypeAlias
from uuid import UUID

import pytest

from libs.contracts import Fact
from libs.contracts.auth import UserRegistered
from libs.contracts.billing import AccountCredited, DeclineReason
from libs.contracts.notifications import LetterKind as StatedKind
from libs.contracts.notifications import LetterStored
from libs.contracts.orders import OrderCancelled, OrderConfirmed, OrderRejected
from libs.contracts.profiles import ProfileChanged
from libs.ids import uuid7
from libs.messaging.envelope import Event
from libs.tests.units import Workbench, heard, shared_database, workbench
from notifications import handlers
from notifications.app import service
from notifications.domain import Letter, LetterKind
from notifications.handlers import Note
from notifications.ports import Letters, NotificationsUnit

database_url = shared_database()
Handler: TypeAlias = Callable[[Sequence[Event[Any]], NotificationsUnit], Awaitable[None]]


@pytest.fixture
async def bench(database_url: str) -> AsyncIterator[Workbench[Letters]]:
    async with workbench(database_url, service) as opened:
        yield opened


def registered(user: UUID, email: str = "ann@example.org") -> UserRegistered:
    return UserRegistered(user_id=user, login="ann", email=email, first_name="Ann")


def changed(user: UUID, version: int, email: str) -> ProfileChanged:
    return ProfileChanged(user_id=user, login="ann", email=email, version=version)


def confirmed(user: UUID, order: UUID | None = None) -> OrderConfirmed:
    return OrderConfirmed(order_id=order or uuid7(), user_id=user, price=15_000, description="a lamp")


def occasion_of(kind: str, user: UUID) -> tuple[Handler, Fact]:
    """Make a fact that calls for a letter of a kind, and name its handler."""
    order: dict[str, Any] = {"order_id": uuid7(), "user_id": user, "price": 15_000, "description": "a lamp"}
    match kind:
        case "joy":
            return handlers.on_orders_confirmed, OrderConfirmed(**order)
        case "sorrow":
            rejected = OrderRejected(**order, reason=DeclineReason.INSUFFICIENT_FUNDS)
            return handlers.on_orders_rejected, rejected
        case "cancelled":
            return handlers.on_orders_cancelled, OrderCancelled(**order)
        case _:
            account = uuid7()
            credited = AccountCredited(
                user_id=user, account_id=account, transfer_id=uuid7(), amount=15_000, balance=20_000, version=1
            )
            return handlers.on_accounts_credited, credited


KINDS = pytest.mark.parametrize("kind", ["joy", "sorrow", "cancelled", "deposit"])


async def letters_of(bench: Workbench[Letters], user: UUID) -> Sequence[Letter]:
    async with bench.units.read() as store:
        return await store.page(user, order_id=None, before=None, limit=100)


def stored(letter: Letter) -> LetterStored:
    return LetterStored(
        letter_id=letter.id,
        user_id=letter.user_id,
        order_id=letter.order_id,
        kind=StatedKind(letter.kind.value),
        recipient=letter.recipient,
    )


@KINDS
async def test_every_occasion_becomes_one_letter_that_is_stated(bench: Workbench[Letters], kind: str) -> None:
    user = uuid7()
    await bench.hear(handlers.on_users_registered, registered(user))
    handler, fact = occasion_of(kind, user)
    occasion = heard(fact)
    stated = await bench.hear(handler, occasion)
    (letter,) = await letters_of(bench, user)
    assert stated == [stored(letter)]
    assert letter.kind == kind
    assert letter.recipient == "ann@example.org"
    assert letter.body.startswith("Dear Ann,")
    assert "150.00" in letter.body
    assert letter.order_id == getattr(fact, "order_id", None)
    assert bench.stated[0].trace.trace_id == occasion.trace.trace_id


@KINDS
async def test_an_occasion_that_is_delivered_again_changes_nothing(bench: Workbench[Letters], kind: str) -> None:
    handler, fact = occasion_of(kind, uuid7())
    assert len(await bench.hear(handler, fact, fact)) == 1
    before = await bench.rows()
    assert len(before["letters"]) == 1
    assert await bench.hear(handler, fact) == []
    assert await bench.hear(handler, heard(fact, restated=True), fact) == []
    assert await bench.rows() == before


@pytest.mark.parametrize("kind", ["registered", "changed"])
async def test_a_contact_that_is_delivered_again_changes_nothing(bench: Workbench[Letters], kind: str) -> None:
    user = uuid7()
    handler: Handler = handlers.on_users_registered if kind == "registered" else handlers.on_profiles_changed
    fact = registered(user) if kind == "registered" else changed(user, 3, "ann@example.org")
    await bench.hear(*occasion_of("joy", user))
    assert len(await bench.hear(handler, fact, fact)) == 1
    before = await bench.rows()
    assert await bench.hear(handler, fact) == []
    assert await bench.hear(handler, heard(fact, restated=True), fact) == []
    assert await bench.rows() == before


async def test_an_order_has_one_letter_of_each_kind(bench: Workbench[Letters]) -> None:
    user, order = uuid7(), uuid7()
    joy = confirmed(user, order)
    cancelled = OrderCancelled(order_id=order, user_id=user, price=15_000)
    await bench.hear(handlers.on_orders_confirmed, joy)
    await bench.hear(handlers.on_orders_cancelled, cancelled)
    await bench.hear(handlers.on_orders_confirmed, joy)
    assert [letter.kind for letter in await letters_of(bench, user)] == [LetterKind.CANCELLED, LetterKind.JOY]


async def test_two_deposits_are_two_letters(bench: Workbench[Letters]) -> None:
    user = uuid7()
    first, second = (occasion_of("deposit", user)[1] for _ in range(2))
    assert len(await bench.hear(handlers.on_accounts_credited, first, second, first)) == 2


async def test_a_batch_writes_to_each_user_at_their_own_address(bench: Workbench[Letters]) -> None:
    ann, bob, nobody = uuid7(), uuid7(), uuid7()
    await bench.hear(handlers.on_users_registered, registered(ann), registered(bob, "bob@example.org"))
    stated = await bench.hear(handlers.on_orders_confirmed, *(confirmed(user) for user in (bob, nobody, ann)))
    recipients = [fact.recipient for fact in stated if isinstance(fact, LetterStored)]
    assert recipients == ["bob@example.org", None, "ann@example.org"]


async def test_a_letter_before_its_contact_is_completed_later(bench: Workbench[Letters]) -> None:
    user, order = uuid7(), uuid7()
    (fact,) = await bench.hear(handlers.on_orders_confirmed, confirmed(user, order))
    (letter,) = await letters_of(bench, user)
    assert letter.recipient is None
    assert fact == stored(letter)
    contact = heard(registered(user))
    stated = await bench.hear(handlers.on_users_registered, contact)
    (completed,) = await letters_of(bench, user)
    assert completed.recipient == "ann@example.org"
    assert completed.id == letter.id
    assert (letter.body.split("\n")[0], completed.body.split("\n")[0]) == ("Hello,", "Dear Ann,")
    assert stated == [stored(completed)]
    assert bench.stated[0].trace.trace_id == contact.trace.trace_id
    await bench.hear(handlers.on_profiles_changed, changed(user, 1, "new@example.org"))
    assert await letters_of(bench, user) == [completed]


async def test_a_letter_is_completed_with_the_newest_contact_of_the_batch(bench: Workbench[Letters]) -> None:
    user = uuid7()
    await bench.hear(handlers.on_orders_confirmed, confirmed(user))
    emails = [(2, "two@example.org"), (3, "three@example.org"), (1, "one@example.org")]
    stated = await bench.hear(handlers.on_profiles_changed, *(changed(user, *contact) for contact in emails))
    assert [fact.recipient for fact in stated if isinstance(fact, LetterStored)] == ["three@example.org"]


async def test_an_older_contact_never_overwrites_a_newer_one(bench: Workbench[Letters]) -> None:
    user = uuid7()
    await bench.hear(handlers.on_profiles_changed, changed(user, 2, "two@example.org"))
    before = await bench.rows()
    await bench.hear(handlers.on_profiles_changed, changed(user, 1, "one@example.org"))
    await bench.hear(handlers.on_profiles_changed, changed(user, 2, "other@example.org"))
    await bench.hear(handlers.on_users_registered, registered(user))
    assert await bench.rows() == before
    (fact,) = await bench.hear(handlers.on_orders_confirmed, confirmed(user))
    assert isinstance(fact, LetterStored)
    assert fact.recipient == "two@example.org"


async def test_a_late_registration_completes_letters_with_the_newest_contact(bench: Workbench[Letters]) -> None:
    user = uuid7()
    await bench.hear(handlers.on_profiles_changed, changed(user, 1, "new@example.org"))
    async with bench.units.begin() as unit:
        await handlers.on_users_registered([heard(registered(user, "old@example.org"))], unit)
        known = await unit.store.contacts([user])
    assert known[user].email == "new@example.org"


async def test_a_note_goes_to_its_author(bench: Workbench[Letters]) -> None:
    user, stranger = uuid7(), uuid7()
    await bench.hear(handlers.on_users_registered, registered(user))
    notes = [Note(uuid7(), user, "Milk", "and\nbread"), Note(uuid7(), stranger, "Who", "am I?")]
    first, second = await bench.carry_out(handlers.write_notes, *notes)
    assert isinstance(first, Letter)
    assert isinstance(second, Letter)
    assert [event.fact for event in bench.stated] == [stored(first), stored(second)]
    assert (await letters_of(bench, user), await letters_of(bench, stranger)) == ([first], [second])
    assert (first.id, first.kind, first.recipient) == (notes[0].letter_id, LetterKind.NOTE, "ann@example.org")
    assert (first.subject, first.body, first.order_id) == ("Milk", "and\nbread", None)
    assert second.recipient is None
    await bench.hear(handlers.on_users_registered, registered(stranger, "who@example.org"))
    assert [letter.recipient for letter in await letters_of(bench, stranger)] == ["who@example.org"]


async def test_two_units_that_write_one_letter_at_once_write_one(bench: Workbench[Letters]) -> None:
    fact = confirmed(uuid7())

    async def write(unit: NotificationsUnit) -> None:
        await handlers.on_orders_confirmed([heard(fact)], unit)

    assert await bench.overlap(write, write) is None
    assert bench.stated == []
    assert len(await letters_of(bench, fact.user_id)) == 1


@pytest.mark.parametrize("first", ["letter", "contact"])
@pytest.mark.parametrize("waiting", [0, 1], ids=["the first letter", "a second letter"])
async def test_a_letter_and_its_contact_at_once_find_each_other(
    bench: Workbench[Letters], first: str, waiting: int
) -> None:
    fact = confirmed(uuid7())
    for _ in range(waiting):
        await bench.hear(handlers.on_orders_confirmed, confirmed(fact.user_id))

    async def write(unit: NotificationsUnit) -> None:
        await handlers.on_orders_confirmed([heard(fact)], unit)

    async def learn(unit: NotificationsUnit) -> None:
        await handlers.on_users_registered([heard(registered(fact.user_id))], unit)

    works = [write, learn] if first == "letter" else [learn, write]
    assert await bench.overlap(*works) is None
    letters = await letters_of(bench, fact.user_id)
    assert [letter.recipient for letter in letters] == ["ann@example.org"] * (waiting + 1)
