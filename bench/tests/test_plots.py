"""Plots say what the figures say."""

import xml.etree.ElementTree as ET
from dataclasses import replace

import pytest

from bench import plots
from bench.charts import ACROSS, LEFT, linear, logarithmic
from bench.report import Result
from bench.tests.made import ROUND, result

SVG = "{http://www.w3.org/2000/svg}"


def texts(svg: str) -> list[str]:
    return [one.text or "" for one in ET.fromstring(svg).iter(f"{SVG}text")]


def widths(svg: str, shade: str) -> list[float]:
    return [float(one.attrib["width"]) for one in ET.fromstring(svg).iter(f"{SVG}rect") if one.get("class") == shade]


def test_bars_are_as_long_as_orders_are_many() -> None:
    svg = plots.orders_per_second([result("orderly"), result("faststream", slower=4)])
    (ours,), (theirs,) = widths(svg, "ours"), widths(svg, "theirs")
    assert ours == pytest.approx(ACROSS)
    assert theirs == pytest.approx(ACROSS / 4, abs=0.1)
    assert [said for said in texts(svg) if said.endswith(" / s")] == ["orders / s", "50 / s", "12.5 / s"]


def test_the_spread_is_from_the_least_to_the_most() -> None:
    rounds = [replace(ROUND, lasted_s=seconds) for seconds in (1.0, 2.0, 4.0)]  # 100, 50 and 25 a second
    svg = plots.orders_per_second([Result("orderly", 64, rounds)])
    spread = [one for one in ET.fromstring(svg).iter(f"{SVG}line") if one.get("class") == "spread"]
    assert [float(spread[0].attrib[end]) for end in ("x1", "x2")] == [LEFT + ACROSS / 4, LEFT + ACROSS]


def test_stacks_are_once_more_drawn_for_ours_alone() -> None:
    dear = replace(ROUND, cpu_us={"orders": 1000.0, "nats": 500.0, "somebody": 500.0})
    svg = plots.cpu([result("orderly"), Result("faststream", 64, [dear])])
    # in the legend, in ours among all, in theirs, in ours alone
    assert widths(svg, "nats") == pytest.approx([12, ACROSS * 50 / 2000, ACROSS / 4, ACROSS / 3], abs=0.1)
    assert [said for said in texts(svg) if said.endswith("µs")].count("150 µs") == 2
    assert "others" in texts(svg)
    assert "This system alone, on a scale of its own" not in texts(plots.cpu([result("orderly")]))


def test_dots_are_at_their_percentiles() -> None:
    svg = plots.latency([result("orderly"), result("faststream", slower=10)])
    dots = [float(one.attrib["cx"]) for one in ET.fromstring(svg).iter(f"{SVG}circle")]
    at = logarithmic(10.0, 1000.0).at
    assert dots == pytest.approx([at(ms) for ms in (10, 100, 100, 100, 1000, 1000)], abs=0.1)
    assert "10 · 100 · 100 ms" in texts(svg)


def test_groups_are_by_the_number_of_clients() -> None:
    drawn = plots.of_orders([result("orderly", 256), result("orderly", 1), result("faststream", 256, wrong=("x",))])
    assert set(drawn) == {"orders-per-second.svg", "latency.svg", "cpu.svg"}
    said = texts(drawn["orders-per-second.svg"])
    assert said.index("1 client") < said.index("256 clients")
    assert "faststream" not in said
    assert plots.of_orders([result("faststream", wrong=("x",))]) == {}


def test_colours_are_for_light_and_for_dark_screens() -> None:
    for svg in plots.of_orders([result("orderly"), result("orderly-hot"), result("faststream-tuned")]).values():
        light, _, dark = svg.partition("@media (prefers-color-scheme:dark)")
        used = {one.get("class", "") for one in ET.fromstring(svg).iter() if one.get("class")}
        for name in {each for several in used for each in several.split()}:
            assert f".{name}{{" in light
            assert f".{name}{{" in dark


def test_axes() -> None:
    axis = linear(100.0)
    assert (axis.at(0), axis.at(100)) == (LEFT, LEFT + ACROSS)
    assert axis.ticks == [0, 20, 40, 60, 80, 100]
    assert linear(0.0).at(0) == LEFT
