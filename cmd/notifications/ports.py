"""What notifications needs from the outside."""

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol, TypeAlias
from uuid import UUID

from libs.messaging.unit import Unit
from notifications.domain import Contact, Letter


class Letters(Protocol):
    """The letters and the contacts, within one transaction."""

    async def save_contacts(self, contacts: Sequence[Contact]) -> None:
        """Save contacts; one that is not newer than what is there changes nothing."""
        ...

    async def contacts(self, user_ids: Collection[UUID]) -> Mapping[UUID, Contact]:
        """Read contacts."""
        ...

    async def contacts_to_write_to(self, user_ids: Collection[UUID]) -> Mapping[UUID, Contact]:
        """Read contacts, so that whoever learns one of the others meanwhile finds the letters written by now."""
        ...

    async def add(self, letters: Sequence[Letter]) -> Collection[UUID]:
        """Save letters whose cause has none yet; return the ids of those saved."""
        ...

    async def unaddressed(self, user_ids: Collection[UUID]) -> Sequence[Letter]:
        """Lock the letters of these users that lack a recipient, oldest first; return them."""
        ...

    async def address(self, letters: Sequence[Letter]) -> None:
        """Save recipients and bodies of letters that have got a recipient."""
        ...

    async def page(self, owner: UUID, *, order_id: UUID | None, before: UUID | None, limit: int) -> Sequence[Letter]:
        """Read letters of `owner`, newest first, those older than the letter `before`."""
        ...


NotificationsUnit: TypeAlias = Unit[Letters]
