"""Credentials in SQL. Works within the caller's transaction and never commits."""

from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Row, bindparam, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from auth.domain import User
from auth.tables import users
from libs.storage.sets import insert_new, rows_among


class SqlUsers:
    """`auth.ports.Users` on SQLite or PostgreSQL."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def add(self, registered: Sequence[User], *, due_at: datetime) -> Collection[UUID]:
        """See `Users`."""
        now = datetime.now(UTC)
        rows = [
            {
                "id": user.id,
                "login": user.login,
                "password_hash": user.password_hash,
                "account_id": user.account_id,
                "registration": user.registration,
                "traceparent": user.traceparent,
                "due_at": due_at,
                "restated": user.restated,
                "created_at": now,
            }
            for user in sorted(registered, key=lambda user: user.login)
        ]
        return await insert_new(self._connection, users, rows, key="id")

    async def open_accounts(self, accounts: Mapping[UUID, UUID]) -> None:
        """See `Users`."""
        statement = (
            update(users)
            .where(users.c.id == bindparam("user"), users.c.account_id.is_(None))
            .values(account_id=bindparam("account"), registration=None, due_at=None)
        )
        rows = [{"user": user_id, "account": account_id} for user_id, account_id in sorted(accounts.items())]
        await self._connection.execute(statement, rows)

    async def overdue(self, by: datetime, *, limit: int) -> Sequence[User]:
        """See `Users`."""
        query = (
            select(users)
            .where(users.c.due_at <= by)
            .order_by(users.c.due_at)
            .limit(limit)
            .with_for_update(skip_locked=True)
        )
        return [_user(row) for row in await self._connection.execute(query)]

    async def put_off(self, user_id: UUID, *, due_at: datetime) -> None:
        """See `Users`."""
        statement = update(users).where(users.c.id == user_id).values(due_at=due_at, restated=users.c.restated + 1)
        await self._connection.execute(statement)

    async def find_all(self, user_ids: Collection[UUID]) -> Mapping[UUID, User]:
        """See `Users`."""
        return {row.id: _user(row) for row in await rows_among(self._connection, users.c.id, user_ids)}

    async def by_login(self, login: str) -> User | None:
        """See `Users`."""
        row = (await self._connection.execute(select(users).where(users.c.login == login))).one_or_none()
        return _user(row) if row else None


def _user(row: Row[Any]) -> User:
    return User(
        id=row.id,
        login=row.login,
        password_hash=row.password_hash,
        registration=row.registration,
        traceparent=row.traceparent,
        account_id=row.account_id,
        restated=row.restated,
    )
