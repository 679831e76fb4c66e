"""What profiles states."""

from typing import ClassVar
from uuid import UUID

from libs.contracts.fact import Fact


class ProfileChanged(Fact):
    """A profile has a new content. Of two facts about one user the higher `version` is the newer."""

    type: ClassVar[str] = "profiles.profile.changed"

    user_id: UUID
    login: str
    email: str
    first_name: str | None = None
    last_name: str | None = None
    phone: str | None = None
    version: int
