"""A service that dies at given points, like a machine whose power fails: ``python -m orderly.tests.crashing NAME``.

The points stand in the file that `CRASH_AT` names, one a line, as ``<point> <type of fact>``. The process takes a line
away when it gets there, and is gone that instant.
"""

import os
import signal
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextvars import ContextVar
from importlib import import_module
from pathlib import Path
from typing import Any, Final

from libs.files import write_whole
from libs.messaging import durable, outbox
from libs.messaging.awaiting import Awaited
from libs.messaging.consumer import Consumer
from libs.messaging.envelope import Outgoing
from libs.messaging.pull import _Delivery
from libs.messaging.relay import Relay, Stored
from libs.service import Running

STATING: Final = ("written", "committed", "published", "marked")
"""Where it may die with a fact that it states: before the commit, after it, stored but not marked, marked."""

HANDLING: Final = ("handled", "handled and committed", "acknowledging", "acknowledged")
"""Where it may die with a fact that it handles."""

AWAITING: Final = "awaiting"
STOPPING: Final = "stopping"
ANY: Final = "-"

ACK_WAIT_S: Final = 3.0
"""Half a minute otherwise: as long as what was in hand waits for the next process."""

_handled: ContextVar[tuple[str, ...]] = ContextVar("_handled", default=())


class Fuse:
    """What ends the process."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def reach(self, point: str, kinds: Iterable[str] = (ANY,)) -> None:
        """Die if this is one of the points, with one of `kinds` of facts; that line of the file is gone then."""
        reached = [f"{point} {kind}" for kind in kinds]
        for line in lines_of(self._file):
            if line in reached:
                write_whole(self._file, "\n".join(one for one in lines_of(self._file) if one != line).encode())
                os.kill(os.getpid(), signal.SIGKILL)


def lines_of(file: Path) -> list[str]:
    """Read which points are left."""
    return file.read_text().splitlines()


def kinds_of(messages: Sequence[Outgoing]) -> tuple[str, ...]:
    """List the types of facts among messages."""
    return tuple({message.subject.rsplit(".", 1)[0] for message in messages})


def kinds_stored(stored: Sequence[Stored]) -> tuple[str, ...]:
    """List the types of facts among what a stream keeps."""
    return kinds_of([message for some in stored for message in some.messages])


def lay(fuse: Fuse) -> None:
    """Lay the fuse through everything that a process does about facts."""
    around(outbox, "write", after=lambda _connection, messages: fuse.reach("written", kinds_of(messages)))
    around(outbox, "write", after=lambda _connection, _messages: fuse.reach("handled", _handled.get()))
    offer = Relay.offer

    def offering(self: Relay, messages: Sequence[Outgoing]) -> None:
        fuse.reach("committed", kinds_of(messages))
        fuse.reach("handled and committed", _handled.get())
        offer(self, messages)

    Relay.offer = offering  # type: ignore[method-assign] # a wrapper, as everything here
    around(Relay, "_mark", before=lambda _self, stored: fuse.reach("published", kinds_stored(stored)))
    around(Relay, "_mark", after=lambda _self, stored: fuse.reach("marked", kinds_stored(stored)))
    around(Consumer, "_commit", before=_note_what_is_handled)
    around(_Delivery, "ack", before=lambda delivery: fuse.reach("acknowledging", kind_of(delivery)))
    acknowledge = _Delivery.ack

    async def acknowledging(self: _Delivery) -> None:
        await acknowledge(self)
        if kind_of(self):
            await self._pull._client.flush()
            fuse.reach("acknowledged", kind_of(self))

    _Delivery.ack = acknowledging  # type: ignore[method-assign] # a wrapper, as everything here
    around(Awaited, "outcome", before=lambda *_: fuse.reach(AWAITING))
    around(Running, "_finish", before=lambda *_: fuse.reach(STOPPING))


def _note_what_is_handled(_consumer: Consumer[Any], events: Mapping[str, Sequence[Any]]) -> None:
    _handled.set(tuple(name for name, some in events.items() if some))


def kind_of(delivery: _Delivery) -> tuple[str, ...]:
    """Name the type of the fact that was delivered."""
    return (delivery.subject.rsplit(".", 1)[0],)


def around(
    owner: Any, name: str, *, before: Callable[..., object] | None = None, after: Callable[..., object] | None = None
) -> None:
    """Have something done before or after a coroutine function of a class or module."""
    does = getattr(owner, name)

    async def doing(*arguments: Any, **options: Any) -> Any:
        if before:
            before(*arguments)
        result = await does(*arguments, **options)
        if after:
            after(*arguments)
        return result

    setattr(owner, name, doing)


def main() -> None:
    """Run the service named on the command line, with a fuse."""
    lay(Fuse(Path(os.environ["CRASH_AT"])))
    durable.ACK_WAIT_S = ACK_WAIT_S  # type: ignore[misc] # final for everybody else
    name = sys.argv.pop(1)
    import_module(f"{name}.__main__").main()


if __name__ == "__main__":
    main()
