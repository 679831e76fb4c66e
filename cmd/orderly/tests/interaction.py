"""What `docs/interaction/` says: its documents, and its sequences as they are written and as they are drawn."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final
from xml.etree import ElementTree as ET

from orderly.contracts import FOLDER, OPENAPI, from_yaml
from orderly.newman import ROOT

PLACE: Final = ROOT / "docs" / "interaction"
STYLES: Final = tuple(sorted(path.name for path in PLACE.iterdir() if path.is_dir()))
BUILT: Final = "d-awaited-answer"
"""The style that is built: its documents are those that are made from the code."""

NO_SERVICES: Final = {"Customer", "broker"}
RED: Final = "rgb(255, 205, 205)"
KINDS: Final = {"->>": "call", "-x": "call", "-->>": "answer", "--)": "event", "--x": "event"}

_SVG: Final = "{http://www.w3.org/2000/svg}"
_MESSAGE: Final = re.compile(r"(\w)(->>|-->>|--\)|-x|--x)(\w): (.+)")
_NOTE: Final = re.compile(r"Note over (\w)(?:,(\w))?: (.+)")

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Arrow:
    """A step of a sequence. `kind` is call, answer or event; only what is drawn is compared with a drawing."""

    teller: str
    hearer: str
    text: str
    kind: str


@dataclass(frozen=True, slots=True)
class Sequence:
    """What a sequence shows, whichever way it was read."""

    people: tuple[str, ...]
    arrows: tuple[tuple[str, str, str, bool], ...]
    notes: tuple[str, ...]
    red: int


def sequences(style: str = "*") -> list[Path]:
    """List the sources of the sequences, of one style or of all."""
    return sorted(PLACE.glob(f"{style}/sequences/*.mmd"))


def read(source: Path) -> tuple[Sequence, tuple[Arrow, ...]]:
    """Read a source. Raises ValueError for a line that is nothing a sequence here may hold."""
    names: dict[str, str] = {}
    arrows: list[Arrow] = []
    notes: list[str] = []
    red = 0
    for line in map(str.strip, source.read_text(encoding="utf-8").splitlines()):
        if found := re.fullmatch(r"participant (\w) as (\w+)", line):
            names[found[1]] = found[2]
        elif found := _MESSAGE.fullmatch(line):
            arrows.append(Arrow(names[found[1]], names[found[3]], found[4], KINDS[found[2]]))
        elif found := _NOTE.fullmatch(line):
            notes.append(found[3].replace("<br/>", " "))
        elif line == f"rect {RED}":
            red += 1
        elif line not in ("sequenceDiagram", "autonumber", "end"):
            raise ValueError(f"{source}: {line}")
    shown = tuple((one.teller, one.hearer, one.text, one.kind != "call") for one in arrows)
    return Sequence(tuple(names.values()), shown, tuple(notes), red), tuple(arrows)


def seen(source: Path) -> Sequence:
    """Read what is drawn in the picture beside a source."""
    root = ET.parse(source.with_suffix(".svg")).getroot()
    lifelines = sorted(_of(root, "line", "data-et", "life-line"), key=lambda line: float(line.get("x1", "")))
    people = {group.get("data-id", ""): _text(group) for group in _of(root, "g", "data-et", "participant")}
    arrows = tuple(
        (
            people[line.get("data-from", "")],
            people[line.get("data-to", "")],
            _text(label),
            line.get("class") == "messageLine1",
        )
        for line, label in zip(
            _of(root, "line", "data-et", "message"), _of(root, "text", "class", "messageText"), strict=True
        )
    )
    notes = tuple(map(_text, _of(root, "g", "data-et", "note")))
    red = len(list(_of(root, "rect", "fill", RED)))
    return Sequence(tuple(people[line.get("data-id", "")] for line in lifelines), arrows, notes, red)


def services_of(source: Path) -> set[str]:
    """Name the services that take part in a sequence."""
    return set(read(source)[0].people) - NO_SERVICES


def documents(style: str, kind: str) -> dict[str, Json]:
    """Read the descriptions of a style's APIs, by service; `kind` is openapi or asyncapi."""
    return {path.name.split(".")[0]: load(path) for path in sorted((PLACE / style / "api").glob(f"*.{kind}.yaml"))}


@cache
def load(path: Path) -> Json:
    """Read a description."""
    return from_yaml(path.read_text(encoding="utf-8"))


def apis(style: str) -> tuple[dict[str, Json], dict[str, Json]]:
    """Read what a style's services answer over HTTP, and what they state and hear; for what is built, as generated."""
    if style != BUILT:
        return documents(style, "openapi"), documents(style, "asyncapi")
    events = {path.stem: load(path) for path in sorted((ROOT / FOLDER).glob("*.yaml"))}
    door = load(ROOT / OPENAPI)
    behind = {path.removeprefix("/client"): operations for path, operations in door["paths"].items()}
    return {"gateway": door} | {name: door | {"paths": behind} for name in events}, events


def operations(document: Json) -> Iterator[tuple[str, str, Json]]:
    """List the operations of an OpenAPI document: method, path, and what is said about it."""
    for path, methods in document["paths"].items():
        yield from ((method.upper(), path, operation) for method, operation in methods.items())


def addresses(document: Json, action: str) -> dict[str, list[str]]:
    """List what a service sends or receives: the address without its last token, and the messages there."""
    return {
        channel["address"].rpartition(".")[0]: list(channel["messages"])
        for operation in document["operations"].values()
        if operation["action"] == action
        for channel in [document["channels"][operation["channel"]["$ref"].rpartition("/")[2]]]
    }


def _of(root: ET.Element, tag: str, attribute: str, value: str) -> Iterator[ET.Element]:
    return (one for one in root.iter(f"{_SVG}{tag}") if one.get(attribute) == value)


def _text(element: ET.Element) -> str:
    return " ".join(filter(None, (part.strip() for part in element.itertext())))
