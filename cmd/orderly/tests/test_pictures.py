"""Every picture is that of its source, and what the sequences and the architecture show is what the code does."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import pytest

from billing.domain import DeclineReason
from gateway.api import BASE, DOORS
from libs.contracts import stream_of
from libs.messaging.consumer import durables
from libs.messaging.durable import ACK_WAIT_S
from libs.messaging.relay import LEFT_BEHIND, STALLED_S
from libs.messaging.restating import due_again
from libs.settings import ServiceSettings
from libs.web.problems import TYPE_PREFIX
from orderly import pictures
from orderly.newman import ROOT
from orderly.pictures import RED, draw, is_current, picture_of, sources
from orderly.services import NAMES, SERVICES

IMAGES: Final = ROOT / "docs" / "img"
PAGE: Final = ROOT / "docs" / "architecture.md"
SEQUENCES: Final = sorted(IMAGES.rglob("*.mmd"))
WITHOUT_ERROR: Final = {"order", "order/success", "reg/success", "auth/success", "put/success", "cancel/confirmed"}
FACTS: Final = {fact.type: service.name for service in SERVICES for fact in service.publishes}
LISTENERS: Final = {(line.fact.type, service.name) for service in SERVICES for line in service.listens}

REQUEST: Final = re.compile(r"\b(GET|POST|PUT) (/[\w/{}.-]+)")
REFUSAL: Final = re.compile(r"\b([45]\d\d) (\w+)")
SUBJECT: Final = re.compile(rf"\b(({'|'.join(NAMES)})\.[a-z]+\.)([a-z]+)(?: or ([a-z]+))?\b")
ARROW: Final = re.compile(r"(\w+?)(?:-?->>|--\)|--?x)(\w+): (.+)")


@dataclass(frozen=True)
class Arrow:
    """A step of a sequence, by the names of the participants; `red` when it lies in the band of an error."""

    sender: str
    receiver: str
    text: str
    red: bool


@dataclass
class Sequence:
    """A sequence diagram, as its source says it."""

    name: str
    text: str
    arrows: list[Arrow] = field(default_factory=list)

    @classmethod
    def of(cls, source: Path) -> "Sequence":
        text = source.read_text(encoding="utf-8")
        names = dict(re.findall(r"participant (\w+) as (.+)", text))
        read = cls(str(source.relative_to(IMAGES).with_suffix("")), text)
        red = False
        for line in map(str.strip, text.splitlines()):
            red = line == f"rect {RED}" or (red and line != "end")
            if arrow := ARROW.fullmatch(line):
                read.arrows.append(Arrow(names[arrow[1]], names[arrow[2]], arrow[3], red))
        return read


every_sequence = pytest.mark.parametrize(
    "sequence", [Sequence.of(path) for path in SEQUENCES], ids=[str(path.relative_to(IMAGES)) for path in SEQUENCES]
)


@cache
def contract() -> dict[str, Any]:
    read: dict[str, Any] = json.loads((ROOT / "asyncapi" / "openapi.json").read_text(encoding="utf-8"))
    return read


def answers(method: str, path: str) -> dict[str, Any]:
    found: dict[str, Any] = contract()["paths"][path][method.lower()]["responses"]
    return found


def slugs(response: dict[str, Any]) -> set[str]:
    """List what a refusal may be called."""
    response = contract()["components"]["responses"].get(response.get("$ref", "").rpartition("/")[2], response)
    schema = response["content"]["application/problem+json"]["schema"]
    return {kind.removeprefix(TYPE_PREFIX) for kind in schema["properties"]["type"]["enum"]}


@cache
def refusals() -> set[tuple[str, str]]:
    """List what any request may be refused with: status and slug."""
    return {
        (status, slug)
        for operations in contract()["paths"].values()
        for operation in operations.values()
        for status, response in operation["responses"].items()
        if "$ref" in response
        for slug in slugs(response)
    }


def facts_in(text: str) -> Iterator[str]:
    """List the facts that a text names; ``a.b.c or d`` are two."""
    for stem, _service, first, second in SUBJECT.findall(text):
        yield stem + first
        if second:
            yield stem + second


# Pictures and their sources


def test_every_picture_is_that_of_its_source() -> None:
    stale = [str(source.relative_to(ROOT)) for source in sources() if not is_current(source)]
    assert stale == [], "run `just pictures`"


def test_every_picture_has_a_source() -> None:
    drawn = {picture_of(source) for source in sources()}
    assert [path for path in IMAGES.rglob("*.svg") if path not in drawn] == []


def test_a_changed_source_a_changed_picture_and_a_missing_one_are_noticed(tmp_path: Path) -> None:
    source = tmp_path / "a.d2"
    source.write_text("a -> b")
    assert not is_current(source)
    picture = picture_of(source)
    picture.write_text(draw(source))
    assert is_current(source)
    picture.write_text(picture.read_text().replace("</svg>", "<g/></svg>", 1))
    assert not is_current(source)
    picture.write_text(draw(source))
    source.write_text("a -> c")
    assert not is_current(source)


def test_what_has_changed_is_drawn_and_a_mistake_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(pictures, "ROOT", tmp_path)
    monkeypatch.setattr(pictures, "DOCS", tmp_path)
    (tmp_path / "a.d2").write_text("a -> b")
    assert pictures.pictures(everything=False) == 0
    assert pictures.pictures(everything=False) == 0
    assert capsys.readouterr().out == "a.svg\n", "drawn once: it was current the second time"
    assert pictures.pictures(everything=True) == 0
    assert capsys.readouterr().out == "a.svg\n"
    (tmp_path / "b.d2").write_text("a -> {")
    assert pictures.pictures(everything=False) == 1
    assert capsys.readouterr().err.startswith("b.d2: ")


def test_a_page_that_is_dark_does_not_swallow_a_sequence() -> None:
    for source in SEQUENCES:
        ground = re.search(
            r'viewBox="(\S+) (\S+) (\S+) (\S+)"[^>]*><rect x="\1" y="\2" width="\3" height="\4" ',
            (picture_of(source).read_text(encoding="utf-8")),
        )
        assert ground, source


def test_drawing_the_architecture_again_changes_nothing() -> None:
    source = IMAGES / "architecture.d2"
    same = draw(source) == picture_of(source).read_text(encoding="utf-8")
    assert same, "another D2? run `just pictures --all`, and look at what it draws"


@pytest.mark.prove
def test_drawing_again_changes_nothing() -> None:
    some = sources()[::10]  # a sequence takes seconds; `just pictures --all` draws them all
    changed = [path for path in some if draw(path) != picture_of(path).read_text(encoding="utf-8")]
    assert changed == []


# What sequences say


@pytest.mark.parametrize("story", ["reg", "auth", "put", "order"])
def test_every_story_has_its_success_and_its_errors(story: str) -> None:
    told = {path.stem for path in (IMAGES / story).glob("*.mmd")}
    assert "success" in told
    assert len(told) >= 3


@every_sequence
def test_what_detects_an_error_is_red(sequence: Sequence) -> None:
    assert (f"rect {RED}" in sequence.text) == (sequence.name not in WITHOUT_ERROR)
    assert set(re.findall(r"rect (.+)", sequence.text)) <= {RED}
    refused = [arrow for arrow in sequence.arrows if REFUSAL.match(arrow.text)]
    passed_on = {
        later for earlier, later in pairwise(refused) if earlier.receiver == later.sender and later.sender == "gateway"
    }
    assert [arrow for arrow in refused if not arrow.red and arrow not in passed_on] == []


@every_sequence
def test_requests_go_where_the_gateway_sends_them(sequence: Sequence) -> None:
    for method, path in REQUEST.findall(sequence.text):
        assert answers(method, path if path.startswith(BASE) else BASE + path)
    for arrow in sequence.arrows:
        if request := REQUEST.match(arrow.text):
            path = request[2].removeprefix(BASE)
            (door,) = [door for door in DOORS if path == door.path or path.startswith(f"{door.path}/")]
            from_outside = request[2].startswith(BASE)
            ends = ("Customer", "gateway") if from_outside else ("gateway", door.service)
            assert (arrow.sender, arrow.receiver) == ends


@every_sequence
def test_answers_are_those_of_the_contract(sequence: Sequence) -> None:
    asked: dict[tuple[str, str], tuple[str, str]] = {}
    for arrow in sequence.arrows:
        if request := REQUEST.match(arrow.text):
            path = request[2] if request[2].startswith(BASE) else BASE + request[2]
            asked[arrow.receiver, arrow.sender] = request[1], path
        elif status := re.match(r"\d{3}\b", arrow.text):
            may = answers(*asked[arrow.sender, arrow.receiver])
            assert status[0] in may
            if refusal := REFUSAL.match(arrow.text):
                assert refusal[2] in slugs(may[status[0]])
    assert set(REFUSAL.findall(sequence.text)) <= refusals()


@every_sequence
def test_facts_go_from_who_states_them_to_who_listens(sequence: Sequence) -> None:
    assert set(facts_in(sequence.text)) <= set(FACTS)
    for arrow in sequence.arrows:
        for fact in facts_in(arrow.text):
            stream = {"NATS", f"stream {stream_of(FACTS[fact])}"}
            assert arrow.sender in stream | {FACTS[fact]}
            assert arrow.receiver in stream or (fact, arrow.receiver) in LISTENERS


@every_sequence
def test_no_name_is_made_up(sequence: Sequence) -> None:
    schemas = contract()["components"]["schemas"].values()
    known = {name for schema in schemas for name in schema.get("properties", {})} | {"order_id", "ack_wait"}
    known |= {reason.value for reason in DeclineReason}
    known |= {slug for _, slug in refusals()}
    assert set(re.findall(r"\b[a-z]+(?:_[a-z]+)+\b", sequence.text)) <= known


def test_the_times_in_the_pictures_are_those_of_the_code() -> None:
    now = datetime.now(UTC)
    assert ServiceSettings.model_fields["patience_s"].default == 2
    assert [due_again(times, now) - now for times in (0, 1)] == [timedelta(seconds=10), timedelta(seconds=20)]
    assert (timedelta(seconds=2), 10, 30) == (LEFT_BEHIND, STALLED_S, ACK_WAIT_S)


# What the architecture says


def test_the_architecture_shows_who_calls_states_hears_and_keeps_what() -> None:
    text = (IMAGES / "architecture.d2").read_text(encoding="utf-8")
    flows = set(re.findall(r"^\w+\.(\w+) (->|<-) (\w+)\.(\w+)", text, re.MULTILINE))
    called = {door.service for door in DOORS}
    assert {(end, way) for start, way, _, end in flows if start == "gateway"} == {(name, "->") for name in called}
    streams = {(start, way, end) for start, way, space, end in flows if space == "nats"}
    states = {(service.name, "->", stream_of(service.name)) for service in SERVICES}
    hears = {
        (service.name, "<-", durable.stream)
        for service in SERVICES
        for durable in durables(service.name, service.listens)
    }
    assert streams == states | hears
    assert {start for start, _, _, end in flows if end == "data"} == set(NAMES)
    for service in SERVICES:
        block = re.search(rf"^  {service.name}: .*?\n  data: \"?([^\"{{]+)", text, re.MULTILINE | re.DOTALL)
        assert block
        assert set(re.findall(r"[a-z]+", block[1].replace("\\n", " "))) == set(service.tables.tables)


def test_the_architecture_page_says_who_states_what_and_listens_to_what() -> None:
    def told(cell: str) -> set[str]:
        """Read ``a.b.c``, `.d` as two facts."""
        stem, facts = "", set()
        for name in re.findall(r"`([a-z.]+)`", cell):
            stem = stem if name.startswith(".") else name.rpartition(".")[0]
            facts.add(f"{stem}.{name.rpartition('.')[2]}")
        return facts

    rows = re.findall(r"^\| `(\w+)` \| `\w+` \| [^|]+ \| ([^|]+) \| ([^|]+) \|$", PAGE.read_text("utf-8"), re.MULTILINE)
    said = {service: (told(states), told(hears)) for service, states, hears in rows}
    assert said == {"gateway": (set(), set())} | {
        service.name: ({fact.type for fact in service.publishes}, {line.fact.type for line in service.listens})
        for service in SERVICES
    }


def test_the_links_of_the_architecture_page_lead_somewhere() -> None:
    links = re.findall(r"\]\((?!https:)([^)#]+)\)", PAGE.read_text("utf-8"))
    assert [link for link in links if not (PAGE.parent / link).is_file()] == []


def test_the_architecture_page_shows_every_picture() -> None:
    page = PAGE.read_text("utf-8")
    shown = set(re.findall(r"\((img/[\w/-]+\.svg)\)", page))
    assert shown == {str(path.relative_to(ROOT / "docs")) for path in IMAGES.rglob("*.svg")}
