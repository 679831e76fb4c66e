"""``just bench``: measure a part of the system, or all parts, and say what came of it."""

import argparse
import asyncio
import sys
from collections.abc import Sequence
from typing import Final

from bench import calls, flames, flat, orders, parts, publishing, reads, registration, scale, servers
from bench.rounds import Disturbed
from libs.local.servers import CannotStart
from libs.local.supervisor import interrupt_nobody

PARTS: Final = {
    part.name: part
    for part in (
        orders.PART,
        reads.PART,
        registration.PART,
        scale.PART,
        flat.PART,
        publishing.PART,
        calls.PART,
        flames.PART,
    )
}
ALL: Final = "all"


def main() -> None:
    """Run a part; exit code 1 when its gate or anybody's books fail, 2 when it cannot be measured."""
    chosen = asked(sys.argv[1:])
    interrupt_nobody()  # as `just run` does; here for everybody, clients included
    out = parts.console()
    try:
        for setting in (servers.POSTGRES, servers.NATS):
            servers.given(setting)  # what is wrong with it is said before anything is measured
        codes = [asyncio.run(part.run(given, out)) for part, given in chosen]
    except (Disturbed, CannotStart) as error:
        out.print(f"{error}")
        sys.exit(2)
    sys.exit(max(codes))


def asked(arguments: Sequence[str]) -> list[tuple[parts.Part, argparse.Namespace]]:
    """Read which parts are wanted, and with which options: orders, unless the first argument is another's name.

    All parts take the options that all have. Raises `SystemExit`.
    """
    if arguments[:1] in (["--help"], ["-h"]):
        parts.console().print(help_text())
        raise SystemExit(0)
    first, rest = arguments[0] if arguments else "", list(arguments[1:])
    if first == ALL:
        return [(part, part.parser().parse_args(rest)) for part in PARTS.values()]
    part = PARTS.get(first)
    if part is None:
        part, rest = orders.PART, list(arguments)
    return [(part, part.parser().parse_args(rest))]


def help_text() -> str:
    """List the parts."""
    lines = [f"  {name:14}{part.says}" for name, part in PARTS.items()]
    lines.append(f"  {ALL:14}All of these, one after the other, with the options that all have.")
    return "\n".join(["usage: just bench [PART] [options] (just bench PART --help; default: orders)", "", *lines])


if __name__ == "__main__":
    main()
