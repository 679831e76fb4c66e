"""What auth states."""

from typing import ClassVar
from uuid import UUID

from pydantic import Field

from libs.contracts.fact import Fact


class UserRegistered(Fact):
    """Somebody registered. The contact data is version 0 of what `profiles` keeps from here on."""

    type: ClassVar[str] = "auth.user.registered"

    user_id: UUID
    login: str = Field(examples=["ann"])
    email: str = Field(examples=["ann@example.org"])
    first_name: str | None = Field(None, examples=["Ann"])
    last_name: str | None = Field(None, examples=["Miller"])
    phone: str | None = Field(None, examples=["+49 30 1234567"])
