"""A service whose consumers rest for seconds instead of half a minute: ``python -m orderly.tests.hurrying NAME``."""

import sys
from dataclasses import replace
from importlib import import_module
from typing import Final

from libs.local.supervisor import Program
from libs.messaging import durable, own_stream, pull
from orderly.services import NAMES
from orderly.system import System

ACK_WAIT_S: Final = 3.0
CHECK_EVERY_S: Final = 3.0


class Hurried(System):
    """A system of such services."""

    def _programs(self) -> list[Program]:
        return [_hurried(program) if program.name in NAMES else program for program in super()._programs()]


def _hurried(program: Program) -> Program:
    return replace(program, argv=[sys.executable, "-m", "orderly.tests.hurrying", program.name])


def main() -> None:
    """Run the service named on the command line."""
    durable.ACK_WAIT_S = ACK_WAIT_S  # type: ignore[misc] # final for everybody else
    own_stream.CHECK_EVERY_S = CHECK_EVERY_S  # type: ignore[misc] # as above
    pull.CHECK_EVERY_S = CHECK_EVERY_S  # type: ignore[misc] # as above
    name = sys.argv.pop(1)
    import_module(f"{name}.__main__").main()


if __name__ == "__main__":
    main()
