"""Twins: what YAML files say about one service, said about a new one, too.

Works on the lines, so that comments and layout stay. What is copied is the smallest part that can stand beside the
original: a key that carries the service's name, else an item of a list, else a whole document.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Twin:
    """The service to copy, and the new one.

    `others` are further services: a line that names one of them, too, is a list. Items of lists with one of the
    texts in `unlike` are the model's alone.
    """

    model: str
    name: str
    others: Sequence[str] = ()
    unlike: Sequence[str] = ()

    def renamed(self, text: str) -> str:
        """Say the same of the new service. The model's stream, which is its name in capitals, stays."""
        for pattern, name in (
            (rf"(?<![A-Za-z0-9]){self.model}(?![A-Za-z0-9])", self.name),
            (rf"(?<=_){self.model.upper()}\b|\b{self.model.upper()}(?=_)", self.name.upper()),
        ):
            text = re.sub(pattern, name, text)
        return text

    def mentions(self, line: str) -> bool:
        """Whether a line says something about the model."""
        return self.renamed(line) != line and not line.lstrip().startswith("#")

    def lists(self, line: str) -> bool:
        """Whether a line lists services."""
        named = re.findall(r"[a-z]+", line)
        return self.mentions(line) and self.model in named and any(other in named for other in self.others)

    def copied(self, lines: Sequence[str]) -> list[str]:
        """Say of the new service what these lines say about the model, without the comment above them."""
        found = next((number for number, line in enumerate(lines) if _says_something(line)), 0)
        kept = list(lines[found:])
        for number in reversed(range(len(kept))):
            if kept[number].lstrip().startswith("- "):
                end = _end(kept, number)
                if any(one in line for line in kept[number:end] for one in self.unlike):
                    del kept[number:end]
        return [self.renamed(line) for line in kept]


def twin_of(text: str, twin: Twin) -> str:
    """Say of the new service what a whole file says about the model."""
    return "".join(f"{line}\n" for line in twin.copied(text.splitlines()))


def with_twin(text: str, twin: Twin, *, without: str | None = None) -> str:
    """Add to a YAML text what it says about the model, about the new service.

    Parts that contain `without` are not added.
    """
    lines = text.splitlines()
    units = {end: start for start, end in _units(lines, twin) if not without or without not in _text(lines, start, end)}
    out: list[str] = []
    for number, line in enumerate(lines):
        out.append(_listed_too(line, twin) if twin.lists(line) else line)
        if (end := number + 1) in units:
            start = units[end]
            if _is_document(lines, start, end):
                out.append("---")
            elif end < len(lines) and not lines[end].strip():
                out.append("")  # as there is one behind the original
            out += twin.copied(lines[start:end])
    return "".join(f"{line}\n" for line in out)


def _text(lines: Sequence[str], start: int, end: int) -> str:
    return "\n".join(lines[start:end])


def _units(lines: Sequence[str], twin: Twin) -> Iterator[tuple[int, int]]:
    """List the parts to copy, from their first line to behind their last; none within another."""
    end = 0
    starts = sorted({_start(lines, number, twin) for number, line in enumerate(lines) if _copied(line, twin)})
    for start in starts:
        if start >= end:
            end = _end(lines, start)
            yield start, end


def _copied(line: str, twin: Twin) -> bool:
    return twin.mentions(line) and not twin.lists(line)


def _start(lines: Sequence[str], number: int, twin: Twin) -> int:
    """Find where the smallest part begins that holds a line and can stand beside its original."""
    while True:
        line = lines[number]
        key = line.partition(":")[0] if ":" in line else ""
        if line.lstrip().startswith("- ") or twin.mentions(key):
            return number
        above = _parent(lines, number)
        if above is None:
            return _document_start(lines, number)
        number = above


def _parent(lines: Sequence[str], number: int) -> int | None:
    depth = _depth(lines[number])
    for above in range(number - 1, -1, -1):
        if lines[above].startswith("---"):
            return None
        if _says_something(lines[above]) and _depth(lines[above]) < depth:
            return above
    return None


def _document_start(lines: Sequence[str], number: int) -> int:
    while number > 0 and not lines[number - 1].startswith("---"):
        number -= 1
    return number


def _end(lines: Sequence[str], start: int) -> int:
    whole = _begins_document(lines, start) and not lines[start].startswith("- ")
    depth, end = _depth(lines[start]), start + 1
    for number in range(start + 1, len(lines)):
        line = lines[number]
        if line.startswith("---") or (not whole and _says_something(line) and _depth(line) <= depth):
            break
        if _says_something(line):
            end = number + 1
    return end


def _is_document(lines: Sequence[str], start: int, end: int) -> bool:
    return _begins_document(lines, start) and (end == len(lines) or lines[end].startswith("---"))


def _begins_document(lines: Sequence[str], number: int) -> bool:
    return number == 0 or lines[number - 1].startswith("---")


def _listed_too(line: str, twin: Twin) -> str:
    """Add the new service behind the model in a list that is one line, however that separates its items."""
    quoted = rf"(?P<quote>[\"']?)\b{twin.model}\b(?P=quote)"
    behind = re.search(rf"{quoted}(?P<between>\s*,\s*|\s+)(?=[\"'\w])", line)
    before = re.search(rf"(?<=[\"'\w])(?P<between>\s*,\s*|\s+){quoted}", line)
    found = behind or before
    if found is None:
        return line
    item = f"{found['quote']}{twin.name}{found['quote']}"
    if behind:
        return f"{line[: found.end()]}{item}{found['between']}{line[found.end() :]}"
    return f"{line[: found.end()]}{found['between']}{item}{line[found.end() :]}"


def _says_something(line: str) -> bool:
    return bool(line.strip()) and not line.lstrip().startswith("#")


def _depth(line: str) -> int:
    return len(line) - len(line.lstrip())
