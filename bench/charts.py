"""Charts with a row for each contestant, in groups by the number of clients; for light and for dark screens."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from math import log
from typing import Final

from bench.contestants import OURS, THEIRS
from bench.figures import people
from bench.report import Result
from libs.plots import amount, decades, line, picture, rectangle, round_step, text

WIDTH: Final = 1000
LEFT: Final = 196
RIGHT: Final = 200
"""Room for what is written behind a bar."""

ACROSS: Final = WIDTH - LEFT - RIGHT
TOP: Final = 92
HEADING: Final = 30
ROW: Final = 26
BAR: Final = 15
BETWEEN: Final = 40
"""From the axis of a panel to the heading of the next."""

TICKS_AT_MOST: Final = 8

PROCESSES: Final = ("gateway", "auth", "profiles", "orders", "billing", "notifications", "nats", "postgres")
"""In the order of a stack; others follow."""

_LIGHT: Final = {
    ".ground": "fill:#ffffff",
    ".ink": "fill:#1f2933",
    ".pale": "fill:#5b6875",
    ".grid": "stroke:#dfe5ec",
    ".axis": "stroke:#8a96a3",
    ".spread": "stroke:#1f2933",
    ".mark": "stroke:#ffffff",
    ".ours": "fill:#2f7d5b",
    ".variant": "fill:#86bfa3",
    ".theirs": "fill:#b8562e",
    ".tuned": "fill:#e0a078",
    ".gateway": "fill:#4e6fae",
    ".auth": "fill:#a3b4d6",
    ".profiles": "fill:#c9d3e8",
    ".orders": "fill:#2f7d5b",
    ".billing": "fill:#d2a33a",
    ".notifications": "fill:#a65d8f",
    ".nats": "fill:#46a6b5",
    ".postgres": "fill:#6b7785",
    ".other": "fill:#b9c1ca",
}
_DARK: Final = {
    ".ground": "fill:#0d1117",
    ".ink": "fill:#e6edf3",
    ".pale": "fill:#9aa7b4",
    ".grid": "stroke:#242c36",
    ".axis": "stroke:#6e7a87",
    ".spread": "stroke:#e6edf3",
    ".mark": "stroke:#0d1117",
    ".ours": "fill:#43a57a",
    ".variant": "fill:#2c6a50",
    ".theirs": "fill:#d5713f",
    ".tuned": "fill:#8f512f",
    ".gateway": "fill:#6d8fd0",
    ".auth": "fill:#4c5f8c",
    ".profiles": "fill:#37456a",
    ".orders": "fill:#43a57a",
    ".billing": "fill:#d9b04f",
    ".notifications": "fill:#bb76a5",
    ".nats": "fill:#54b6c5",
    ".postgres": "fill:#8793a1",
    ".other": "fill:#4b5560",
}


def style() -> str:
    """The colours, for both."""

    def rules(colours: dict[str, str]) -> str:
        return "".join(f"{name}{{{colour}}}" for name, colour in colours.items())

    return f"{rules(_LIGHT)}@media (prefers-color-scheme:dark){{{rules(_DARK)}}}"


def colour(name: str) -> str:
    """The class of a contestant's colour."""
    if name == OURS:
        return "ours"
    if name == THEIRS:
        return "theirs"
    return "tuned" if name.startswith(THEIRS) else "variant"


def colour_of_process(name: str) -> str:
    """The class of a process' colour."""
    return name if name in PROCESSES else "other"


@dataclass(frozen=True, slots=True)
class Axis:
    """Where numbers lie across a chart, and which of them have lines."""

    at: Callable[[float], float]
    ticks: Sequence[float]


def linear(most: float) -> Axis:
    """Span from nothing to the most there is."""
    every = round_step(most or 1, TICKS_AT_MOST)
    ticks = [number * every for number in range(int(most / every) + 1)]
    return Axis(lambda number: LEFT + ACROSS * number / (most or 1), ticks)


def logarithmic(least: float, most: float) -> Axis:
    """Span positive numbers so that equal factors have equal lengths."""
    low, high, ticks = decades(least, most)
    return Axis(lambda number: LEFT + ACROSS * log(number / low) / log(high / low), ticks)


Draw = Callable[[Result, float, Axis], Iterator[str]]
"""Draws a row around a height."""


@dataclass(frozen=True, slots=True)
class Panel:
    """Rows over an axis of their own."""

    results: Sequence[Result]
    axis: Axis
    unit: str
    draw: Draw
    says: str = ""

    @property
    def height(self) -> float:
        """From its top to below its axis."""
        groups = len({one.clients for one in self.results})
        return (24 if self.says else 0) + groups * HEADING + len(self.results) * ROW + 44

    def parts(self, top: float) -> Iterator[str]:
        """Draw it."""
        if self.says:
            yield text(LEFT, top + 8, self.says, 'class="ink" font-size="14" font-weight="bold"')
            top += 24
        bottom = top + self.height - 44 - (24 if self.says else 0)
        for tick in self.axis.ticks:
            x = self.axis.at(tick)
            yield line(x, top, x, bottom, 'class="grid"')
            yield text(
                x, bottom + 18, amount(tick) if tick else "0", 'class="pale" text-anchor="middle" font-size="12"'
            )
        yield line(LEFT, bottom, LEFT + ACROSS, bottom, 'class="axis"')
        yield text(LEFT + ACROSS, bottom + 36, self.unit, 'class="pale" text-anchor="end" font-size="12"')
        yield from self._rows(top)

    def _rows(self, top: float) -> Iterator[str]:
        y = top
        for clients, some in groupby(self.results, lambda one: one.clients):
            yield text(
                LEFT - 10, y + 20, people(clients), 'class="pale" text-anchor="end" font-size="12" font-style="italic"'
            )
            y += HEADING
            for one in some:
                middle = y + ROW / 2
                yield text(LEFT - 10, middle + 4.5, one.name, 'class="ink" text-anchor="end" font-size="13"')
                yield from self.draw(one, middle, self.axis)
                y += ROW


def chart(title: str, subtitle: str, panels: Sequence[Panel], legend: Sequence[tuple[str, str]] = ()) -> str:
    """Draw panels below each other; `legend` has a class and a name for each colour."""
    top, parts = float(TOP + (22 if legend else 0)), [rectangle(0, 0, WIDTH, 10_000, 'class="ground"')]
    parts.append(text(24, 40, title, 'class="ink" font-size="20" font-weight="bold"'))
    parts.append(text(24, 64, subtitle, 'class="pale" font-size="13"'))
    x = 24.0
    for shade, name in legend:
        parts.append(rectangle(x, 80, 12, 12, f'class="{shade}" rx="2"'))
        parts.append(text(x + 18, 91, name, 'class="ink" font-size="12"'))
        x += 38 + 7.1 * len(name)
    for panel in panels:
        parts += panel.parts(top)
        top += panel.height + BETWEEN
    return picture(WIDTH, round(top - BETWEEN + 16), title, parts, style=style())
