"""Which faults happen, when, and for how long: drawn from a seed, the same again from the same one."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Final

from libs.messaging.durable import ACK_WAIT_S
from orderly.faults import Fault

QUIET_S: Final = 3.0
"""Before the first fault."""

APART_S: Final = (1.5, 5.0)
"""From the end of a fault to the next one, in a soak of minutes."""

FAR_APART_S: Final = 20.0
"""In a long one it may be as long as this: more of the time there is nothing wrong."""

HELD_S: Final = (1.0, 4.0)
"""For how long a fault lasts that does not end by itself."""

REST_S: Final = ACK_WAIT_S + 10
"""From the last loss to the end: consumers rest for one `ack_wait`, and then hear everything again."""


@dataclass(frozen=True, slots=True)
class Planned:
    """A fault, when it happens at the earliest, and for how long, in seconds."""

    fault: Fault
    at_s: float
    held_s: float


def schedule(
    faults: Sequence[Fault], lose: Sequence[Fault], *, seed: int, seconds: float, rest_s: float = REST_S
) -> list[Planned]:
    """Deal faults like cards: each comes once before any comes again, in an order of chance.

    Of those that `lose` what the broker knew one comes first of all, and the next ones 1.5 times `rest_s` apart, so
    that there is more than recovery to be seen. Others happen meanwhile. Just before the end nothing happens.
    """
    chance = Random(f"schedule {seed}")  # noqa: S311 - chance here is to be the same again
    losses = _dealt([fault for fault in faults if fault in lose], chance)
    others = _dealt([fault for fault in faults if fault not in lose], chance)
    planned: list[Planned] = []
    now_s, next_loss_s = QUIET_S, 0.0
    apart_s = min(max(APART_S[1], seconds / 30), FAR_APART_S)
    while now_s < seconds:
        at_s, held_s = now_s + chance.uniform(APART_S[0], apart_s), chance.uniform(*HELD_S)
        now_s = at_s + held_s
        fault = None
        if next_loss_s <= at_s <= seconds - rest_s and (fault := next(losses, None)):
            next_loss_s = at_s + 1.5 * rest_s
        elif now_s + APART_S[1] <= seconds:
            fault = next(others, None)
        if fault:
            planned.append(Planned(fault, at_s, held_s))
    return planned


def _dealt(faults: list[Fault], chance: Random) -> Iterator[Fault]:
    while faults:
        yield from chance.sample(faults, len(faults))
