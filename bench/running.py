"""What a contestant is, and what is known of one that runs."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from bench.folders import fresh_folder

ACCOUNTS: Final = 64


@dataclass(frozen=True, slots=True)
class Running:
    """A contestant that runs: where it listens, its processes and servers, and how to have its books examined."""

    url: str
    folder: Path
    pids: Mapping[str, int]
    """By label: ``orders``, ``orders#2``, ``nats``, ``postgres``."""

    nats: str
    postgres: str
    """One of its databases on the PostgreSQL server; nothing when it has none."""

    examine: Callable[[], Awaitable[list[str]]]
    """Waits until everything is settled; returns what is wrong with the books."""

    outside: Sequence[int] = ()
    """Processes among `pids` that the benchmark has not started."""

    replicas: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Where the processes of each service listen, if they have metrics of their own."""


@dataclass(frozen=True, slots=True)
class Contestant:
    """Somebody to compare. `clients` are how many at a time it is measured with, unless told otherwise."""

    name: str
    says: str
    running: Callable[[Path], AbstractAsyncContextManager[Running]]
    clients: Sequence[int] = (64,)
    accounts: int = ACCOUNTS
    """Over how many people the clients are spread, at most."""


@asynccontextmanager
async def started(contestant: Contestant) -> AsyncIterator[Running]:
    """Start a contestant in a fresh folder, which is gone afterwards."""
    with fresh_folder() as folder:
        async with contestant.running(folder) as running:
            yield running
