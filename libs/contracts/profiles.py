"""What profiles states."""

from typing import ClassVar
from uuid import UUID

from pydantic import Field

from libs.contracts.fact import Fact


class ProfileChanged(Fact):
    """A profile has a new content. Of two facts about one user the higher `version` is the newer."""

    type: ClassVar[str] = "profiles.profile.changed"

    user_id: UUID
    login: str = Field(examples=["ann"])
    email: str = Field(examples=["ann@example.org"])
    first_name: str | None = Field(None, examples=["Ann"])
    last_name: str | None = Field(None, examples=["Miller"])
    phone: str | None = Field(None, examples=["+49 30 1234567"])
    version: int
