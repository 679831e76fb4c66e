"""Every fault that may happen to any `WiredSystem`. A new module of faults is a line here.

A full stream is not among them: it wants a system whose streams were made small.
"""

from typing import Final

from orderly.faults import Fault, broker, network, postgres, processes, storage

EVERY: Final[tuple[Fault, ...]] = (
    *processes.FAULTS,
    *broker.FAULTS,
    *network.FAULTS,
    *postgres.FAULTS,
    storage.DISK_FULL,
)


def faults_on(database: str) -> tuple[Fault, ...]:
    """List what may happen to a system on one kind of database."""
    return tuple(fault for fault in EVERY if database in fault.databases)
