"""A soak as a picture: orders confirmed each second, the faults as bands with numbers, and a legend beneath.

Written as SVG by hand: a picture of one kind needs no plotting library (0018-soak.md).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from libs.plots import line, picture, rectangle, step, text
from orderly.faults.broker import LOSSES
from orderly.soak.meter import clock, each_second
from orderly.soak.report import Happened, Report

WIDTH: Final = 1200
LEFT: Final = 64
RIGHT: Final = 24
TOP: Final = 112
PLOT_WIDTH: Final = WIDTH - LEFT - RIGHT
PLOT_HEIGHT: Final = 320
ROW: Final = 22
COLUMNS: Final = 2
NARROWEST_BAND: Final = 3
MARK: Final = 17
"""Between the middles of two numbers in a row: closer ones go into the row above."""

SINGLY_AT_MOST: Final = 48

INK: Final = "#1f2933"
PALE: Final = "#6b7a8c"
GREEN: Final = "#2f7d5b"
RED: Final = "#c2413b"
LIGHT: Final = 0.16
DARK: Final = 0.42
"""Of bands in which the broker forgot something: what it knew is told again, and heard after a rest of 30 s."""

STEPS_S: Final = (5, 10, 15, 30, 60, 120, 300, 600, 1200, 3600)
STEPS: Final = (1, 2, 5, 10, 20, 25, 50, 100, 200, 250, 500, 1000, 2000, 5000)
TICKS_AT_MOST_X: Final = 13
TICKS_AT_MOST_Y: Final = 7


def plot(report: Report) -> str:
    """Draw a report."""
    rows = -(-len(_lines(report)) // COLUMNS)
    height = TOP + PLOT_HEIGHT + 74 + (rows + 1) * ROW + 10
    counts = each_second(report.confirmed_s, report.seconds)
    every = step(max(counts, default=0) * 1.05 or 1, STEPS, TICKS_AT_MOST_Y)
    top = every * -(-max(1, *counts, 1) // every)
    parts = [
        rectangle(0, 0, WIDTH, height, 'fill="#ffffff"'),
        *_heading(report),
        *_bands(report),
        *_axes(report.seconds, top, every),
        _area(counts, report.seconds, top),
        *_marks(report),
        *_legend(report),
    ]
    title = "Orders confirmed per second during a soak"
    return picture(WIDTH, height, title, parts, attributes=f'fill="{INK}" font-size="13"')


def _heading(report: Report) -> Iterator[str]:
    replicas = f", {report.replicas} processes a service" if report.replicas > 1 else ""
    minutes = f"{report.seconds / 60:.0f} min" if report.seconds >= 90 else f"{report.seconds:.0f} s"
    yield text(LEFT, 34, "Orders confirmed per second", 'font-size="20" font-weight="bold"')
    said = f"{report.database}{replicas}, {minutes} under load, seed {report.seed}"
    yield text(LEFT, 56, said, f'fill="{PALE}"')
    found = "everything settled, HTTP and the books agree" if report.clean else "NOT CLEAN"
    summary = (
        f"{report.outcomes.get('confirmed', 0):,} orders confirmed, {len(report.survived)} of "
        f"{len(report.faults)} faults survived, worst pause {report.worst_pause.seconds:.1f} s, {found}"
    )
    yield text(WIDTH - RIGHT, 34, summary, f'text-anchor="end" fill="{GREEN if report.clean else RED}"')


def _bands(report: Report) -> Iterator[str]:
    for fault in report.faults:
        left, right = _x(fault.begin_s, report.seconds), _x(fault.end_s, report.seconds)
        width, bottom = max(right - left, NARROWEST_BAND), TOP + PLOT_HEIGHT
        shade = f'fill="{RED}" opacity="{DARK if fault.fault in LOSSES else LIGHT}"'
        yield rectangle(left, TOP, width, PLOT_HEIGHT, shade)
        yield line(left, TOP, left, bottom, f'stroke="{RED}" opacity="0.5"')


def _axes(seconds: float, top: float, every: float) -> Iterator[str]:
    for number in range(int(top / every) + 1):
        y = _y(number * every, top)
        yield line(LEFT, y, WIDTH - RIGHT, y, 'stroke="#dde3ea"')
        yield text(LEFT - 8, y + 4, f"{number * every:g}", f'text-anchor="end" fill="{PALE}"')
    every_s = step(seconds, STEPS_S, TICKS_AT_MOST_X)
    bottom = TOP + PLOT_HEIGHT
    for at_s in range(0, int(seconds) + 1, int(every_s)):
        x = _x(at_s, seconds)
        yield line(x, bottom, x, bottom + 5, f'stroke="{PALE}"')
        yield text(x, bottom + 20, clock(at_s), f'text-anchor="middle" fill="{PALE}"')
    yield line(LEFT, bottom, WIDTH - RIGHT, bottom, f'stroke="{PALE}"')
    yield text(LEFT + PLOT_WIDTH / 2, bottom + 42, "time (min:s)", f'text-anchor="middle" fill="{PALE}"')
    middle = TOP + PLOT_HEIGHT / 2
    turned = f'text-anchor="middle" fill="{PALE}" transform="rotate(-90 18 {middle:.0f})"'
    yield text(18, middle, "orders / s", turned)


def _area(counts: Sequence[int], seconds: float, top: float) -> str:
    """Draw steps, one a second, filled below."""
    path = [f"M{LEFT} {TOP + PLOT_HEIGHT}"]
    for second, count in enumerate(counts):
        y = _y(count, top)
        path.append(f"L{_x(second, seconds):.1f} {y:.1f}L{_x(second + 1, seconds):.1f} {y:.1f}")
    path.append(f"L{_x(len(counts), seconds):.1f} {TOP + PLOT_HEIGHT}Z")
    return f'<path d="{"".join(path)}" fill="{GREEN}" fill-opacity="0.35" stroke="{GREEN}" stroke-width="1.2"/>'


def _marks(report: Report) -> Iterator[str]:
    """Number the bands above the plot, in two rows; where they stand too close together, one has no number."""
    ends = [0.0, 0.0]
    numbers = {fault.number: told.number for told in _lines(report) for fault in told.faults}
    for fault in report.faults:
        middle = _x((fault.begin_s + fault.end_s) / 2, report.seconds)
        row = next((row for row, end in enumerate(ends) if middle - end >= MARK), None)
        if row is not None:
            ends[row] = middle
            yield from _number(middle, TOP - 12 - 18 * row, numbers[fault.number])


def _legend(report: Report) -> Iterator[str]:
    lines, top = _lines(report), TOP + PLOT_HEIGHT + 84
    rows = -(-len(lines) // COLUMNS)
    for place, told in enumerate(lines):
        column, row = divmod(place, rows)
        x, y = LEFT + column * PLOT_WIDTH / COLUMNS, top + row * ROW
        yield from _number(x + 8, y - 4, told.number)
        yield text(x + 24, y, told.text, 'font-size="11.5"')
    if lines:
        said = "In brackets: the longest time without a confirmed order, begun before the next fault. "
        said += "Dark: the broker forgot something; consumers rest for 30 s before they hear it again."
        yield text(LEFT, top + rows * ROW, said, f'font-size="11.5" fill="{PALE}"')


@dataclass(frozen=True, slots=True)
class _Line:
    """A line of the legend, and the faults that it is about."""

    number: int
    text: str
    faults: Sequence[Happened]


def _lines(report: Report) -> list[_Line]:
    """Give each fault a line; where there are too many, each kind of fault."""
    if len(report.faults) <= SINGLY_AT_MOST:
        return [
            _Line(one.number, f"{clock(one.begin_s)}  {one.says}  {_longest(report, [one])}", [one])
            for one in report.faults
        ]
    kinds: dict[str, list[Happened]] = {}
    for one in report.faults:
        kinds.setdefault(one.fault.says, []).append(one)
    return [
        _Line(number, f"{says}, {len(some)} times  {_longest(report, some)}", some)
        for number, (says, some) in enumerate(kinds.items(), 1)
    ]


def _longest(report: Report, some: Sequence[Happened]) -> str:
    return f"[{max(report.pause_at(fault).seconds for fault in some):.1f} s]"


def _number(x: float, y: float, number: int) -> Iterator[str]:
    attributes = 'text-anchor="middle" fill="#ffffff" font-size="9.5" font-weight="bold"'
    yield f'<circle cx="{x:.1f}" cy="{y:.1f}" r="8.5" fill="{RED}"/>'
    yield text(x, y + 3.5, str(number), attributes)


def _x(seconds: float, whole: float) -> float:
    return LEFT + PLOT_WIDTH * min(seconds / whole, 1) if whole else LEFT


def _y(value: float, top: float) -> float:
    return TOP + PLOT_HEIGHT * (1 - value / top)
