"""What `orderly simulate` takes: apart from the rest, which loads every service."""

import argparse
from typing import Any


def add_parser(commands: Any) -> None:
    """Add the command to those of the operator's program."""
    parser: argparse.ArgumentParser = commands.add_parser("simulate", help="tell stories of the whole system, by seed")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--seed", type=int, metavar="N", help="tell this story only: the same again, step by step")
    which.add_argument("--stories", type=_count, default=1000, metavar="N", help="how many to tell; 1000 by default")
    parser.add_argument("--first", type=int, default=1, metavar="N", help="the seed of the first; 1 by default")
    parser.add_argument("--verbose", action="store_true", help="show every step")


def _count(text: str) -> int:
    count = int(text)
    if count < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return count
