"""What notifications states."""

from enum import StrEnum
from typing import ClassVar
from uuid import UUID

from libs.contracts.fact import Fact


class LetterKind(StrEnum):
    """What a letter tells."""

    JOY = "joy"
    SORROW = "sorrow"
    CANCELLED = "cancelled"
    DEPOSIT = "deposit"
    NOTE = "note"


class LetterStored(Fact):
    """A letter was written. `recipient` is absent while the address is unknown."""

    type: ClassVar[str] = "notifications.letter.stored"

    letter_id: UUID
    user_id: UUID
    order_id: UUID | None = None
    kind: LetterKind
    recipient: str | None = None

    @property
    def key(self) -> UUID:
        """The order, when the letter belongs to one; otherwise the user."""
        return self.order_id or self.user_id
