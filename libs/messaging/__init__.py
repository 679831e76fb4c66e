"""Messages: a bus (JetStream, or its in-memory twin), the outbox and its relay, consumers, awaited answers.

What a program needs to take part stands here, for those who use nothing else of this repository. It is imported when
it is asked for: the parts of this package import each other, and must not meet themselves half made.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from libs.contracts import Fact
    from libs.messaging.consumer import Listens
    from libs.messaging.envelope import Event, Origin
    from libs.messaging.participant import taking_part
    from libs.messaging.unit import Unit
    from libs.storage.sets import insert_new

__all__ = ["Event", "Fact", "Listens", "Origin", "Unit", "insert_new", "taking_part"]

_PLACES: Final = {
    "Event": "libs.messaging.envelope",
    "Fact": "libs.contracts",
    "Listens": "libs.messaging.consumer",
    "Origin": "libs.messaging.envelope",
    "Unit": "libs.messaging.unit",
    "insert_new": "libs.storage.sets",
    "taking_part": "libs.messaging.participant",
}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_PLACES[name]), name)
