"""Every fault there is. A new module of faults is a line here."""

from typing import Final

from orderly.faults import Fault, broker, processes

EVERY: Final[tuple[Fault, ...]] = (*processes.FAULTS, *broker.FAULTS)


def faults_on(database: str) -> tuple[Fault, ...]:
    """List what may happen to a system on one kind of database."""
    return tuple(fault for fault in EVERY if database in fault.databases)
