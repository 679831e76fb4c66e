"""What is written for people: blocks, headings and links of the Markdown files, and the commands in their blocks."""

import re
import shlex
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from textwrap import dedent
from typing import Final

from orderly.newman import ROOT

SHELL: Final = {"sh", "bash", "shell", "console"}
_FENCE: Final = re.compile(r"^(\s*)(`{3,})\s*(\w*)\s*$")
_RUN: Final = re.compile(r"<!--\s*run:\s*([\w-]+)\s*-->")
_HEREDOC: Final = re.compile(r"<<-?\s*(['\"]?)(\w+)\1")
_ASSIGNED: Final = re.compile(r"([A-Za-z_]\w*)=")
_FUNCTION: Final = re.compile(r"^(\w+)\(\) \{", re.MULTILINE)
_SEPARATORS: Final = set(";|&()")
_BEFORE_A_COMMAND: Final = {"do", "then", "else", "if", "elif", "while", "until", "!", "{", "sudo", "exec", "time"}
_NO_COMMANDS: Final = {"done", "fi", "esac", "}", "for", "case"}


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block. `run` is the procedure that it is a step of, when its source says so."""

    path: Path
    line: int
    language: str
    text: str
    run: str | None

    def __str__(self) -> str:
        return f"{self.path.relative_to(ROOT)}:{self.line}"


@dataclass(frozen=True, slots=True)
class Heading:
    """A heading, and where it stands."""

    level: int
    text: str
    line: int


@dataclass(frozen=True, slots=True)
class Command:
    """A simple command: a program and its arguments, and the variables that are set for it."""

    words: list[str]
    variables: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Guide:
    """A Markdown file, taken apart."""

    path: Path
    headings: list[Heading]
    blocks: list[Block]
    prose: list[str]
    """Its lines; those of blocks are empty."""


def guides() -> list[Path]:
    """List what people read: the files at the root, and everything in ``docs``."""
    return [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]


@cache
def guide(path: Path) -> Guide:
    """Take a file apart."""
    found = Guide(path, [], [], [])
    opened: tuple[int, str, str, str | None] | None = None
    body: list[str] = []
    named: str | None = None
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        fence = _FENCE.match(line)
        found.prose.append("" if opened or fence else line)
        if opened:
            start, ticks, language, run = opened
            if line.strip() == ticks:
                found.blocks.append(Block(path, start, language, dedent("\n".join(body)), run))
                opened = None
            else:
                body.append(line)
        elif fence:
            opened, body, named = (number, fence[2], fence[3], named), [], None
        elif said := _RUN.search(line):
            named = said[1]
        elif heading := re.match(r"(#{1,6}) (.+)", line):
            found.headings.append(Heading(len(heading[1]), heading[2].strip(), number))
    assert opened is None, f"{path}: a block is never closed"
    return found


def anchors(path: Path) -> set[str]:
    """List the anchors that GitHub gives the headings of a file."""
    found: set[str] = set()
    for heading in guide(path).headings:
        plain = re.sub(r"`|\*\*|\[([^\]]*)\]\([^)]*\)", r"\1", heading.text).lower()
        slug = re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")
        count = 1
        while (name := slug if count == 1 else f"{slug}-{count - 1}") in found:
            count += 1
        found.add(name)
    return found


def links(path: Path) -> Iterator[tuple[int, str]]:
    """List what a file points to: links and pictures, with their lines."""
    for number, line in enumerate(guide(path).prose, 1):
        without_code = re.sub(r"`[^`]*`", "", line)
        for found in re.finditer(r"\]\(<?([^()\s>]+)>?\)|(?:src|href)=\"([^\"]+)\"", without_code):
            yield number, found[1] or found[2]


def code_spans(line: str) -> list[str]:
    """List what stands between backticks in a line."""
    return re.findall(r"`([^`]+)`", line)


def without_comments(text: str) -> str:
    """Leave out what a shell would not read: comments, and the space before them."""
    lines = (re.sub(r"(^|\s+)#(?:\s.*|)$", "", line).rstrip() for line in text.splitlines())
    return "\n".join(line for line in lines if line)


@cache
def functions(path: Path) -> frozenset[str]:
    """Name the shell functions that the blocks of a file define, for each other, too."""
    return frozenset(name for block in guide(path).blocks for name in _FUNCTION.findall(block.text))


def commands(text: str, *, known: Collection[str] = ()) -> list[Command]:
    """Take the simple commands out of a script, `known` functions and its own left out.

    Raises ValueError for a quote that is not closed.
    """
    found: list[Command] = []
    own = {*known, *_FUNCTION.findall(text)}
    for line in _logical_lines(_FUNCTION.sub("{", text)):
        whole = line
        while inner := re.search(r"\$\(([^()]*)\)", whole):
            found += commands(inner[1])
            whole = whole.replace(inner[0], "SUBSTITUTED")
        whole = re.sub(r"(['\"])([;|&<>()]+)\1", r"\1QUOTED\2\1", whole)  # else it would pass for an operator
        lexer = shlex.shlex(whole, posix=True, punctuation_chars="();<>|&")
        lexer.whitespace_split = True
        found += [command for words in _split(list(lexer)) if (command := _simple(words))]
    return [command for command in found if not command.words or command.words[0] not in own]


def _logical_lines(text: str) -> Iterator[str]:
    """Join what is continued; leave out the bodies of here-documents and what stands in their place."""
    until = None
    joined = ""
    for line in text.splitlines():
        if until is not None:
            until = None if line.strip() == until else until
            continue
        if heredoc := _HEREDOC.search(line):
            until, line = heredoc[2], _HEREDOC.sub("", line)  # noqa: PLW2901 - the rest of the line is a command
        joined += line.removesuffix("\\") if line.endswith("\\") else f"{line}\n"
        if not line.endswith("\\"):
            yield joined.strip()
            joined = ""


def _split(tokens: list[str]) -> Iterator[list[str]]:
    words: list[str] = []
    skip = False
    for token in tokens:
        if token and set(token) <= _SEPARATORS:
            yield words
            words = []
        elif token and set(token) <= set("<>&"):
            skip = True  # what follows is a file
        elif skip:
            skip = False
        else:
            words.append(token)
    yield words


def _simple(words: list[str]) -> Command | None:
    variables = []
    while words and (words[0] in _BEFORE_A_COMMAND or _ASSIGNED.match(words[0])):
        if assigned := _ASSIGNED.match(words[0]):
            variables.append(assigned[1])
        words = words[1:]
    if words and words[0] in _NO_COMMANDS:
        words = []
    return Command(words, variables) if words or variables else None
