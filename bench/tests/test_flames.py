"""Flame graphs: they say nothing about the machine that they were drawn on."""

import sys
from pathlib import Path

from bench.flames import without_folders


def test_a_picture_names_no_folder_of_this_machine() -> None:
    root = Path(__file__).parents[2]
    named = f"{sys.prefix}/bin/orders {root}/libs/ids.py {sys.base_prefix}/lib"
    drawn = f'<svg xmlns="http://www.w3.org/2000/svg">{named}</svg>'
    assert without_folders(drawn) == '<svg xmlns="http://www.w3.org/2000/svg">bin/orders libs/ids.py lib</svg>'
