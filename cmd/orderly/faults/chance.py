"""Whom a fault hits: drawn from here by every fault, so that a seed makes the same choices again."""

from random import Random
from typing import Final

CHANCE: Final = Random()  # noqa: S311 - no secret: whoever causes faults may seed it
