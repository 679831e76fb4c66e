"""What profiles needs from the outside."""

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol, TypeAlias
from uuid import UUID

from libs.messaging.unit import Unit
from profiles.domain import Profile


class Profiles(Protocol):
    """The profiles, within one transaction."""

    async def add(self, profiles: Sequence[Profile]) -> None:
        """Save profiles of users who have none; those who have one keep it."""
        ...

    async def lock(self, user_ids: Collection[UUID]) -> Mapping[UUID, Profile]:
        """Lock profiles, in one order for everybody, until the transaction ends; return those there are."""
        ...

    async def save(self, profiles: Sequence[Profile]) -> None:
        """Save changed profiles."""
        ...

    async def find_all(self, user_ids: Collection[UUID]) -> Mapping[UUID, Profile]:
        """Read profiles; return those there are."""
        ...


ProfilesUnit: TypeAlias = Unit[Profiles]
