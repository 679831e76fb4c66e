"""Field types of requests: bounded, and free of what a database or a mail header could trip over."""

import re
from typing import Annotated, Any, Final
from uuid import UUID

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

from libs.errors import Refusal, invalid_field

_CONTROLS: Final = r"\u0000-\u001f\u007f-\u009f\u2028\u2029"
_CONTROLS_BUT_BREAKS: Final = r"\u0000-\u0008\u000b-\u001f\u007f-\u009f"
# One address and nothing else: what separates, quotes or comments addresses in a mail header is left out.
_APART: Final = rf'\s@,;:<>()\[\]\\"{_CONTROLS}'
_ONE_ADDRESS: Final = rf"[^{_APART}]+@[^{_APART}.]+(\.[^{_APART}.]+)+"

_CONTROL: Final = re.compile(f"[{_CONTROLS}]")
_CONTROL_BUT_BREAKS: Final = re.compile(f"[{_CONTROLS_BUT_BREAKS}]")
_ADDRESS: Final = re.compile(_ONE_ADDRESS)


def _one_line(value: str) -> str:
    if _CONTROL.search(value):
        raise ValueError("must be one line without control characters")
    return value


def _lines(value: str) -> str:
    if _CONTROL_BUT_BREAKS.search(value):
        raise ValueError("must not contain control characters")
    return value


def _address(value: str) -> str:
    if not _ADDRESS.fullmatch(value):
        raise ValueError("must be one e-mail address, like ann@example.org")
    return value


def _described(pattern: str) -> Any:
    """Say in the schema what a validator checks, which answers with a better sentence than a pattern."""
    return Field(json_schema_extra={"pattern": f"^{pattern}$"})


Line = Annotated[
    str, StringConstraints(min_length=1, max_length=200), AfterValidator(_one_line), _described(f"[^{_CONTROLS}]*")
]
Lines = Annotated[
    str,
    StringConstraints(min_length=1, max_length=10_000),
    AfterValidator(_lines),
    _described(f"[^{_CONTROLS_BUT_BREAKS}]*"),
]
Email = Annotated[
    str,
    StringConstraints(min_length=3, max_length=254),
    AfterValidator(_one_line),
    AfterValidator(_address),
    _described(_ONE_ADDRESS),
]
Login = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._@+-]{1,64}$")]
Phone = Annotated[str, StringConstraints(pattern=r"^\+?[0-9 ()-]{3,32}$")]


class Request(BaseModel):
    """The content of a request. Unknown fields are refused: a misspelt one must not be lost in silence."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Page(Request):
    """Which part of a list: newest first, `limit` items at most, after the place that `cursor` names."""

    limit: int = Field(20, ge=1, le=100)
    cursor: str | None = Field(None, max_length=100, description="the `next` of the page before")


def invalid_cursor() -> Refusal:
    """Make the refusal of a cursor that no list has handed out."""
    return invalid_field("cursor", "must be the `next` of another page")


def cursor_id(cursor: str | None) -> UUID | None:
    """Read a cursor that is an id. Raises `Refusal` when it is none."""
    try:
        return UUID(cursor) if cursor is not None else None
    except ValueError:
        raise invalid_cursor() from None
