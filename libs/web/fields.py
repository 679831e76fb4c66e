"""Field types of requests: bounded, and free of what a database or a mail header could trip over."""

import re
from dataclasses import dataclass
from typing import Annotated, Any, Final
from uuid import UUID

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    StringConstraints,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema
from pydantic_core.core_schema import no_info_after_validator_function


@dataclass(frozen=True, slots=True)
class Matches:
    """The rule of a text, as a pattern that Python and ECMAScript read alike: checked here, and told in the schema."""

    pattern: str
    otherwise: str

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Check the rule after all that stands before it."""
        return no_info_after_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Tell the rule."""
        return {**handler(schema), "pattern": f"^{self.pattern}$"}

    def _check(self, value: str) -> str:
        if not re.fullmatch(self.pattern, value):
            raise ValueError(self.otherwise)
        return value


_ONE_LINE: Final = Matches(r"[^\x00-\x1f\x7f-\x9f\u2028\u2029]*", "must be one line without control characters")
_LINES: Final = Matches(r"[^\x00-\x08\x0b-\x1f\x7f-\x9f]*", "must not contain control characters")
# One address and nothing else: what separates, quotes or comments addresses in a mail header is left out.
_PART: Final = r"[^\s\x00-\x1f\x7f-\x9f@,;:<>()\[\]\\\"{more}]+"
_ADDRESS: Final = Matches(
    "{local}@{label}([.]{label})+".format(local=_PART.format(more=""), label=_PART.format(more=".")),
    "must be one e-mail address, like ann@example.org",
)

Line = Annotated[str, StringConstraints(min_length=1, max_length=200), _ONE_LINE]
Lines = Annotated[str, StringConstraints(min_length=1, max_length=10_000), _LINES]
Email = Annotated[str, StringConstraints(min_length=3, max_length=254), _ONE_LINE, _ADDRESS]
Login = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._@+-]{1,64}$")]
Phone = Annotated[str, StringConstraints(pattern=r"^\+?[0-9 ()-]{3,32}$")]


class Request(BaseModel):
    """The content of a request. Unknown fields are refused: a misspelt one must not be lost in silence."""

    model_config = ConfigDict(extra="forbid", frozen=True)


Cursor = Annotated[
    str,
    StringConstraints(max_length=36),
    Matches("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "must be the `next` of another page"),
]


class Page(Request):
    """Which part of a list: newest first, `limit` items at most, after the place that `cursor` names."""

    limit: int = Field(20, ge=1, le=100)
    cursor: Cursor | None = Field(None, description="the `next` of the page before")


def cursor_id(cursor: str | None) -> UUID | None:
    """Read the cursor of a `Page` as the id that it is."""
    return UUID(cursor) if cursor is not None else None
