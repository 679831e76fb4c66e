"""``dead``: the messages that were set aside, in all services: listed, shown, replayed, discarded."""

import argparse
import getpass
import json
import os
import re
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from rich.progress import Progress

from libs.local.servers import CannotStart
from libs.messaging import dead_letters
from libs.messaging.attending import Attendant, LeftToTheSweep, ReplayFailed
from libs.messaging.dead_letters import CannotAttend, Wanted
from libs.messaging.unit import Units
from libs.storage import Database
from orderly import dead_view
from orderly.databases import Opened, opened
from orderly.dead_view import Found
from orderly.services import NAMES, SERVICES
from orderly.settings import Settings

SHOWN_AT_MOST: Final = 100
"""Dead letters that `list` shows in a terminal, the newest ones. As JSON it gives all."""

TOLD_ONE_BY_ONE: Final = 20
"""Up to so many, each success is worth a line; failures always are."""

_UNITS_S: Final = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}


@dataclass(frozen=True, slots=True)
class Chosen:
    """A dead letter, and what it takes to attend to it."""

    found: Found
    attendant: Attendant[Any]


async def dead(given: argparse.Namespace, settings: Settings) -> int:
    """Do what was asked; return the exit code. Raises `CannotStart` where nothing was begun."""
    if given.act in ("replay", "discard") and not _says_which(given):
        sys.stderr.write("say which: ids, or any of --subject, --error and --since, or --all\n")
        return 2
    services = [service for service in SERVICES if given.service in (None, service.name)]
    async with opened(settings, services) as (places, complaints):
        if complaints and (given.act != "list" or not places):
            hint = ["--service NAME leaves the other services out"] if places else []
            raise CannotStart("\n".join([*complaints, *hint]))
        if given.act == "list":
            return await _list(given, places, complaints)
        if given.act == "show":
            return await _show(given, places)
        return await _attend(given, places)


async def _list(given: argparse.Namespace, places: Opened, complaints: Sequence[str]) -> int:
    found = await _matching(_wanted(given, attended=given.all), places)
    if given.json:
        print(json.dumps([dead_view.as_json(one) for one in found], indent=2, ensure_ascii=False))
    else:
        dead_view.show_list(found, newest=SHOWN_AT_MOST, states=given.all)
    for complaint in complaints:
        sys.stderr.write(f"{complaint}\n")
    return 1 if complaints else 0


async def _show(given: argparse.Namespace, places: Opened) -> int:
    found, database = await _meant(given.id, places)
    async with database.reading() as connection:
        contents = await dead_letters.contents(connection, found.letter.id)
    if given.json:
        print(json.dumps(dead_view.as_json(found, contents), indent=2, ensure_ascii=False))
    else:
        dead_view.show_one(found, contents)
    return 0


async def _attend(given: argparse.Namespace, places: Opened) -> int:
    """Replay or discard what was chosen, one after the other, each in its own transaction."""
    chosen = await _chosen(given, places)
    many = len(chosen) > 1 or not given.ids
    if not chosen:
        print("no dead letter matches")
        return 0
    if many and not given.yes and not _agreed(given.act, chosen):
        return 2

    async def replay(one: Chosen) -> None:
        await one.attendant.replay(one.found.letter.id, again=given.again)

    async def discard(one: Chosen) -> None:
        await one.attendant.discard(one.found.letter.id, given.reason)

    failed = await _each(chosen, *((replay, "replayed") if given.act == "replay" else (discard, "discarded")))
    return 1 if failed else 0


async def _each(chosen: Sequence[Chosen], attend: Callable[[Chosen], Awaitable[None]], done: str) -> int:
    """Attend to each, whatever becomes of the others; return how many failed."""
    console, failed = dead_view.console(), 0
    with Progress(console=console, transient=True, disable=not console.is_terminal or len(chosen) == 1) as progress:
        for one in progress.track(chosen, description=""):
            try:
                await attend(one)
            except (CannotAttend, ReplayFailed) as error:
                failed += 1
                dead_view.show_outcome(console, one.found, str(error), succeeded=False)
            except Exception as error:  # noqa: BLE001 - a database that went away; it is said, and the rest goes on
                failed += 1
                reason = (str(error) or repr(error)).splitlines()[0]
                dead_view.show_outcome(console, one.found, f"try again: {reason}", succeeded=False)
            else:
                if len(chosen) <= TOLD_ONE_BY_ONE:
                    dead_view.show_outcome(console, one.found, done, succeeded=True)
    if len(chosen) > 1:
        console.print(f"{len(chosen) - failed} {done}, {failed} failed" if failed else f"{len(chosen)} {done}")
    return failed


async def _chosen(given: argparse.Namespace, places: Opened) -> list[Chosen]:
    """Find what was named or described, oldest first. Raises `CannotStart` unless every name means one."""
    units = {service.name: Units(database, service.store, LeftToTheSweep()) for service, database in places}
    by = given.by or _user()
    attendants = {service.name: Attendant(units[service.name], service.listens, by=by) for service, _ in places}
    if given.ids:
        named = {found.letter.id: found for found in [(await _meant(name, places))[0] for name in given.ids]}
        found = sorted(named.values(), key=_age)
    else:
        found = await _matching(_wanted(given, attended=False), places)
    return [Chosen(one, attendants[one.service]) for one in found]


def _says_which(given: argparse.Namespace) -> bool:
    """Whether it says in one of the three ways which dead letters are meant: acting on all is never a default."""
    described = any((given.subject, given.error, given.since))
    return [bool(given.ids), described, bool(given.all)].count(True) == 1


def _agreed(act: str, chosen: Sequence[Chosen]) -> bool:
    counts = Counter(one.found.service for one in chosen)
    of_each = ", ".join(f"{count} of {service}" for service, count in counts.items())
    what = f"{len(chosen)} dead letter{'s' if len(chosen) > 1 else ''} ({of_each})"
    if not sys.stdin.isatty():
        sys.stderr.write(f"this would {act} {what}; --yes says that it may\n")
        return False
    return input(f"{act} {what}? [y/N] ").strip().lower() in ("y", "yes")


async def _matching(wanted: Wanted, places: Opened) -> list[Found]:
    found = []
    for service, database in places:
        async with database.reading() as connection:
            found += [Found(service.name, letter) for letter in await dead_letters.find(connection, wanted)]
    return sorted(found, key=_age)


async def _meant(name: str, places: Opened) -> tuple[Found, Database]:
    """Find the one dead letter that a beginning of an id, or an event id, means. Raises `CannotStart`."""
    meant = []
    for service, database in places:
        async with database.reading() as connection:
            letters = await dead_letters.named(connection, name) if name else []
        meant += [(Found(service.name, letter), database) for letter in letters]
    if not meant:
        raise CannotStart(
            f"no dead letter has the id {name!r}, nor one that begins so; `dead list` shows which there are"
        )
    if len(meant) > 1:
        ids = "".join(f"\n  {found.letter.id}  {found.service}  {found.letter.subject}" for found, _ in meant[:10])
        raise CannotStart(f"{name!r} may mean {len(meant)} dead letters; say more of the id:{ids}")
    return meant[0]


def _age(found: Found) -> tuple[datetime, str]:
    return found.letter.created_at, found.letter.id


def _wanted(given: argparse.Namespace, *, attended: bool) -> Wanted:
    since = datetime.now(UTC) - given.since if given.since else None
    return Wanted(given.subject, given.error, since, attended)


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a user without a name, as in some containers
        return f"uid {os.getuid()}"


def duration(text: str) -> timedelta:
    """Read how long ago: ``90s``, ``15m``, ``2h``, ``3d``."""
    match = re.fullmatch(r"(\d{1,6})([smhd])", text)
    if match is None:
        raise argparse.ArgumentTypeError("must be like 90s, 15m, 2h or 3d")
    return timedelta(seconds=int(match[1]) * _UNITS_S[match[2]])


def _something(text: str) -> str:
    if not text.strip():
        raise argparse.ArgumentTypeError("must say something")
    return text


def add_parser(commands: Any) -> None:
    """Describe ``orderly dead …`` to argparse."""
    acts = commands.add_parser("dead", help="attend to messages that were set aside").add_subparsers(
        dest="act", required=True
    )
    listing = acts.add_parser("list", help="list what nobody has attended to")
    _describe(listing)
    listing.add_argument("--all", action="store_true", help="also what was attended to, in the last 30 days")
    listing.add_argument("--json", action="store_true")

    showing = acts.add_parser("show", help="show everything about one")
    showing.add_argument("id", help="its id or the beginning of it, or its event id")
    showing.add_argument("--service", choices=NAMES)
    showing.add_argument("--json", action="store_true")

    replaying = acts.add_parser("replay", help="hand messages to their handler again")
    replaying.add_argument("--again", action="store_true", help="also one that was attended to; changes nothing twice")
    discarding = acts.add_parser("discard", help="give messages up")
    discarding.add_argument("--reason", required=True, type=_something, help="why; it is kept")
    for attending in (replaying, discarding):
        attending.add_argument("ids", nargs="*", metavar="id", help="an id or the beginning of it, or an event id")
        _describe(attending)
        attending.add_argument("--all", action="store_true", help="all that nobody has attended to")
        attending.add_argument("--yes", action="store_true", help="do not ask before attending to several")
        attending.add_argument("--by", type=_something, metavar="NAME", help="who is attending; you, by default")


def _describe(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--service", choices=NAMES, help="only this service's")
    parser.add_argument("--subject", metavar="PATTERN", help="only such subjects, like 'orders.order.placed.*'")
    parser.add_argument("--error", metavar="TEXT", help="only with this text in the error")
    parser.add_argument("--since", type=duration, metavar="AGO", help="only since then, like 2h or 3d")
