"""Letters and contacts in SQL. Works within the caller's transaction and never commits."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final
from uuid import UUID

from sqlalchemy import Row, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from libs.storage.sets import among, insert_new, newest_of, rows_among, update_all
from notifications.domain import Contact, Letter, LetterKind
from notifications.tables import contacts, letters

UNKNOWN: Final = -1
"""The version of a contact that somebody waits for."""


class SqlLetters:
    """`notifications.ports.Letters` on SQLite or PostgreSQL."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def save_contacts(self, newer: Sequence[Contact]) -> None:
        """See `Letters`."""
        dialect = sqlite if self._connection.dialect.name == "sqlite" else postgresql
        insertion = dialect.insert(contacts)
        given = insertion.excluded
        statement = insertion.on_conflict_do_update(
            index_elements=[contacts.c.user_id],
            set_={
                "login": given.login,
                "email": given.email,
                "first_name": given.first_name,
                "version": given.version,
            },
            where=contacts.c.version < given.version,
        )
        rows = [
            {
                "user_id": contact.user_id,
                "login": contact.login,
                "email": contact.email,
                "first_name": contact.first_name,
                "version": contact.version,
            }
            for contact in sorted(newer, key=lambda contact: contact.user_id)
        ]
        await self._connection.execute(statement, rows)

    async def contacts(self, user_ids: Collection[UUID]) -> Mapping[UUID, Contact]:
        """See `Letters`."""
        rows = await rows_among(self._connection, contacts.c.user_id, user_ids)
        return {
            row.user_id: Contact(row.user_id, row.login, row.email, row.first_name, row.version)
            for row in rows
            if row.version != UNKNOWN
        }

    async def contacts_to_write_to(self, user_ids: Collection[UUID]) -> Mapping[UUID, Contact]:
        """See `Letters`. An unknown contact gets a row without content: it makes whoever saves the contact at the
        same time wait for this transaction, or this transaction for them. Without it neither would see the other's
        row, and the letter would stay without recipient."""
        known = await self.contacts(user_ids)
        unknown = [{"user_id": user_id, "version": UNKNOWN} for user_id in sorted(set(user_ids) - known.keys())]
        if not unknown:
            return known
        await insert_new(self._connection, contacts, unknown, key="user_id")
        waited_for = among(self._connection, contacts.c.user_id, [row["user_id"] for row in unknown])
        locked = select(contacts.c.user_id).where(waited_for).order_by(contacts.c.user_id).with_for_update()
        await self._connection.execute(locked)  # the row may be that of an earlier letter
        return await self.contacts(user_ids)

    async def add(self, written: Sequence[Letter]) -> Collection[UUID]:
        """See `Letters`."""
        rows = [
            {
                "id": letter.id,
                "user_id": letter.user_id,
                "kind": letter.kind.value,
                "cause": letter.cause,
                "order_id": letter.order_id,
                "recipient": letter.recipient,
                "subject": letter.subject,
                "body": letter.body,
                "created_at": letter.created_at,
            }
            for letter in sorted(written, key=lambda letter: letter.cause)
        ]
        return await insert_new(self._connection, letters, rows, key="id")

    async def unaddressed(self, user_ids: Collection[UUID]) -> Sequence[Letter]:
        """See `Letters`."""
        lacking = among(self._connection, letters.c.user_id, user_ids) & letters.c.recipient.is_(None)
        query = select(letters).where(lacking).order_by(letters.c.id).with_for_update()
        return [_letter(row) for row in await self._connection.execute(query)]

    async def address(self, completed: Sequence[Letter]) -> None:
        """See `Letters`."""
        rows = [{"id": letter.id, "recipient": letter.recipient, "body": letter.body} for letter in completed]
        await update_all(self._connection, letters, rows, key="id")

    async def page(self, owner: UUID, *, order_id: UUID | None, before: UUID | None, limit: int) -> Sequence[Letter]:
        """See `Letters`."""
        also = {} if order_id is None else {letters.c.order_id: order_id}
        rows = await newest_of(self._connection, letters.c.user_id, owner, before=before, limit=limit, also=also)
        return [_letter(row) for row in rows]


def _letter(row: Row[Any]) -> Letter:
    return Letter(
        id=row.id,
        user_id=row.user_id,
        kind=LetterKind(row.kind),
        cause=row.cause,
        order_id=row.order_id,
        recipient=row.recipient,
        subject=row.subject,
        body=row.body,
        created_at=row.created_at,
    )
