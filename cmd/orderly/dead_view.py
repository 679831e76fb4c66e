"""How ``dead`` shows what it found: as text that no message can forge, or as JSON."""

import base64
import json
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from rich.console import Console, Group
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from libs.messaging.dead_letters import Act, Contents, DeadLetter, Deed

SHORT: Final = 8
"""Characters of an id that people are shown."""

PIPED_WIDTH: Final = 4_096
BYTES_A_LINE: Final = 16

_STYLES: Final = {Deed.REPLAYED: "green", Deed.REPLAY_FAILED: "red", Deed.DISCARDED: "yellow"}


@dataclass(frozen=True, slots=True)
class Found:
    """A dead letter and the service that set it aside."""

    service: str
    letter: DeadLetter


def console() -> Console:
    """Where to print: as wide as the terminal, or as a line needs when nobody sees it wrapped."""
    return Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else PIPED_WIDTH)


def show_list(found: Sequence[Found], *, newest: int, states: bool) -> None:
    """Print one line for each of the newest, and how many there are; `states` says which are attended to."""
    out = console()
    if not found:
        out.print(Text("no dead letters", "green"))
        return
    out.print(_list_of(found[-newest:], stacked=out.is_terminal, states=states))
    out.print()
    counts = Counter(one.service for one in found)
    out.print(Text(f"{len(found)} in all: " + ", ".join(f"{name} {count}" for name, count in counts.items()), "dim"))
    if len(found) > newest:
        out.print(Text(f"only the newest {newest} are shown; --service, --subject, --error, --since, --json", "dim"))


def _list_of(found: Sequence[Found], *, stacked: bool, states: bool) -> Table:
    """Make a line of each; `stacked` puts the error under its subject, since a terminal is not wide enough."""
    now = datetime.now(UTC)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim", expand=stacked)
    for name in ("id", "service", "age", "tries"):
        table.add_column(name, no_wrap=True, justify="right" if name in ("age", "tries") else "left")
    if states:
        table.add_column("attended", no_wrap=True)
    for name in ("subject and error",) if stacked else ("subject", "error"):
        table.add_column(name, ratio=1 if stacked else None)
    for one in found:
        letter = one.letter
        attended = (
            [Text(f"{ago(now, letter.attended_at)} ago", "green") if letter.attended_at else ""] if states else []
        )
        error = Text(legible(letter.error).replace("\n", " "), "red", no_wrap=True, overflow="ellipsis")
        what = [_subject(letter.subject), error]
        table.add_row(
            Text(letter.id[:SHORT], "bold cyan"),
            one.service,
            Text(ago(now, letter.created_at), "yellow"),
            str(letter.attempts),
            *attended,
            *([Group(*what)] if stacked else what),
        )
    return table


def show_one(found: Found, contents: Contents) -> None:
    """Print everything that is known of one."""
    out, letter, now = console(), found.letter, datetime.now(UTC)
    facts = Table.grid(padding=(0, 2))
    for name, value in (
        ("id", Text(letter.id, "bold cyan")),
        ("service", Text(found.service)),
        ("subject", _subject(letter.subject)),
        ("event id", Text(legible(letter.event_id))),
        ("trace id", Text(letter.trace_id)),
        ("set aside", Text(f"{_moment(letter.created_at)}, {ago(now, letter.created_at)} ago")),
        ("tries", Text(str(letter.attempts))),
        ("error", Text(legible(letter.error), "red")),
    ):
        facts.add_row(Text(name, "dim"), value)
    out.print(facts)
    _section(out, "headers", _headers(contents) if contents.headers else Text("none", "dim"))
    _section(out, f"payload, {len(contents.payload)} bytes", Text(payload_text(contents.payload)))
    if contents.acts:
        _section(out, "acts", _acts(contents.acts))
    else:
        _section(out, "acts", Text("none yet", "yellow"))


def show_outcome(out: Console, found: Found, what: str, *, succeeded: bool) -> None:
    """Print what became of one."""
    sign = Text("✓ ", "green") if succeeded else Text("✗ ", "bold red")
    letter = found.letter
    line = Text.assemble(sign, (letter.id[:SHORT], "bold cyan"), " ", found.service, " ", _subject(letter.subject), " ")
    out.print(line + Text(legible(what), "green" if succeeded else "red"), soft_wrap=True)


def as_json(found: Found, contents: Contents | None = None) -> dict[str, Any]:
    """Write one for programs. A payload that is no JSON is given as text, or in base64 when it is no text."""
    letter = found.letter
    shown: dict[str, Any] = {
        "id": letter.id,
        "service": found.service,
        "subject": letter.subject,
        "event_id": letter.event_id,
        "trace_id": letter.trace_id,
        "created_at": letter.created_at.isoformat(),
        "attempts": letter.attempts,
        "error": letter.error,
        "attended_at": letter.attended_at.isoformat() if letter.attended_at else None,
    }
    if contents is not None:
        acts = [{"at": act.at.isoformat(), "by": act.by, "what": act.what, "note": act.note} for act in contents.acts]
        shown |= {"headers": dict(contents.headers), **_payload_json(contents.payload), "acts": acts}
    return shown


def payload_text(payload: bytes) -> str:
    """Write a payload to be read: JSON indented, other text as it is, anything else as bytes."""
    try:
        text = payload.decode()
    except UnicodeDecodeError:
        return _dump(payload)
    try:
        return legible(json.dumps(json.loads(text), indent=2, ensure_ascii=False))
    except (ValueError, RecursionError):
        return legible(text)


def legible(text: str) -> str:
    """Write a message's text so that it cannot move the cursor, colour the terminal, or hide."""
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)


def ago(now: datetime, moment: datetime) -> str:
    """Say how long ago something was, in its largest unit."""
    seconds = max(0, int((now - moment).total_seconds()))
    for length, unit in ((86_400, "d"), (3_600, "h"), (60, "m")):
        if seconds >= length:
            return f"{seconds // length}{unit}"
    return f"{seconds}s"


def _payload_json(payload: bytes) -> dict[str, Any]:
    try:
        text = payload.decode()
    except UnicodeDecodeError:
        return {"payload_base64": base64.b64encode(payload).decode()}
    try:
        return {"payload": json.loads(text)}
    except (ValueError, RecursionError):
        return {"payload_text": text}


def _dump(payload: bytes) -> str:
    lines = []
    for start in range(0, len(payload), BYTES_A_LINE):
        part = payload[start : start + BYTES_A_LINE]
        shown = "".join(chr(byte) if 0x20 <= byte < 0x7F else "." for byte in part)
        lines.append(f"{start:06x}  {part.hex(' '):<{3 * BYTES_A_LINE}} {shown}")
    return "\n".join(lines)


def _subject(subject: str) -> Text:
    kind, dot, about = legible(subject).rpartition(".")
    return Text.assemble((kind, "cyan"), (f"{dot}{about}", "dim"), overflow="fold")


def _headers(contents: Contents) -> Table:
    table = Table.grid(padding=(0, 2))
    for name, value in contents.headers.items():
        table.add_row(Text(legible(name), "dim"), Text(legible(value)))
    return table


def _acts(acts: Sequence[Act]) -> Table:
    table = Table.grid(padding=(0, 2))
    for act in acts:
        what = Text(act.what.value.replace("_", " "), _STYLES[act.what])
        table.add_row(Text(_moment(act.at), "dim"), Text(legible(act.by)), what, Text(legible(act.note or "")))
    return table


def _moment(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"


def _section(out: Console, title: str, content: Any) -> None:
    out.print()
    out.print(Text(title, "bold"))
    out.print(Padding(content, (0, 0, 0, 2), expand=False))
