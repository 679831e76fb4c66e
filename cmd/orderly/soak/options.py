"""What `orderly soak` takes."""

import argparse
from pathlib import Path
from typing import Any, Final

MINUTES: Final = 2.0
LONGEST: Final = 7 * 24 * 60


def add_parser(commands: Any) -> None:
    """Add the command to those of the operator's program."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "soak",
        help="use a system of its own for minutes while faults happen to it, and examine it afterwards",
        description="Exit code 0: everything settled, HTTP and the books agree, the audit is clean.",
    )
    minutes = "how long the load lasts; 2 by default, 5 or more to judge memory as well"
    parser.add_argument("minutes", nargs="?", type=_minutes, default=MINUTES, help=minutes)
    parser.add_argument("database", nargs="?", choices=["sqlite", "postgres"], default="sqlite")
    parser.add_argument("--seed", type=int, metavar="N", help="the same faults again, in the same order")
    parser.add_argument("--replicas", type=replicas, default=1, metavar="N", help="processes of each service")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="where the report goes; DATA_DIR/soak by default")


def replicas(text: str) -> int:
    """Read how many processes a service is to have."""
    count = int(text)
    if not 1 <= count <= 8:
        raise argparse.ArgumentTypeError("must be from 1 to 8")
    return count


def _minutes(text: str) -> float:
    minutes = float(text)
    if not 0 < minutes <= LONGEST:
        raise argparse.ArgumentTypeError(f"must be above 0, and at most {LONGEST}")
    return minutes
