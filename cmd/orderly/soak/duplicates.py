"""How often the broker delivered what had been handled already, by the services' own logs."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

_HANDLED: Final = '"event":"handled"'


def handled_again(logs: Path, services: Sequence[str]) -> int:
    """Count messages that a service handled, and had handled before, in whichever of its processes.

    A process that was killed between its commit and its log line hides one; so this is the least that it was.
    """
    total = 0
    for service in services:
        seen: set[str] = set()
        for name in _handled(logs, service):
            total += name in seen
            seen.add(name)
    return total


def _handled(logs: Path, service: str) -> Iterator[str]:
    """Read the ids of messages from the log of each replica, and from what was put aside when it became long."""
    for path in (*logs.glob(f"{service}.log"), *logs.glob(f"{service}.old.log"), *logs.glob(f"{service}-*.log")):
        with path.open(encoding="utf-8", errors="replace") as lines:
            for line in lines:
                if _HANDLED in line:
                    try:
                        yield from json.loads(line)["message_ids"]
                    except ValueError:  # cut off when the process was killed
                        continue
