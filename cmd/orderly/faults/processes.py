"""Processes of services, and the gateway's, that are killed, told to stop, or stand still for a while."""

import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import Final

from orderly.faults import Fault
from orderly.faults.chance import VICTIMS
from orderly.system import System


def any_process(system: System) -> str:
    """Draw a replica of a service, or the gateway."""
    return VICTIMS.draw(sorted(system.services))


def _ended_by(number: signal.Signals) -> Callable[[System], AbstractAsyncContextManager[None]]:
    @asynccontextmanager
    async def cause(system: System) -> AsyncIterator[None]:
        await system.supervisor.restart(any_process(system), number=number)
        yield

    return cause


@asynccontextmanager
async def _standing_still(system: System) -> AsyncIterator[None]:
    async with stopped(system, any_process(system)):
        yield


@asynccontextmanager
async def stopped(system: System, label: str) -> AsyncIterator[None]:
    """Have a process stand still until the end of the block, unless it dies meanwhile."""
    pid = system.supervisor.pid(label)
    if pid is not None:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        if pid is not None:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


FAULTS: Final = (
    Fault("process-killed", "a process is killed", _ended_by(signal.SIGKILL)),
    Fault("process-ended", "a process is told to stop", _ended_by(signal.SIGTERM)),
    Fault("process-stopped", "a process stands still", _standing_still),
)
