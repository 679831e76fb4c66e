"""Numbers, axes and shapes of plots."""

import xml.etree.ElementTree as ET

import pytest

from libs.plots import amount, decades, line, picture, rectangle, round_step, step, text


def test_a_picture_is_whole_and_says_what_was_said() -> None:
    parts = [text(1, 2, "a < b & c", 'class="x"'), line(0, 0, 1, 1, ""), rectangle(0, 0, 1.26, 1, "")]
    root = ET.fromstring(picture(10, 20, "a & b", parts, style=".x{fill:red}"))
    assert root.attrib["viewBox"] == "0 0 10 20"
    assert [one.text for one in root][:3] == ["a & b", ".x{fill:red}", "a < b & c"]
    assert root[-1].attrib["width"] == "1.3"


@pytest.mark.parametrize(("whole", "chosen"), [(9, 2), (60, 10), (10_000, 50)])
def test_the_finest_step_that_fits(whole: float, chosen: int) -> None:
    assert step(whole, (1, 2, 5, 10, 50), 7) == chosen


@pytest.mark.parametrize(("whole", "step"), [(9.0, 2.0), (1.0, 0.2), (2900.0, 500.0), (16_000.0, 2000.0)])
def test_steps_are_round(whole: float, step: float) -> None:
    assert round_step(whole, 8) == pytest.approx(step)


def test_logarithmic_axes_begin_and_end_at_round_numbers() -> None:
    assert decades(4.0, 30.0) == (2.0, 50.0, [2.0, 5.0, 10.0, 20.0, 50.0])
    assert decades(4.0, 3000.0) == (2.0, 5000.0, [10.0, 100.0, 1000.0])
    assert decades(10.0, 10.0)[:2] == (10.0, 20.0)


@pytest.mark.parametrize(
    ("number", "said"), [(0.1234, "0.123"), (12.34, "12.3"), (123.4, "123"), (2864.0, "2,860"), (16_000.0, "16,000")]
)
def test_amounts_have_three_digits(number: float, said: str) -> None:
    assert amount(number) == said
