"""Faults of the broker's process: it is stopped for a while, or stands still."""

import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from orderly.faults import Fault
from orderly.system import System


@asynccontextmanager
async def _nats_stopped(system: System) -> AsyncIterator[None]:
    await system.supervisor.stop(["nats"])
    try:
        yield
    finally:
        await system.start_nats()


@asynccontextmanager
async def _nats_paused(system: System) -> AsyncIterator[None]:
    pid = system.supervisor.pid("nats")
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


FAULTS: Final = (
    Fault("nats-stopped", "NATS is stopped for a while", _nats_stopped),
    Fault("nats-paused", "NATS stands still", _nats_paused),
)
