"""A service that a message kills: ``python -m orderly.tests.poisoned NAME``.

Whenever it handles a fact whose description is `POISON`, the process is gone that instant, as by a segmentation fault.
Its successor is a fork of a process that has all modules loaded: loading them twenty times would take a minute.
"""

import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any, Final

from libs.local.supervisor import die_with_parent
from libs.messaging import durable
from libs.messaging.consumer import Consumer
from libs.messaging.envelope import Event
from orderly.tests.crashing import around

POISON: Final = "the end of you"
ACK_WAIT_S: Final = 1.0
"""Half a minute otherwise: as long as what was in hand waits for the next process."""


def die_of_poison(_consumer: Consumer[Any], events: Mapping[str, Sequence[Event[Any]]]) -> None:
    """End this process if the poison is among what it is about to handle."""
    facts = [event.fact for some in events.values() for event in some]
    if any(getattr(fact, "description", None) == POISON for fact in facts):
        os.kill(os.getpid(), signal.SIGKILL)


def passing_on_to(child: int) -> Callable[[int, Any], None]:
    """Have a signal passed on to the life that goes on."""
    return lambda number, _frame: os.kill(child, number)


def main() -> None:
    """Run the service named on the command line, one life after the other, until a life ends in peace."""
    around(Consumer, "_commit", before=die_of_poison)
    durable.ACK_WAIT_S = ACK_WAIT_S  # type: ignore[misc] # final for everybody else
    live = import_module(f"{sys.argv.pop(1)}.__main__").main
    while True:
        child = os.fork()
        if not child:
            die_with_parent()
            live()
            return
        signal.signal(signal.SIGTERM, passing_on_to(child))
        _, status = os.waitpid(child, 0)
        if os.waitstatus_to_exitcode(status) != -signal.SIGKILL:
            return


if __name__ == "__main__":
    main()
