"""A soak as a picture: orders confirmed each second, the faults as bands with numbers, and a legend beneath.

Written as SVG by hand: a picture of one kind needs no plotting library (0018-soak.md).
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Final
from xml.sax.saxutils import escape

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
"""Between the middles of two numbers in a row: closer ones go into the next row above."""

INK: Final = "#1f2933"
PALE: Final = "#6b7a8c"
GREEN: Final = "#2f7d5b"
RED: Final = "#c2413b"
STEPS_S: Final = (5, 10, 15, 30, 60, 120, 300, 600, 1200, 3600)
STEPS: Final = (1, 2, 5, 10, 20, 25, 50, 100, 200, 250, 500, 1000, 2000, 5000)
TICKS_AT_MOST_X: Final = 13
TICKS_AT_MOST_Y: Final = 7

FONT: Final = "font-family=\"Verdana, 'DejaVu Sans', sans-serif\""


def plot(report: Report) -> str:
    """Draw a report."""
    rows = -(-len(report.faults) // COLUMNS)
    height = TOP + PLOT_HEIGHT + 74 + (rows + 1) * ROW + 10
    counts = each_second(report.confirmed_s, report.seconds)
    step = _step(max(counts, default=0) * 1.05 or 1, STEPS, TICKS_AT_MOST_Y)
    top = step * -(-max(1, *counts, 1) // step)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}"',
        f' {FONT} fill="{INK}" font-size="13" role="img">',
        "<title>Orders confirmed per second during a soak</title>",
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
        *_heading(report),
        *_bands(report),
        *_axes(report.seconds, top, step),
        _area(counts, report.seconds, top),
        *_marks(report),
        *_legend(report),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _heading(report: Report) -> Iterator[str]:
    replicas = f", {report.replicas} processes a service" if report.replicas > 1 else ""
    minutes = f"{report.seconds / 60:.0f} min" if report.seconds >= 90 else f"{report.seconds:.0f} s"
    yield _text(LEFT, 34, "Orders confirmed per second", 'font-size="20" font-weight="bold"')
    said = f"{report.database}{replicas}, {minutes} under load, seed {report.seed}"
    yield _text(LEFT, 56, said, f'fill="{PALE}"')
    found = "everything settled, HTTP and the books agree" if report.clean else "NOT CLEAN"
    summary = (
        f"{report.outcomes.get('confirmed', 0):,} orders confirmed, {len(report.survived)} of "
        f"{len(report.faults)} faults survived, worst pause {report.worst_pause.seconds:.1f} s, {found}"
    )
    yield _text(WIDTH - RIGHT, 56, summary, f'text-anchor="end" fill="{GREEN if report.clean else RED}"')


def _bands(report: Report) -> Iterator[str]:
    for fault in report.faults:
        left, right = _x(fault.begin_s, report.seconds), _x(fault.end_s, report.seconds)
        width, bottom = max(right - left, NARROWEST_BAND), TOP + PLOT_HEIGHT
        yield f'<rect x="{left:.1f}" y="{TOP}" width="{width:.1f}" height="{PLOT_HEIGHT}" fill="{RED}" opacity="0.16"/>'
        yield f'<line x1="{left:.1f}" y1="{TOP}" x2="{left:.1f}" y2="{bottom}" stroke="{RED}" opacity="0.5"/>'


def _axes(seconds: float, top: float, step: float) -> Iterator[str]:
    for number in range(int(top / step) + 1):
        y = _y(number * step, top)
        yield f'<line x1="{LEFT}" y1="{y:.1f}" x2="{WIDTH - RIGHT}" y2="{y:.1f}" stroke="#dde3ea"/>'
        yield _text(LEFT - 8, y + 4, f"{number * step:g}", f'text-anchor="end" fill="{PALE}"')
    every_s = _step(seconds, STEPS_S, TICKS_AT_MOST_X)
    bottom = TOP + PLOT_HEIGHT
    for at_s in range(0, int(seconds) + 1, int(every_s)):
        x = _x(at_s, seconds)
        yield f'<line x1="{x:.1f}" y1="{bottom}" x2="{x:.1f}" y2="{bottom + 5}" stroke="{PALE}"/>'
        yield _text(x, bottom + 20, clock(at_s), f'text-anchor="middle" fill="{PALE}"')
    yield f'<line x1="{LEFT}" y1="{bottom}" x2="{WIDTH - RIGHT}" y2="{bottom}" stroke="{PALE}"/>'
    yield _text(LEFT + PLOT_WIDTH / 2, bottom + 42, "time (min:s)", f'text-anchor="middle" fill="{PALE}"')
    middle = TOP + PLOT_HEIGHT / 2
    turned = f'text-anchor="middle" fill="{PALE}" transform="rotate(-90 18 {middle:.0f})"'
    yield _text(18, middle, "orders / s", turned)


def _area(counts: Sequence[int], seconds: float, top: float) -> str:
    """Draw steps, one a second, filled below."""
    path = [f"M{LEFT} {TOP + PLOT_HEIGHT}"]
    for second, count in enumerate(counts):
        y = _y(count, top)
        path.append(f"L{_x(second, seconds):.1f} {y:.1f}L{_x(second + 1, seconds):.1f} {y:.1f}")
    path.append(f"L{_x(len(counts), seconds):.1f} {TOP + PLOT_HEIGHT}Z")
    return f'<path d="{"".join(path)}" fill="{GREEN}" fill-opacity="0.35" stroke="{GREEN}" stroke-width="1.2"/>'


def _marks(report: Report) -> Iterator[str]:
    """Number the bands above the plot, in two rows where they stand close together."""
    middles = [_x((fault.begin_s + fault.end_s) / 2, report.seconds) for fault in report.faults]
    raised = [False]
    for before, middle in pairwise(middles):
        raised.append(middle - before < MARK and not raised[-1])
    for fault, middle, is_raised in zip(report.faults, middles, raised, strict=False):
        y = TOP - (30 if is_raised else 12)
        yield f'<circle cx="{middle:.1f}" cy="{y}" r="8.5" fill="{RED}"/>'
        attributes = 'text-anchor="middle" fill="#ffffff" font-size="9.5" font-weight="bold"'
        yield _text(middle, y + 3.5, str(fault.number), attributes)


def _legend(report: Report) -> Iterator[str]:
    top = TOP + PLOT_HEIGHT + 84
    rows = -(-len(report.faults) // COLUMNS)
    for place, fault in enumerate(report.faults):
        column, row = divmod(place, rows)
        x, y = LEFT + column * PLOT_WIDTH / COLUMNS, top + row * ROW
        yield f'<circle cx="{x + 8:.1f}" cy="{y - 4:.1f}" r="8.5" fill="{RED}"/>'
        number = 'text-anchor="middle" fill="#ffffff" font-size="9.5" font-weight="bold"'
        yield _text(x + 8, y - 0.5, str(fault.number), number)
        yield _text(x + 24, y, _described(report, fault), 'font-size="11.5"')
    if report.faults:
        said = "In brackets: the longest time without a confirmed order, begun before the next fault."
        yield _text(LEFT, top + rows * ROW, said, f'font-size="11.5" fill="{PALE}"')


def _described(report: Report, fault: Happened) -> str:
    pause_s = report.pause_at(fault).seconds
    return f"{clock(fault.begin_s)} to {clock(fault.end_s)}  {fault.says}  [{pause_s:.1f} s]"


def _text(x: float, y: float, text: str, attributes: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" {attributes}>{escape(text)}</text>'


def _step(whole: float, steps: Sequence[int], at_most: int) -> int:
    """Choose the finest step that leads to no more ticks than fit."""
    return next((step for step in steps if whole / step < at_most), steps[-1])


def _x(seconds: float, whole: float) -> float:
    return LEFT + PLOT_WIDTH * min(seconds / whole, 1) if whole else LEFT


def _y(value: float, top: float) -> float:
    return TOP + PLOT_HEIGHT * (1 - value / top)
