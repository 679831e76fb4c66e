"""The profiles in SQL. Works within the caller's transaction and never commits."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from typing import Any
from uuid import UUID

from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncConnection

from libs.storage.sets import insert_new, rows_among, update_all
from profiles.domain import Profile
from profiles.tables import profiles


class SqlProfiles:
    """`profiles.ports.Profiles` on SQLite or PostgreSQL."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def add(self, started: Sequence[Profile]) -> None:
        """See `Profiles`."""
        rows = [asdict(profile) for profile in sorted(started, key=lambda profile: profile.user_id)]
        await insert_new(self._connection, profiles, rows, key="user_id")

    async def lock(self, user_ids: Collection[UUID]) -> Mapping[UUID, Profile]:
        """See `Profiles`."""
        rows = await rows_among(self._connection, profiles.c.user_id, user_ids, lock=True)
        return {row.user_id: _profile(row) for row in rows}

    async def save(self, changed: Sequence[Profile]) -> None:
        """See `Profiles`."""
        rows = [
            {
                "user_id": profile.user_id,
                "email": profile.email,
                "first_name": profile.first_name,
                "last_name": profile.last_name,
                "phone": profile.phone,
                "version": profile.version,
            }
            for profile in changed
        ]
        await update_all(self._connection, profiles, rows, key="user_id")

    async def find_all(self, user_ids: Collection[UUID]) -> Mapping[UUID, Profile]:
        """See `Profiles`."""
        rows = await rows_among(self._connection, profiles.c.user_id, user_ids)
        return {row.user_id: _profile(row) for row in rows}


def _profile(row: Row[Any]) -> Profile:
    return Profile(**row._mapping)  # noqa: SLF001 - the documented way to a row's names and values
