"""Money: decimal strings and JSON numbers are units, Python's integers are minor units."""

import json
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, TypeAdapter, ValidationError

from libs.money import LARGEST_MINOR, Amount, Money, SignedMoney, format_minor, parse_minor

money: TypeAdapter[int] = TypeAdapter(Money)
amount: TypeAdapter[int] = TypeAdapter(Amount)
READERS = pytest.mark.parametrize("reader", [money, amount], ids=["money", "amount"])


@pytest.mark.parametrize(
    ("text", "minor"),
    [
        ("150", 15_000),
        ("150.5", 15_050),
        ("150.50", 15_050),
        ("150.05", 15_005),
        ("0.01", 1),
        ("0.1", 10),
        ("007.00", 700),
        ("1000000000.00", LARGEST_MINOR),
    ],
)
@READERS
def test_a_decimal_is_read_exactly(reader: TypeAdapter[int], text: str, minor: int) -> None:
    assert parse_minor(text) == minor
    assert reader.validate_json(f'"{text}"') == minor
    assert reader.validate_python(text) == minor


@pytest.mark.parametrize(
    ("number", "minor"),
    [
        ("150", 15_000),
        ("150.0", 15_000),
        ("150.5", 15_050),
        ("150.50", 15_050),
        ("0.29", 29),
        ("0.07", 7),
        ("1.15", 115),
        ("1.5e2", 15_000),
        ("999999999.99", LARGEST_MINOR - 1),
        ("1000000000", LARGEST_MINOR),
    ],
)
@READERS
def test_a_number_in_json_is_units_and_read_exactly(reader: TypeAdapter[int], number: str, minor: int) -> None:
    assert reader.validate_json(number) == minor


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", "abc", "1e3", "1E3", "1e-2", "0x10", "1_000", "1,000.00", "1,50", "--1"),
        *("+1", "-1", "-0.01", "-0", " 1", "1 ", "1\n", "\t1", "1 .00", "1.\n"),
        *(".5", "1.", ".", "1.000", "1.001", "0.001", "1.0.0"),
        *("NaN", "nan", "Infinity", "inf", "-Infinity", "null", "true"),
        *("١٥٠", "150.٥٠", "１５０", "²", "1.5²", "12345678901234567", "9" * 400),  # noqa: RUF001 - digits, but not ours
    ],
)
@READERS
def test_anything_else_in_a_string_is_refused(reader: TypeAdapter[int], text: str) -> None:
    with pytest.raises(ValueError, match="decimal"):
        parse_minor(text)
    with pytest.raises(ValidationError):
        reader.validate_json(json.dumps(text))
    with pytest.raises(ValidationError):
        reader.validate_python(text)


@pytest.mark.parametrize(
    "value",
    [
        *("true", "false", "null", "[]", "[150]", "{}", '{"amount": 150}'),
        *("-1", "-0.01", "-150.00", "0.001", "1.005", "0.30000000000000004", "1e-3", "1e-9"),
        *("1e16", "1e22", "1e308", "1e400", "1" + "0" * 30, "NaN", "Infinity", "-Infinity"),
    ],
)
@READERS
def test_anything_else_in_json_is_refused(reader: TypeAdapter[int], value: str) -> None:
    with pytest.raises(ValidationError):
        reader.validate_json(value)


@pytest.mark.parametrize("value", [True, False, None, [150], Decimal("1.50"), b"1.50", float("nan"), float("inf")])
@READERS
def test_anything_else_in_python_is_refused(reader: TypeAdapter[int], value: Any) -> None:
    with pytest.raises(ValidationError):
        reader.validate_python(value)


@pytest.mark.parametrize("value", ['"0"', '"0.00"', "0", "0.0", '"1000000000.01"', "1000000000.01", '"9999999999"'])
def test_an_amount_is_neither_nothing_nor_more_than_the_largest(value: str) -> None:
    with pytest.raises(ValidationError, match=r"must be from 0\.01 to 1000000000\.00"):
        amount.validate_json(value)


@pytest.mark.parametrize("minor", [0, -1, LARGEST_MINOR + 1])
def test_the_bounds_of_an_amount_hold_for_our_own_code(minor: int) -> None:
    with pytest.raises(ValidationError):
        amount.validate_python(minor)


def test_money_may_be_nothing_and_more_than_one_request_can_move() -> None:
    assert money.validate_json('"0.00"') == money.validate_json("0") == 0
    assert money.validate_json('"9999999999.99"') == 999_999_999_999


def test_an_integer_of_ours_is_minor_units_and_one_in_json_is_units() -> None:
    class Fact(BaseModel):
        price: Money

    fact = Fact(price=15_000)
    assert fact.price == 15_000
    assert fact.model_dump_json() == '{"price":"150.00"}'
    assert Fact.model_validate_json('{"price": 15000}').price == 1_500_000
    assert Fact.model_validate_json(fact.model_dump_json()) == fact


def test_money_below_zero_cannot_be_stated() -> None:
    with pytest.raises(ValidationError):
        money.validate_python(-1)


def test_a_change_shows_its_sign() -> None:
    class Entry(BaseModel):
        change: SignedMoney

    assert [json.loads(Entry(change=minor).model_dump_json())["change"] for minor in (-15_000, -5, 0, 5)] == [
        "-150.00",
        "-0.05",
        "0.00",
        "0.05",
    ]


@settings(deadline=None)
@given(st.integers(0, 10**18 - 1))
def test_what_is_written_is_read_again(minor: int) -> None:
    text = format_minor(minor)
    assert parse_minor(text) == minor
    assert money.validate_json(f'"{text}"') == minor
    assert money.dump_python(minor) == text


@settings(deadline=None)
@given(st.integers(-(10**18), 10**18))
def test_what_is_written_has_two_places_and_the_value(minor: int) -> None:
    text = format_minor(minor)
    assert Decimal(text) * 100 == minor
    assert len(text.rpartition(".")[2]) == 2


@settings(deadline=None)
@given(st.integers(1, LARGEST_MINOR))
def test_a_client_that_writes_a_number_means_what_it_writes(minor: int) -> None:
    assert amount.validate_json(json.dumps(minor / 100)) == minor
    assert amount.validate_json(f"{minor // 100}.{minor % 100:02}") == minor


@settings(deadline=None)
@given(st.text("0123456789.,-+ eE_\n\u0660\u00b2\uff11", max_size=12))
def test_no_text_is_read_by_accident(text: str) -> None:
    try:
        minor = parse_minor(text)
    except ValueError:
        return
    assert text.isascii()
    assert Decimal(text) * 100 == minor
