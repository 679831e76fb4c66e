"""The figures of orders as plots: how many a second, how long they take, what they cost."""

from collections.abc import Iterator, Sequence
from typing import Final

from bench.charts import (
    BAR,
    PROCESSES,
    Axis,
    Panel,
    chart,
    colour,
    colour_of_process,
    linear,
    logarithmic,
)
from bench.contestants import THEIRS
from bench.figures import Figure, by_service
from bench.report import SHARES, Result
from libs.plots import amount, line, rectangle, text

RADII: Final = dict(zip(SHARES, (6.5, 5.0, 3.5), strict=True))
"""Of the dots of percentiles: the rarer the smaller."""


def of_orders(results: Sequence[Result]) -> dict[str, str]:
    """Draw the plots of those that have a result; give them by file name."""
    sound = sorted((one for one in results if not one.wrong), key=lambda one: one.clients)
    if not sound:
        return {}
    return {
        "orders-per-second.svg": orders_per_second(sound),
        "latency.svg": latency(sound),
        "cpu.svg": cpu(sound),
    }


def orders_per_second(results: Sequence[Result]) -> str:
    """Draw bars, with the spread of the rounds across their ends."""
    axis = linear(max(one.per_second.most for one in results))

    def draw(one: Result, y: float, axis: Axis) -> Iterator[str]:
        yield _bar(axis.at(0), axis.at(one.per_second.median), y, colour(one.name))
        yield from _spread(one.per_second, y, axis)
        yield _label(axis.at(one.per_second.most), y, f"{amount(one.per_second.median)} / s")

    panel = Panel(results, axis, "orders / s", draw)
    return chart("Orders per second", f"{_rounds(results)}; the line is from the least to the most", [panel])


def latency(results: Sequence[Result]) -> str:
    """Draw a dot for each percentile."""
    figures = [one.percentile(share) for one in results for share in SHARES]
    axis = logarithmic(min(each.least for each in figures), max(each.most for each in figures))

    def draw(one: Result, y: float, axis: Axis) -> Iterator[str]:
        found = {share: one.percentile(share) for share in SHARES}
        first, last = found[SHARES[0]], found[SHARES[-1]]
        yield line(axis.at(first.median), y, axis.at(last.median), y, 'class="axis" stroke-width="2"')
        for share, figure in found.items():
            yield from _spread(figure, y, axis)
            dot = f'class="{colour(one.name)} mark" stroke-width="1"'
            yield f'<circle cx="{axis.at(figure.median):.1f}" cy="{y:.1f}" r="{RADII[share]}" {dot}/>'
        said = " · ".join(amount(figure.median) for figure in found.values())
        yield _label(axis.at(last.most) + 2, y, f"{said} ms")

    subtitle = f"from the request: 50 % · 99 % · 99.9 % of the orders have it (large to small dots); {_rounds(results)}"
    return chart("Milliseconds to the final outcome", subtitle, [Panel(results, axis, "ms, logarithmic", draw)])


def cpu(results: Sequence[Result]) -> str:
    """Draw stacks by process; where others dwarf our own, those once more, larger."""
    ours = [one for one in results if not one.name.startswith(THEIRS)]
    panels = [_stacks(results, "")]
    if ours and len(ours) < len(results):
        panels.append(_stacks(ours, "This system alone, on a scale of its own"))
    names = {label for one in results for label in _by_service(one)}
    legend: list[tuple[str, str]] = [(name, name) for name in PROCESSES if name in names]
    legend += [("other", "others")] if names - set(PROCESSES) else []
    return chart("CPU time for an order", f"by process, with the servers; {_rounds(results)}", panels, legend)


def _stacks(results: Sequence[Result], says: str) -> Panel:
    def draw(one: Result, y: float, axis: Axis) -> Iterator[str]:
        sofar = 0.0
        for name, us in _by_service(one).items():
            yield _bar(axis.at(sofar), axis.at(sofar + us), y, colour_of_process(name))
            sofar += us
        yield _label(axis.at(sofar), y, f"{amount(sofar)} µs")

    return Panel(results, linear(max(sum(_by_service(one).values()) for one in results)), "µs", draw, says)


def _by_service(one: Result) -> dict[str, float]:
    """The CPU of all replicas of a service together, in the order of a stack."""
    order = {name: place for place, name in enumerate(PROCESSES)}
    found = by_service(one.cpu_us_by_process())
    return dict(sorted(found.items(), key=lambda item: order.get(item[0], len(order))))


def _bar(left: float, right: float, y: float, shade: str) -> str:
    return rectangle(left, y - BAR / 2, max(right - left, 0.5), BAR, f'class="{shade}"')


def _spread(figure: Figure, y: float, axis: Axis) -> Iterator[str]:
    left, right = axis.at(figure.least), axis.at(figure.most)
    if right - left < 1:
        return
    thin = 'class="spread" stroke-width="1.3"'
    yield line(left, y, right, y, thin)
    for x in (left, right):
        yield line(x, y - 4, x, y + 4, thin)


def _label(x: float, y: float, said: str) -> str:
    return text(x + 8, y + 4.5, said, 'class="ink" font-size="12.5"')


def _rounds(results: Sequence[Result]) -> str:
    most = max(len(one.rounds) for one in results)
    return f"median of {most} rounds" if most > 1 else "a single round"
