"""Rounds and results as they might have been."""

from dataclasses import replace

from bench.report import Result
from bench.rounds import Round

ROUND = Round(
    clients=64,
    lasted_s=2.0,
    seconds=[0.010] * 98 + [0.050, 0.100],
    outcomes={"confirmed": 100},
    failures={},
    pending=0,
    cpu_us={"orders": 100.0, "nats": 50.0},
    memory={"orders": 80_000_000, "nats": 20_000_000},
    flushes=0.5,
    stored=4.0,
    disk_flushes=None,
    foreign=0.01,
    wrong=(),
)


def result(name: str, clients: int = 64, *, slower: float = 1.0, wrong: tuple[str, ...] = ()) -> Result:
    """Three rounds that are alike."""
    one = replace(ROUND, lasted_s=ROUND.lasted_s * slower, seconds=[s * slower for s in ROUND.seconds], wrong=wrong)
    return Result(name, clients, [one, one, one])
