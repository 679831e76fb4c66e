"""What the parts of the benchmark have in common: their options, and how one is begun."""

import argparse
import sys
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from rich.console import Console

from bench.rounds import FOREIGN_AT_MOST, Length

WIDTH: Final = 160


@dataclass(frozen=True, slots=True)
class Part:
    """A part of the benchmark. `run` returns the exit code; it may raise `Disturbed` and `CannotStart`."""

    name: str
    says: str
    options: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace, Console], Coroutine[Any, Any, int]]

    def parser(self) -> argparse.ArgumentParser:
        """Make the parser of this part's options."""
        parser = argparse.ArgumentParser(prog=f"just bench {self.name}", description=self.says)
        self.options(parser)
        return parser


def common(parser: argparse.ArgumentParser, *, rounds: int = 3, seconds: float = 8.0) -> None:
    """Add the options that every part has."""
    parser.add_argument("--rounds", type=int, default=rounds, help=f"of each, alternating (default {rounds})")
    parser.add_argument("--seconds", type=float, default=seconds, help=f"of each round (default {seconds:g})")
    parser.add_argument("--warm-up", type=float, default=5.0, metavar="SECONDS", help="before what counts (default 5)")
    parser.add_argument(
        "--foreign-at-most",
        type=float,
        default=FOREIGN_AT_MOST,
        metavar="SHARE",
        help=f"share of the machine that others may take in a round that counts (default {FOREIGN_AT_MOST})",
    )
    parser.add_argument(
        "--out", type=Path, default=Path("docs/benchmarks"), help="folder for JSON and plots (default docs/benchmarks)"
    )


def length(given: argparse.Namespace) -> Length:
    """Read how long to measure."""
    return Length(given.seconds, given.warm_up, given.foreign_at_most)


def settings(given: argparse.Namespace) -> dict[str, Any]:
    """Write down what was asked for."""
    return {name: str(value) if isinstance(value, Path) else value for name, value in vars(given).items()}


def console() -> Console:
    """Where the benchmark prints: as wide as its tables, when nobody watches."""
    return Console(width=None if sys.stdout.isatty() else WIDTH, highlight=False)
