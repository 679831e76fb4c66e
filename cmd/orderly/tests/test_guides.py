"""What is written for people: links lead somewhere, and both languages say the same."""

import re
from collections import Counter
from pathlib import Path
from urllib.parse import unquote

import pytest

from orderly.newman import ROOT
from orderly.tests.guides import Guide, anchors, code_spans, guide, guides, links, without_comments
from orderly.tests.test_commands import there

ENGLISH, RUSSIAN = ROOT / "README.md", ROOT / "README.ru.md"


@pytest.mark.parametrize("path", guides(), ids=lambda path: path.name)
def test_every_link_leads_somewhere(path: Path) -> None:
    assert [f"{path.name}:{line} {target}" for line, target in links(path) if not leads_somewhere(path, target)] == []


def leads_somewhere(path: Path, target: str) -> bool:
    """Whether a file and a heading are there. What is on the web, or on this machine's ports, is not looked at."""
    if re.match(r"https?://|mailto:", target):
        return True
    name, _, anchor = target.partition("#")
    file = (path.parent / unquote(name)).resolve() if name else path
    if not file.exists():
        return there(str(file.relative_to(ROOT)))
    return not anchor or unquote(anchor) in anchors(file)


@pytest.mark.parametrize("target", ["docs/nowhere.md", "#no-such-heading", "docs/operations.md#no-such-heading"])
def test_a_link_that_leads_nowhere_is_noticed(target: str) -> None:
    assert not leads_somewhere(ENGLISH, target)


def sections(path: Path) -> list[tuple[int, int, list[str]]]:
    """Each heading's level and line, and the lines below it, up to the next one."""
    whole = guide(path)
    ends = [*(heading.line for heading in whole.headings[1:]), len(whole.prose) + 1]
    return [
        (heading.level, heading.line, whole.prose[heading.line : end - 1])
        for heading, end in zip(whole.headings, ends, strict=True)
    ]


def test_both_languages_have_the_same_headings() -> None:
    english, russian = (guide(path).headings for path in (ENGLISH, RUSSIAN))
    assert [heading.level for heading in russian] == [heading.level for heading in english]


def test_both_languages_have_the_same_blocks() -> None:
    """Comments in them are translated; what is a command, or the output of one, is the same."""
    english, russian = (guide(path).blocks for path in (ENGLISH, RUSSIAN))
    for one, other in zip(english, russian, strict=False):
        assert without_comments(other.text) == without_comments(one.text), f"{other} is not {one}"
        assert other.language == one.language
    assert len(english) == len(russian)


def test_both_languages_say_the_same_in_each_section() -> None:
    """The names between backticks, the rows of tables, and the links are the same, section by section."""
    for (_, _, english), (_, line, russian) in zip(sections(ENGLISH), sections(RUSSIAN), strict=True):
        where = f"README.ru.md:{line}"
        assert named_in(russian) == named_in(english), where
        assert rows(russian) == rows(english), where


def named_in(lines: list[str]) -> Counter[str]:
    return Counter(span for line in lines for span in code_spans(line))


def rows(lines: list[str]) -> int:
    return sum(line.lstrip().startswith("|") for line in lines)


def test_both_languages_link_to_the_same_places() -> None:
    def targets(path: Path) -> Counter[str]:
        return Counter(target for _, target in links(path) if not target.startswith(("#", "README")))

    assert targets(RUSSIAN) == targets(ENGLISH)


def test_nothing_in_the_russian_text_is_left_in_english() -> None:
    """A paragraph without a Russian letter was not translated: code, links and tables' rules do not count."""
    whole: Guide = guide(RUSSIAN)
    assert [line for line in whole.prose if len(re.findall(r"\b[a-z]{3,}\b", bare(line))) > 12] == []


def bare(line: str) -> str:
    return re.sub(r"`[^`]*`|\]\([^)]*\)|<[^>]*>", "", line)
