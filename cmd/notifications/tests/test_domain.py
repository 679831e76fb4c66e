"""What letters say."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from libs.contracts import notifications as facts
from libs.contracts.billing import DeclineReason
from libs.ids import uuid7
from notifications.domain import Contact, Letter, LetterKind, Occasion, cause_of_order_letter, complete, compose

NOW = datetime(2026, 1, 1, tzinfo=UTC)
USER, ORDER = uuid7(), uuid7()
ANN = Contact(USER, "ann", "ann@example.org", "Ann", 0)


def letter_of(kind: LetterKind, contact: Contact | None = ANN, **details: str) -> Letter:
    return compose(uuid7(), Occasion(kind, "why", USER, ORDER, "150.00", **details), contact, NOW)


def test_a_letter_goes_to_its_contact_and_keeps_what_it_is_about() -> None:
    letter_id = uuid7()
    letter = compose(letter_id, Occasion(LetterKind.JOY, "why", USER, ORDER, "150.00"), ANN, NOW)
    assert (letter.id, letter.user_id, letter.order_id, letter.created_at) == (letter_id, USER, ORDER, NOW)
    assert (letter.kind, letter.cause, letter.recipient) == (LetterKind.JOY, "why", "ann@example.org")


@pytest.mark.parametrize(
    ("contact", "greeting"),
    [
        (ANN, "Dear Ann,"),
        (Contact(USER, "ann", "ann@example.org", None, 0), "Dear ann,"),
        (None, "Hello,"),
    ],
    ids=["by first name", "by login", "unknown"],
)
def test_a_letter_greets_as_well_as_it_can(contact: Contact | None, greeting: str) -> None:
    letter = letter_of(LetterKind.JOY, contact)
    assert letter.body.startswith(f"{greeting}\n\n")
    assert letter.recipient == (contact.email if contact else None)


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        (LetterKind.JOY, "confirm your order of a lamp for 150.00"),
        (LetterKind.SORROW, "sorry: your order of a lamp for 150.00 was rejected"),
        (LetterKind.CANCELLED, "your order of a lamp for 150.00 is cancelled"),
        (LetterKind.DEPOSIT, "deposit of 150.00"),
    ],
)
def test_every_kind_of_letter_names_the_amount(kind: LetterKind, says: str) -> None:
    assert says in letter_of(kind, about="a lamp").body


def test_every_kind_has_a_subject_of_its_own() -> None:
    kinds = [kind for kind in LetterKind if kind is not LetterKind.NOTE]
    assert len({letter_of(kind).subject for kind in kinds}) == len(kinds)


def test_an_order_without_description_is_just_an_order() -> None:
    assert "your order for 150.00." in letter_of(LetterKind.JOY).body


def test_every_reason_to_decline_has_words_of_its_own() -> None:
    bodies = {letter_of(LetterKind.SORROW, reason=reason.value).body for reason in DeclineReason}
    unknown = letter_of(LetterKind.SORROW, reason="something new").body
    assert len(bodies | {unknown}) == len(DeclineReason) + 1
    assert not any(reason.value in body for reason in DeclineReason for body in bodies)


def test_a_letter_that_is_completed_is_the_one_that_would_have_been_written() -> None:
    occasion = Occasion(LetterKind.JOY, "why", USER, ORDER, "150.00", about="Hello, world")
    nameless, known = (compose(ORDER, occasion, contact, NOW) for contact in (None, ANN))
    assert complete(nameless, ANN) == known


def test_a_note_that_is_completed_says_what_its_author_wrote() -> None:
    note = Letter(uuid7(), USER, LetterKind.NOTE, "why", None, None, "Hello,", "Hello, it is me.", NOW)
    assert complete(note, ANN) == replace(note, recipient="ann@example.org")


def test_a_note_is_not_composed() -> None:
    with pytest.raises(ValueError, match="its author"):
        letter_of(LetterKind.NOTE)


def test_an_order_has_one_cause_for_each_kind() -> None:
    orders = [uuid7(), uuid7()]
    causes = {cause_of_order_letter(order, kind) for order in orders for kind in LetterKind}
    assert len(causes) == len(orders) * len(LetterKind)
    assert max(map(len, causes)) <= 80


def test_every_kind_can_be_stated() -> None:
    assert {kind.value for kind in LetterKind} == {kind.value for kind in facts.LetterKind}
