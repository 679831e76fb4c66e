"""Released contracts: what was promised, kept beside the code, so that whatever breaks it is seen before it ships."""

import json
import re
import shutil
from pathlib import Path
from typing import Any, Final

from libs.compatibility import breaks_of_events, breaks_of_requests
from orderly.contracts import (
    EVENTS,
    FOLDER,
    OPENAPI,
    asyncapi_documents,
    contracts,
    from_yaml,
    openapi_document,
    text_of,
    write_texts,
)

Json = dict[str, Any]

RELEASED: Final = FOLDER / "released"
MESSAGES: Final = "messages"

_VERSION: Final = re.compile(r"(\d+)\.(\d+)\.(\d+)")


class CannotRelease(Exception):
    """The contracts stay as they were; the message says why."""


def releases(root: Path) -> list[str]:
    """List the released versions, oldest first."""
    found = [path.name for path in (root / RELEASED).glob("*") if _VERSION.fullmatch(path.name)]
    return sorted(found, key=_order)


def breaks(root: Path) -> list[str]:
    """Say what today's contracts break for those who know the newest release; nothing when there is none."""
    versions = releases(root)
    return _breaks_since(root / RELEASED / versions[-1]) if versions else []


def release(root: Path, version: str, *, breaking: bool = False) -> list[Path]:
    """Make today's contracts the newest release, with one message of each kind; return where they are.

    Again for the same version, it is written anew. Raises `CannotRelease` for what is no version, for one that is
    older than the newest, and for a change that breaks the newest unless that is meant (`breaking`).
    """
    if not _VERSION.fullmatch(version):
        raise CannotRelease(f"{version!r} is no version like 1.2.3")
    newest = next(reversed(releases(root)), None)
    if newest and _order(version) < _order(newest):
        raise CannotRelease(f"{version} is older than {newest}, which is released")
    found = breaks(root)
    if found and not breaking:
        listed = "\n".join(f"  {line}" for line in found)
        raise CannotRelease(f"this breaks who knows {newest}:\n{listed}\nif that is meant: --breaking")
    folder = root / RELEASED / version
    shutil.rmtree(folder, ignore_errors=True)
    texts = {name: text for name, text in contracts(version).items() if name != EVENTS.name}
    return [*write_texts(folder, texts), *write_texts(folder / MESSAGES, golden_messages(version))]


def golden_messages(version: str) -> dict[str, str]:
    """Write one message of each type as it flows, headers and payload; by the name of its file."""
    messages = [
        message["examples"][0]
        for document in asyncapi_documents(version).values()
        for message in document["components"]["messages"].values()
    ]
    return {
        f"{message['headers']['ce-type']}.json": text_of({part: message[part] for part in ("headers", "payload")})
        for message in messages
    }


def _order(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


def _breaks_since(folder: Path) -> list[str]:
    now = asyncapi_documents()
    found = []
    for path in sorted(folder.glob("*.yaml")):
        if path.stem in now:
            found += breaks_of_events(from_yaml(path.read_text(encoding="utf-8")), now[path.stem])
        else:
            found.append(f"{path.stem} is gone")
    released = json.loads((folder / OPENAPI.name).read_text(encoding="utf-8"))
    return [*found, *breaks_of_requests(released, openapi_document())]
