"""What a letter says. Pure: values in, values out."""

from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from uuid import UUID


class LetterKind(StrEnum):
    """What a letter tells."""

    JOY = "joy"
    SORROW = "sorrow"
    CANCELLED = "cancelled"
    DEPOSIT = "deposit"
    NOTE = "note"


@dataclass(frozen=True, slots=True)
class Contact:
    """How to address a user. Of two contacts of one user the higher `version` is the newer."""

    user_id: UUID
    login: str
    email: str
    first_name: str | None
    version: int

    @property
    def name(self) -> str:
        """What to call them."""
        return self.first_name or self.login


@dataclass(frozen=True, slots=True)
class Letter:
    """A letter. `cause` is what it follows from: there is one letter for each cause, ever.

    `recipient` is None while the address is unknown.
    """

    id: UUID
    user_id: UUID
    kind: LetterKind
    cause: str
    order_id: UUID | None
    recipient: str | None
    subject: str
    body: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Occasion:
    """What there is to write about."""

    kind: LetterKind
    cause: str
    user_id: UUID
    order_id: UUID | None
    amount: str
    about: str | None = None
    reason: str | None = None


_NAMELESS = "Hello,"

_REASONS = {
    "insufficient_funds": "there is not enough money on your account",
    "account_not_open": "your account is not open yet",
    "order_cancelled": "it was cancelled",
}


def cause_of_order_letter(order_id: UUID, kind: LetterKind) -> str:
    """Name the cause of a letter about an order: each order has one letter of each kind at most."""
    return f"order:{order_id}:{kind.value}"


def compose(letter_id: UUID, occasion: Occasion, contact: Contact | None, at: datetime) -> Letter:
    """Write the letter for an occasion."""
    subject, text = _text(occasion)
    return Letter(
        id=letter_id,
        user_id=occasion.user_id,
        kind=occasion.kind,
        cause=occasion.cause,
        order_id=occasion.order_id,
        recipient=contact.email if contact else None,
        subject=subject,
        body=f"{f'Dear {contact.name},' if contact else _NAMELESS}\n\n{text}\n\nOrderly",
        created_at=at,
    )


def complete(letter: Letter, contact: Contact) -> Letter:
    """Address a letter that was written before anybody knew how to."""
    body = letter.body
    if letter.kind is not LetterKind.NOTE:
        body = body.replace(_NAMELESS, f"Dear {contact.name},", 1)
    return replace(letter, recipient=contact.email, body=body)


def _text(occasion: Occasion) -> tuple[str, str]:
    order = f"your order{f' of {occasion.about}' if occasion.about else ''} for {occasion.amount}"
    match occasion.kind:
        case LetterKind.JOY:
            return (
                "Your order is confirmed",
                f"We are happy to confirm {order}. It is paid for and on its way.",
            )
        case LetterKind.SORROW:
            why = _REASONS.get(occasion.reason or "", "it could not be paid for")
            return "We could not take your order", f"We are sorry: {order} was rejected, because {why}."
        case LetterKind.CANCELLED:
            return (
                "Your order is cancelled",
                f"As you wished, {order} is cancelled. What you paid for it comes back.",
            )
        case LetterKind.DEPOSIT:
            return "Your deposit has arrived", f"Your deposit of {occasion.amount} is on your account."
        case LetterKind.NOTE:
            raise ValueError("a note says what its author wrote")
