"""Whom a fault hits: drawn from here by every fault, so that a seed makes the same choices again."""

from collections.abc import Sequence
from random import Random
from typing import Final


class Victims:
    """Draws whom a fault hits. `last` is who was drawn last, for reports."""

    def __init__(self) -> None:
        self._chance = Random()  # noqa: S311 - no secret
        self.last = ""

    def seed(self, seed: str) -> None:
        """Draw the same again from here on."""
        self._chance.seed(seed)
        self.last = ""

    def draw(self, names: Sequence[str]) -> str:
        """Draw one of these."""
        self.last = self._chance.choice(names)
        return self.last


VICTIMS: Final = Victims()
