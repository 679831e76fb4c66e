"""What auth states."""

from typing import ClassVar
from uuid import UUID

from libs.contracts.fact import Fact


class UserRegistered(Fact):
    """Somebody registered. The contact data is version 0 of what `profiles` keeps from here on."""

    type: ClassVar[str] = "auth.user.registered"

    user_id: UUID
    login: str
    email: str
    first_name: str | None = None
    last_name: str | None = None
    phone: str | None = None
