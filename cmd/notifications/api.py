"""What notifications answers over HTTP, about the caller's own letters."""

from datetime import datetime
from typing import TypeAlias
from uuid import UUID

from pydantic import BaseModel, Field

from libs.ids import uuid7
from libs.web.fields import Line, Lines, Page, Request, cursor_id
from libs.web.routes import Answer, Call, Edge, Route
from notifications import domain
from notifications.domain import LetterKind
from notifications.handlers import Note, write_notes
from notifications.ports import Letters

NotificationsEdge: TypeAlias = Edge[Letters]


class WriteNote(Request):
    """A letter to oneself."""

    subject: Line
    body: Lines


class LettersPage(Page):
    """Which letters, and which part of their list."""

    order_id: UUID | None = Field(None, description="only letters about this order")


class Letter(BaseModel):
    """A letter. `recipient` is null while the address is unknown."""

    id: UUID
    kind: LetterKind
    order_id: UUID | None
    recipient: str | None
    subject: str
    body: str
    created_at: datetime

    @classmethod
    def of(cls, letter: domain.Letter) -> "Letter":
        """Show a letter."""
        return cls(
            id=letter.id,
            kind=letter.kind,
            order_id=letter.order_id,
            recipient=letter.recipient,
            subject=letter.subject,
            body=letter.body,
            created_at=letter.created_at,
        )


class LetterList(BaseModel):
    """A page of letters, newest first."""

    items: list[Letter]
    next: str | None


async def list_letters(call: Call[LettersPage], edge: NotificationsEdge) -> Answer:
    """List the caller's letters."""
    limit = call.input.limit
    async with edge.read() as letters:
        found = await letters.page(
            call.caller.user_id,
            order_id=call.input.order_id,
            before=cursor_id(call.input.cursor),
            limit=limit + 1,
        )
    shown = found[:limit]
    more = str(shown[-1].id) if len(found) > limit else None
    return Answer(200, LetterList(items=[Letter.of(letter) for letter in shown], next=more))


async def write_note(call: Call[WriteNote], edge: NotificationsEdge) -> Answer:
    """Write a letter to the caller's own address."""
    wanted = Note(uuid7(), call.caller.user_id, call.input.subject, call.input.body)
    return Answer(201, Letter.of(await edge.execute(write_notes, call, wanted, returns=domain.Letter)))


ROUTES = (
    Route("GET", "/notifications", list_letters, {200: LetterList}, query=LettersPage),
    Route("POST", "/notifications", write_note, {201: Letter}, body=WriteNote),
)
