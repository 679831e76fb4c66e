"""What notifications does about facts and commands: load, decide, save, publish."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar
from uuid import UUID

from libs.contracts import Fact
from libs.contracts import notifications as facts
from libs.contracts.auth import UserRegistered
from libs.contracts.billing import AccountCredited
from libs.contracts.orders import OrderCancelled, OrderConfirmed, OrderRejected
from libs.contracts.profiles import ProfileChanged
from libs.errors import Refusal
from libs.ids import uuid7
from libs.messaging.envelope import Cause, Event
from libs.money import format_minor
from libs.web.commands import Command
from notifications.domain import Contact, Letter, LetterKind, Occasion, cause_of_order_letter, complete, compose
from notifications.ports import NotificationsUnit

FactT = TypeVar("FactT", bound=Fact)
ContactFactT = TypeVar("ContactFactT", UserRegistered, ProfileChanged)


@dataclass(frozen=True, slots=True)
class Note:
    """A letter somebody wants to write to themselves; `letter_id` will be its id."""

    letter_id: UUID
    user_id: UUID
    subject: str
    body: str


async def on_users_registered(events: Sequence[Event[UserRegistered]], unit: NotificationsUnit) -> None:
    """Learn how to address those who registered."""
    await _learn(events, lambda _fact: 0, unit)


async def on_profiles_changed(events: Sequence[Event[ProfileChanged]], unit: NotificationsUnit) -> None:
    """Learn how to address those who changed their profile."""
    await _learn(events, lambda fact: fact.version, unit)


async def on_orders_confirmed(events: Sequence[Event[OrderConfirmed]], unit: NotificationsUnit) -> None:
    """Write letters of joy."""
    await _write(events, lambda event: _about_order(LetterKind.JOY, event.fact), unit)


async def on_orders_rejected(events: Sequence[Event[OrderRejected]], unit: NotificationsUnit) -> None:
    """Write letters of sorrow."""
    await _write(
        events,
        lambda event: _about_order(LetterKind.SORROW, event.fact, reason=event.fact.reason.value),
        unit,
    )


async def on_orders_cancelled(events: Sequence[Event[OrderCancelled]], unit: NotificationsUnit) -> None:
    """Confirm cancellations."""
    await _write(events, lambda event: _about_order(LetterKind.CANCELLED, event.fact), unit)


async def on_accounts_credited(events: Sequence[Event[AccountCredited]], unit: NotificationsUnit) -> None:
    """Acknowledge deposits."""
    await _write(
        events,
        lambda event: Occasion(
            kind=LetterKind.DEPOSIT,
            cause=f"transfer:{event.fact.transfer_id}",
            user_id=event.fact.user_id,
            order_id=None,
            amount=format_minor(event.fact.amount),
        ),
        unit,
    )


async def write_notes(commands: Sequence[Command[Note]], unit: NotificationsUnit) -> Sequence[Letter | Refusal]:
    """Write letters that people send to themselves."""
    contacts = await unit.store.contacts_to_write_to({command.body.user_id for command in commands})
    letters = []
    for command in commands:
        note = command.body
        contact = contacts.get(note.user_id)
        letter = Letter(
            id=note.letter_id,
            user_id=note.user_id,
            kind=LetterKind.NOTE,
            cause=f"note:{note.letter_id}",
            order_id=None,
            recipient=contact.email if contact else None,
            subject=note.subject,
            body=note.body,
            created_at=unit.now,
        )
        letters.append(letter)
        unit.publish(_stored(letter), cause=command)
    await unit.store.add(letters)
    return letters


async def _learn(
    events: Sequence[Event[ContactFactT]], version: Callable[[ContactFactT], int], unit: NotificationsUnit
) -> None:
    """Save the newest contacts, and complete the letters that waited for one."""
    causes: dict[UUID, Cause] = {}
    newest: dict[UUID, Contact] = {}
    for event in events:
        fact = event.fact
        contact = Contact(fact.user_id, fact.login, fact.email, fact.first_name, version(fact))
        if fact.user_id not in newest or contact.version > newest[fact.user_id].version:
            newest[fact.user_id] = contact
            causes[fact.user_id] = event
    await unit.store.save_contacts(list(newest.values()))
    known = await unit.store.contacts(newest)
    completed = [complete(letter, known[letter.user_id]) for letter in await unit.store.unaddressed(known)]
    await unit.store.address(completed)
    for letter in completed:
        unit.publish(_stored(letter), cause=causes[letter.user_id])


async def _write(
    events: Sequence[Event[FactT]], occasion_of: Callable[[Event[FactT]], Occasion], unit: NotificationsUnit
) -> None:
    """Write one letter for each occasion that has none, and state each that is new."""
    occasions = [occasion_of(event) for event in events]
    contacts: Mapping[UUID, Contact] = await unit.store.contacts_to_write_to(
        {occasion.user_id for occasion in occasions}
    )
    letters = [compose(uuid7(), occasion, contacts.get(occasion.user_id), unit.now) for occasion in occasions]
    new = await unit.store.add(letters)
    for letter, event in zip(letters, events, strict=True):
        if letter.id in new:
            unit.publish(_stored(letter), cause=event)


def _about_order(
    kind: LetterKind, fact: OrderConfirmed | OrderRejected | OrderCancelled, *, reason: str | None = None
) -> Occasion:
    return Occasion(
        kind=kind,
        cause=cause_of_order_letter(fact.order_id, kind),
        user_id=fact.user_id,
        order_id=fact.order_id,
        amount=format_minor(fact.price),
        about=fact.description,
        reason=reason,
    )


def _stored(letter: Letter) -> facts.LetterStored:
    return facts.LetterStored(
        letter_id=letter.id,
        user_id=letter.user_id,
        order_id=letter.order_id,
        kind=facts.LetterKind(letter.kind.value),
        recipient=letter.recipient,
    )
