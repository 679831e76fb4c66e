"""What notifications states."""

from enum import StrEnum
from typing import ClassVar
from uuid import UUID

from pydantic import Field

from libs.contracts.fact import Fact


class LetterKind(StrEnum):
    """What a letter tells."""

    JOY = "joy"
    SORROW = "sorrow"
    CANCELLED = "cancelled"
    DEPOSIT = "deposit"
    NOTE = "note"


class LetterStored(Fact):
    """A letter was written: about its order, or else about its user. `recipient` is absent while it is unknown."""

    type: ClassVar[str] = "notifications.letter.stored"
    keyed_by: ClassVar[tuple[str, ...]] = ("order_id", "user_id")

    letter_id: UUID
    user_id: UUID
    order_id: UUID | None = None
    kind: LetterKind
    recipient: str | None = Field(None, examples=["ann@example.org"])
