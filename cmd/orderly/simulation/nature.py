"""Time and chance as a story has them: what the code asks `datetime`, `time` and `os` for comes from the seed.

The project's modules are given others of these names while a story is told, and their own back afterwards. Nothing in
them knows of it, and nothing outside them is touched.
"""

import datetime as dt
import os
import random
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from random import Random
from types import ModuleType
from typing import Any, Final

from libs import ids

BEGINNING: Final = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
_BEGINNING_S: Final = int(BEGINNING.timestamp())
_PACKAGES: Final = ("libs", "auth", "billing", "notifications", "orders", "profiles")


class _Moment(type):
    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, dt.datetime)


class _Stand:
    """Stands in for a module: some of its names are others, the rest are its own."""

    def __init__(self, module: ModuleType, **others: Any) -> None:
        self._module = module
        self.__dict__.update(others)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


@contextmanager
def nature(now: Callable[[], float], chance: Random) -> Iterator[None]:
    """Have the project's modules ask `now` (seconds since the beginning) for the time, and `chance` for bytes."""
    replaced: dict[int, Any] = {
        id(dt.datetime): _datetime(now),
        id(time): _Stand(
            time,
            time=lambda: _BEGINNING_S + now(),
            time_ns=lambda: _BEGINNING_S * 1_000_000_000 + int(now() * 1e9),
            monotonic=now,
            perf_counter=now,
        ),
        id(os): _Stand(os, urandom=chance.randbytes),
        id(random): _Stand(random, shuffle=chance.shuffle),
    }
    changed: list[tuple[ModuleType, str, Any]] = []
    counter = ids._last  # noqa: SLF001 - this, and what was drawn, a process remembers from id to id
    ids._last = 0  # noqa: SLF001 - as above
    ids.draw_anew()
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] in _PACKAGES and ".tests" not in name:
            for attribute, value in list(vars(module).items()):
                if id(value) in replaced:
                    changed.append((module, attribute, value))
                    setattr(module, attribute, replaced[id(value)])
    try:
        yield
    finally:
        for module, attribute, value in changed:
            setattr(module, attribute, value)
        ids._last = max(counter, 0)  # noqa: SLF001 - as above
        ids.draw_anew()


def _datetime(now: Callable[[], float]) -> Any:
    class Datetime(dt.datetime, metaclass=_Moment):
        @classmethod
        def now(cls, tz: dt.tzinfo | None = None) -> Any:
            return (BEGINNING + dt.timedelta(seconds=now())).astimezone(tz)

        @classmethod
        def fromtimestamp(cls, timestamp: float, tz: dt.tzinfo | None = None) -> Any:
            return dt.datetime.fromtimestamp(timestamp, tz)

        @classmethod
        def fromisoformat(cls, text: str) -> Any:
            return dt.datetime.fromisoformat(text)

    return Datetime
