"""The weather of a story: how likely each thing is to go wrong at each opportunity."""

import asyncio
from dataclasses import dataclass, fields
from random import Random

from orderly.simulation.loop import OWNER


@dataclass(slots=True)
class Weather:
    """Likelihoods, each from 0 to 1. `calm` ends everything but the order of things."""

    chance: Random
    slow: float = 0.02
    """A step of database or broker takes a while."""
    between_statements: float = 0.2
    busy: float = 0.0
    """The database does not take a transaction."""
    lost_commit: float = 0.0
    """The connection is lost after the commit: it is there, and its process takes it for failed."""
    refused: float = 0.0
    """The broker does not take a publication, or only the first part of it."""
    lost_confirmation: float = 0.0
    """The broker has stored a publication and does not get to say so."""
    forgotten_ids: float = 0.0
    """What is published a second time is stored a second time."""
    dropped: float = 0.0
    """A delivery never arrives; it comes again after its `ack_wait`."""
    late: float = 0.0
    """A delivery arrives later than those behind it."""
    doubled: float = 0.0
    """A delivery arrives twice."""
    lost_ack: float = 0.0
    lost_hint: float = 0.0
    lost_answer: float = 0.0
    """A client does not get the answer it was given, and asks again under the same key."""

    @classmethod
    def of(cls, chance: Random) -> "Weather":
        """Draw one: some things go wrong often in it, others never."""
        worst = {
            "busy": 0.02,
            "lost_commit": 0.05,
            "refused": 0.2,
            "lost_confirmation": 0.2,
            "forgotten_ids": 0.5,
            "dropped": 0.2,
            "late": 0.3,
            "doubled": 0.3,
            "lost_ack": 0.2,
            "lost_hint": 0.5,
            "lost_answer": 0.3,
        }
        drawn = {name: most * chance.random() if chance.random() < 0.4 else 0.0 for name, most in worst.items()}
        return cls(chance, slow=0.08 * chance.random() ** 2, between_statements=0.3 * chance.random(), **drawn)

    def become(self, other: "Weather") -> None:
        """Change into another weather."""
        for one in fields(self):
            if one.name != "chance":
                setattr(self, one.name, getattr(other, one.name))

    def calm(self) -> None:
        """Let nothing go wrong from here on."""
        self.become(Weather(self.chance, slow=0.0, between_statements=0.0))

    def happens(self, likely: float) -> bool:
        """Draw whether something happens."""
        return likely > 0 and self.chance.random() < likely

    async def step(self) -> None:
        """Pass a boundary: a transaction begins, commits, has committed; a message is sent, taken, acknowledged.

        Others get their turn; now and then, for a while. Whoever is to be killed at a boundary is killed here.
        """
        owner = OWNER.get()
        if owner is not None:
            owner.at_boundary()
        await asyncio.sleep(0.3 * self.chance.random() ** 3 if self.happens(self.slow) else 0)
