"""Money: a decimal string with two places on the wire, an integer of minor units everywhere inside."""

import re
from typing import Annotated, Any, Final

from pydantic import BeforeValidator, PlainSerializer, ValidationInfo, WithJsonSchema

LARGEST_MINOR: Final = 100_000_000_000
"""1,000,000,000.00 in minor units: the largest amount one request or one fact may carry."""

_DECIMAL: Final = re.compile(r"([0-9]{1,16})(?:\.([0-9]{1,2}))?")
_PATTERN: Final = r"^[0-9]+\.[0-9]{2}$"


def parse_minor(text: str) -> int:
    """Read ``"150"``, ``"150.5"`` or ``"150.00"`` as minor units. Raises ValueError on anything else."""
    match = _DECIMAL.fullmatch(text)
    if match is None:
        raise ValueError('must be a decimal with at most two places, like "150.00"')
    return int(match[1]) * 100 + int((match[2] or "").ljust(2, "0"))


def format_minor(amount_minor: int) -> str:
    """Write minor units as a decimal string with two places: ``15000`` as ``"150.00"``, ``-5`` as ``"-0.05"``."""
    units, minor = divmod(abs(amount_minor), 100)
    return f"{'-' if amount_minor < 0 else ''}{units}.{minor:02}"


def _read(value: Any, info: ValidationInfo) -> int:
    # Our own code says minor units, as an int; JSON says units, as a string or a number.
    if info.mode == "python" and type(value) is int:
        if value < 0:
            raise ValueError("must not be below zero")
        return value
    # repr() of a float is the shortest decimal that reads back as it, so what a client wrote with up to
    # 15 digits comes back digit for digit.
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError('must be a decimal string like "150.00" or a number')  # noqa: TRY004 - pydantic reports ValueErrors
    return parse_minor(value if isinstance(value, str) else repr(value).removesuffix(".0"))


def _read_amount(value: Any, info: ValidationInfo) -> int:
    amount_minor = _read(value, info)
    if not 1 <= amount_minor <= LARGEST_MINOR:
        raise ValueError("must be from 0.01 to 1000000000.00")
    return amount_minor


_to_wire = PlainSerializer(format_minor, return_type=str)

Money = Annotated[
    int,
    BeforeValidator(_read),
    _to_wire,
    WithJsonSchema({"type": "string", "pattern": _PATTERN, "examples": ["150.00"]}),
]
"""Zero or more, as facts and answers carry it."""

Amount = Annotated[
    int,
    BeforeValidator(_read_amount),
    _to_wire,
    WithJsonSchema(
        {
            "anyOf": [
                {
                    "type": "string",
                    "pattern": r"^(?!0+(\.0{1,2})?$)(0{0,7}[0-9]{1,9}(\.[0-9]{1,2})?|0{0,6}1000000000(\.0{1,2})?)$",
                    "examples": ["150.00"],
                },
                {"type": "number", "minimum": 0.01, "maximum": 1_000_000_000},
            ],
            "description": "From 0.01 to 1000000000.00, at most two decimal places.",
        }
    ),
]
"""What a request may ask to move: from 0.01 to 1,000,000,000.00."""

SignedMoney = Annotated[
    int,
    _to_wire,
    WithJsonSchema({"type": "string", "pattern": r"^-?[0-9]+\.[0-9]{2}$", "examples": ["-150.00"]}),
]
"""A change of a balance, as a statement shows it; written, never read."""
