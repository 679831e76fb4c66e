"""What auth needs from the outside."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Protocol, TypeAlias
from uuid import UUID

from auth.domain import User
from libs.messaging.unit import Unit


class Users(Protocol):
    """Credentials, within one transaction."""

    async def add(self, users: Sequence[User], *, due_at: datetime) -> Collection[UUID]:
        """Save users whose login is free; return the ids of those saved. The account is overdue at `due_at`."""
        ...

    async def open_accounts(self, accounts: Mapping[UUID, UUID]) -> None:
        """Note the account of each user; what was kept for a restatement is dropped."""
        ...

    async def overdue(self, by: datetime, *, limit: int) -> Sequence[User]:
        """Lock users whose account was due by then, the longest overdue first; skips those another replica holds."""
        ...

    async def put_off(self, user_id: UUID, *, due_at: datetime) -> None:
        """Note that the registration was stated again."""
        ...

    async def find_all(self, user_ids: Collection[UUID]) -> Mapping[UUID, User]:
        """Read users; return those there are."""
        ...

    async def by_login(self, login: str) -> User | None:
        """Read a user by login."""
        ...


AuthUnit: TypeAlias = Unit[Users]
