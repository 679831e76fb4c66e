"""Field types of requests: what they let through, and what never reaches a database or a mail header."""

import re
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from libs.ids import uuid7
from libs.web.fields import Email, Line, Lines, Login, Page, Phone, Request, cursor_id
from libs.web.problems import invalid_request

FIELDS: dict[str, TypeAdapter[str]] = {
    "line": TypeAdapter(Line),
    "lines": TypeAdapter(Lines),
    "email": TypeAdapter(Email),
    "login": TypeAdapter(Login),
    "phone": TypeAdapter(Phone),
}
GOOD = {
    "line": "Jörg O'Neill 🙂",
    "lines": "first\n\tsecond",
    "email": "ann+lee@mail.example.org",
    "login": "ann.lee+1@x_Y-9",
    "phone": "+49 (0) 151-123",
}
SOME_ID = str(uuid7())
CONTROLS = [*range(0x20), *range(0x7F, 0xA0), 0x2028, 0x2029]


def takes(field: str, value: Any) -> bool:
    try:
        FIELDS[field].validate_python(value)
    except ValidationError:
        return False
    return True


@pytest.mark.parametrize("field", FIELDS)
def test_what_people_write_is_taken_as_it_is(field: str) -> None:
    assert FIELDS[field].validate_python(GOOD[field]) == GOOD[field]


@pytest.mark.parametrize("field", [field for field in FIELDS if field != "lines"])
@pytest.mark.parametrize("place", ["before", "within", "after"])
def test_control_characters_and_line_breaks_are_refused(field: str, place: str) -> None:
    good = GOOD[field]
    for code in CONTROLS:
        bad = {"before": chr(code) + good, "within": good[:3] + chr(code) + good[3:], "after": good + chr(code)}[place]
        assert not takes(field, bad), f"{code:#x}"


def test_several_lines_may_contain_breaks_and_tabs_and_no_other_control_character() -> None:
    allowed = {code for code in CONTROLS if takes("lines", f"a{chr(code)}b")}
    assert allowed == {ord("\n"), ord("\t"), 0x2028, 0x2029}


@pytest.mark.parametrize("field", FIELDS)
def test_the_schema_says_what_is_let_through(field: str) -> None:
    pattern = re.compile(FIELDS[field].json_schema()["pattern"])
    good = GOOD[field]
    for code in {*range(0x300), *CONTROLS, 0x3000, 0x1F642}:
        for text in (good[:3] + chr(code) + good[3:], good + chr(code) + good):
            said = pattern.fullmatch(text) is not None
            assert said == takes(field, text), f"{code:#x}"


@pytest.mark.parametrize(
    ("field", "shortest", "longest"),
    [
        ("line", "a", "a" * 200),
        ("lines", "a", "ä" * 10_000),
        ("email", "a@b.c", "a" * 242 + "@example.org"),
        ("login", "a", "a" * 64),
        ("phone", "110", "1" * 32),
    ],
)
def test_lengths_are_bounded(field: str, shortest: str, longest: str) -> None:
    assert takes(field, shortest)
    assert takes(field, longest)
    assert not takes(field, shortest[:-1])
    assert not takes(field, longest[0] + longest)


@pytest.mark.parametrize(
    "address",
    [
        *("", "ann", "ann@", "@example.org", "ann@example", "ann@.org", "ann@example.", "ann@."),
        *("ann lee@example.org", "ann@exa mple.org", " ann@example.org", "ann@example.org ", "ann\u00a0@example.org"),
        "ann@example.org\r\nBcc: bob@example.org",
    ],
)
def test_what_is_no_address_is_refused(address: str) -> None:
    assert not takes("email", address)


@pytest.mark.parametrize(
    "address",
    ["bob@example.org,ann@example.org", "ann@example.org,bob", "<ann@example.org", "a<b@c.d>,ann@example.org"],
)
def test_an_address_is_one_address(address: str) -> None:
    assert not takes("email", address)


@pytest.mark.parametrize("login", ["", "ann lee", "ann/lee", "änn", "ann%", "ann\n", "a" * 65, "..\\ann"])
def test_what_would_not_fit_into_a_path_is_no_login(login: str) -> None:
    assert not takes("login", login)


@pytest.mark.parametrize("phone", ["", "12", "+", "call me", "+49+49", "49;ext=1", "1" * 33, "123\n"])
def test_what_is_no_number_is_no_phone(phone: str) -> None:
    assert not takes("phone", phone)


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("value", [None, 1, True, ["a"], b"ann@example.org"])
def test_only_text_is_text(field: str, value: Any) -> None:
    adapter = FIELDS[field]
    with pytest.raises(ValidationError):
        adapter.validate_python(value, strict=True)


@pytest.mark.parametrize("field", FIELDS)
def test_half_a_character_is_refused(field: str) -> None:
    with pytest.raises(ValidationError):
        FIELDS[field].validate_json('"ann\\ud800@example.org"')


class Order(Request):
    """A request of the tests."""

    about: Line
    note: Lines | None = None


def test_a_field_that_is_not_known_is_refused_and_not_lost() -> None:
    with pytest.raises(ValidationError, match="abuot"):
        Order.model_validate_json('{"about": "a lamp", "abuot": "two lamps"}')


def test_a_request_does_not_change() -> None:
    order = Order(about="a lamp")
    with pytest.raises(ValidationError):
        order.about = "two lamps"  # type: ignore[misc] # that is the point


@pytest.mark.parametrize(
    ("query", "page"),
    [
        ({}, Page(limit=20, cursor=None)),
        ({"limit": "1"}, Page(limit=1)),
        ({"limit": "100", "cursor": SOME_ID}, Page(limit=100, cursor=SOME_ID)),
    ],
)
def test_a_page_is_read_from_a_query(query: dict[str, str], page: Page) -> None:
    assert Page.model_validate_strings(query) == page


@pytest.mark.parametrize(
    "query", [{"limit": "0"}, {"limit": "101"}, {"limit": "ten"}, {"limit": ""}, {"offset": "1"}, {"cursor": "7" * 101}]
)
def test_a_page_beyond_its_bounds_is_refused(query: dict[str, str]) -> None:
    with pytest.raises(ValidationError):
        Page.model_validate_strings(query)


def test_a_cursor_that_is_an_id_is_read() -> None:
    made = uuid7()
    assert cursor_id(str(made)) == made
    assert cursor_id(None) is None


@pytest.mark.parametrize(
    "cursor", ["", "7", "nonsense", "00000000-0000-7000-8000-00000000000g", "{01a205a9-7dd3-79a6-bc94-041c0599bab6}"]
)
def test_a_cursor_that_no_list_has_handed_out_is_refused(cursor: str) -> None:
    with pytest.raises(ValidationError) as refused:
        Page.model_validate_strings({"cursor": cursor})
    assert [found.field for found in invalid_request(refused.value, where="query").fields] == ["cursor"]


@pytest.mark.parametrize("field", ["line", "lines", "email"])
def test_the_schema_tells_the_rule_that_is_checked(field: str) -> None:
    pattern = re.compile(FIELDS[field].json_schema()["pattern"])
    for sign in [*map(chr, CONTROLS), "x", "@", " ", ".", "é", "🙂"]:
        for value in (GOOD[field] + sign, sign + GOOD[field]):
            if not value.endswith("\n"):  # before which a $ matches in Python, and in ECMAScript does not
                assert bool(pattern.search(value)) == takes(field, value), repr(value)
