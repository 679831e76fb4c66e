"""Greenlets that are used again, for SQLAlchemy's asyncio engines.

SQLAlchemy makes a greenlet for each call: each execution, commit, connection taken and given back. A new greenlet
needs a stack of its own from the kernel (Python 3.11 and later), and gives it back a moment later; what that costs says
`./just bench calls`.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from greenlet import getcurrent, greenlet
from sqlalchemy.ext.asyncio import engine

T = TypeVar("T")

KEPT: Final = 64
"""How many are kept for later, in each thread."""


@dataclass(slots=True)
class _Done:
    """How a call ended."""

    result: Any = None
    error: BaseException | None = None


class _Reused(greenlet):  # type: ignore[misc] # it ships no types
    __sqlalchemy_greenlet_provider__ = True  # what SQLAlchemy asks of a greenlet before it awaits something in it


class _Idle(threading.local):
    def __init__(self) -> None:
        self.greenlets: list[_Reused] = []


_idle: Final = _Idle()


def reuse() -> None:
    """Have the connections of SQLAlchemy's asyncio engines make their calls with `call`, from now on."""
    engine.greenlet_spawn = call  # type: ignore[attr-defined,assignment] # the name that they look up


async def call(function: Callable[..., T], *arguments: Any, _require_await: bool = False, **options: Any) -> T:
    """Call a function that awaits by SQLAlchemy's `await_`. Like `sqlalchemy.util.greenlet_spawn`."""
    idle = _idle.greenlets
    worker = idle.pop() if idle else _new()
    current = getcurrent()
    worker.parent, worker.gr_context = current, current.gr_context
    said = worker.switch((function, arguments, options))
    while not isinstance(said, _Done):
        try:
            value = await said
        except BaseException as failure:  # noqa: BLE001 - for the function to see
            said = worker.throw(failure)
        else:
            said = worker.switch(value)
    if len(idle) < KEPT:
        idle.append(worker)
    result: T = said.result
    error, said.result, said.error = said.error, None, None  # the greenlet remembers it until the next call
    if error is None:
        return result
    try:
        raise error
    finally:
        del error  # it and a frame that hold each other would stay until garbage is collected


def _new() -> _Reused:
    worker = _Reused(_work)
    worker.switch()  # until it waits for its first call: what a greenlet begins with it keeps as long as it lives
    return worker


def _work() -> None:
    done: _Done | None = None
    while True:
        function, arguments, options = _hand_over(done)
        try:
            done = _Done(function(*arguments, **options))
        except BaseException as error:  # noqa: BLE001 - for the caller to see
            done = _Done(error=error)
        del function, arguments, options  # nothing of a call outlives it


def _hand_over(done: _Done | None) -> Any:
    """Hand over how a call ended, and sleep until the next one."""
    caller = getcurrent().parent
    assert caller is not None
    return caller.switch(done)
