"""Plots as SVG, written by hand: a picture of one kind needs no plotting library (0018-soak.md)."""

import math
from collections.abc import Iterable, Sequence
from typing import Final
from xml.sax.saxutils import escape

FONT: Final = "font-family=\"Verdana, 'DejaVu Sans', sans-serif\""
_FINE: Final = 1.5
"""Powers of ten: an axis that spans no more has lines at 2 and 5, too."""


def text(x: float, y: float, said: str, attributes: str = "") -> str:
    """Write something at a point."""
    return f'<text x="{x:.1f}" y="{y:.1f}" {attributes}>{escape(said)}</text>'


def line(x1: float, y1: float, x2: float, y2: float, attributes: str) -> str:
    """Draw a line between two points."""
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" {attributes}/>'


def rectangle(x: float, y: float, width: float, height: float, attributes: str) -> str:
    """Draw a rectangle from its upper left corner."""
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" {attributes}/>'


def picture(width: int, height: int, title: str, parts: Iterable[str], *, style: str = "", attributes: str = "") -> str:
    """Put a picture together. `title` is what it is called where it cannot be seen."""
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}"'
    styled = [f"<style>{style}</style>"] if style else []
    whole = [f'{head} {FONT} {attributes} role="img">', f"<title>{escape(title)}</title>", *styled, *parts, "</svg>"]
    return "\n".join(whole) + "\n"


def step(whole: float, steps: Sequence[int], at_most: int) -> int:
    """Choose the finest step that leads to no more ticks than fit."""
    return next((each for each in steps if whole / each < at_most), steps[-1])


def round_step(whole: float, at_most: int) -> float:
    """Choose a step of 1, 2 or 5 times a power of ten that leads to no more ticks than fit."""
    power = 10.0 ** math.floor(math.log10(whole / at_most))
    return next(factor * power for factor in (1, 2, 5, 10) if whole / (factor * power) <= at_most)


def decades(least: float, most: float) -> tuple[float, float, list[float]]:
    """Span a logarithmic axis over positive numbers: where it begins and ends, and its ticks."""
    ticks = [factor * 10.0**power for power in range(-6, 9) for factor in (1, 2, 5)]
    low = max(tick for tick in ticks if tick <= least)
    high = min(tick for tick in ticks if tick >= most and tick > low)
    fine = math.log10(high / low) <= _FINE
    shown = [tick for tick in ticks if low <= tick <= high and (fine or _is_power(tick))]
    return low, high, shown


def _is_power(tick: float) -> bool:
    return math.isclose(math.log10(tick), round(math.log10(tick)))


def amount(number: float) -> str:
    """Write a number for people: three digits that count, thousands apart."""
    if number >= 100:  # noqa: PLR2004 - three digits
        return f"{float(f'{number:.3g}'):,.0f}"
    return f"{number:.3g}"
