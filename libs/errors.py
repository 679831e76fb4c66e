"""Errors that carry a slug and a kind. One function maps them to HTTP (`libs.web.problems`), one to
acknowledgements (`libs.messaging.consumer`)."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """What a caller can do about it."""

    MALFORMED = "malformed"  # not what the contract says: mend the request
    INVALID = "invalid"  # understood, but a field breaks its rule: mend the field
    UNAUTHENTICATED = "unauthenticated"
    FORBIDDEN = "forbidden"
    NOT_FOUND = "not_found"
    NOT_ALLOWED = "not_allowed"  # the resource exists, the method does not
    CONFLICT = "conflict"  # the state says no
    TOO_LARGE = "too_large"
    TOO_SLOW = "too_slow"  # the request did not arrive in time
    UNAVAILABLE = "unavailable"  # nothing is wrong with the request: try again later


@dataclass(frozen=True, slots=True)
class FieldError:
    """What is wrong with one field; `field` is its path in the request, like ``price`` or ``items.0.sku``."""

    field: str
    detail: str


class Refusal(Exception):
    """A request or a message that was not carried out, and changed nothing."""

    def __init__(self, slug: str, detail: str, kind: Kind, fields: Sequence[FieldError] = ()) -> None:
        super().__init__(f"{slug}: {detail}")
        self.slug = slug
        self.detail = detail
        self.kind = kind
        self.fields = tuple(fields)
        self.replayed = False

    def again(self) -> "Refusal":
        """The same refusal, as the recorded answer to a request that was sent again."""
        refusal = Refusal(self.slug, self.detail, self.kind, self.fields)
        refusal.replayed = True
        return refusal

    @property
    def transient(self) -> bool:
        """Whether the same thing may succeed when tried again, unchanged."""
        return self.kind is Kind.UNAVAILABLE


def unavailable(what: str) -> Refusal:
    """Make the refusal of work whose dependency `what` is away."""
    return Refusal("unavailable", f"{what} is not available right now; try again shortly", Kind.UNAVAILABLE)


def overloaded() -> Refusal:
    """Make the refusal of work that would wait behind too much other work."""
    return Refusal("overloaded", "too many requests are waiting; try again shortly", Kind.UNAVAILABLE)


def not_found(what: str) -> Refusal:
    """Make the refusal for a resource that is not there, or not the caller's."""
    return Refusal(f"no_such_{what}", f"there is no such {what}", Kind.NOT_FOUND)


def invalid_field(field: str, detail: str) -> Refusal:
    """Make the refusal of a request of which one field breaks its rule."""
    return Refusal("invalid_request", f"{field}: {detail}", Kind.INVALID, [FieldError(field, detail)])
