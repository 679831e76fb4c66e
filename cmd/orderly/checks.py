"""A check of ``test-image``: what it finds, and the line that it prints."""

import time
from collections.abc import Callable
from typing import Final

from libs.local.servers import CannotStart

TAG: Final = "orderly:test"
"""What the image is called that is looked at."""

Check = Callable[[], str]
"""Returns a detail for its line; raises `Wrong`."""


class Wrong(Exception):
    """What a check found."""


def say(sentence: str) -> None:
    """Print what happens between checks."""
    print(f"  {sentence}", flush=True)


def passes(name: str, check: Check) -> bool:
    """Make a check and print a line about it."""
    began = time.monotonic()
    try:
        mark, detail = "✓", check()
    except (Wrong, CannotStart) as error:
        mark, detail = "✗", str(error)
    print(f"{mark} {name:<45} {time.monotonic() - began:5.1f} s  {detail}".rstrip(), flush=True)
    return mark == "✓"
