"""Faults: what may happen to a running system. Each is caused and mended on purpose, in tests and in `soak`."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from orderly.system import System


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that happens to a running system. Entering what `cause` gives makes it happen, leaving mends it."""

    name: str
    says: str
    cause: Callable[["System"], AbstractAsyncContextManager[None]]
    databases: frozenset[str] = frozenset({"sqlite", "postgres"})
