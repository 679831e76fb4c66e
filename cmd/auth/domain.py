"""Who registered, and whether everything that follows from it has followed."""

from dataclasses import dataclass
from uuid import UUID


@dataclass(frozen=True, slots=True)
class User:
    """Somebody who can log in. `account_id` is None until billing has opened the account.

    `registration` is the fact that was stated, as JSON: kept to state it again, and dropped once it is answered.
    """

    id: UUID
    login: str
    password_hash: str
    registration: str | None
    traceparent: str
    account_id: UUID | None = None
    restated: int = 0
