"""Where the services of this machine keep their data, and the NATS servers are, for commands beside the system."""

import json
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Final

from libs.files import write_whole
from libs.local.servers import CannotStart
from libs.service import Service
from libs.storage import Database
from libs.storage.database import driver_url
from libs.storage.migrations import pending
from orderly.settings import Settings

ANNOUNCED: Final = "databases.json"
"""What a running system writes into its data folder, since the port of its PostgreSQL is another at each start."""

Opened = list[tuple[Service[Any, Any], Database]]


def sqlite_file(data_dir: Path, service: str) -> Path:
    """Where a service keeps its data unless it is told otherwise."""
    return data_dir / "sqlite" / f"{service}.db"


def announce(data_dir: Path, urls: Mapping[str, str], nats_url: str = "") -> None:
    """Let other commands know where the databases, and the NATS servers, of this process' system are."""
    known = {"pid": os.getpid(), "urls": dict(urls), "nats": nats_url}
    write_whole(data_dir / ANNOUNCED, json.dumps(known, indent=2).encode())


def withdraw(data_dir: Path) -> None:
    """Take back what this process announced."""
    if _announced(data_dir).get("pid") == os.getpid():
        (data_dir / ANNOUNCED).unlink(missing_ok=True)


def urls(settings: Settings, services: Sequence[str]) -> dict[str, str]:
    """Find databases: what the environment says, then the running system, then SQLite files of a stopped one.

    One that is nowhere is left out.
    """
    running = _running(settings.data_dir).get("urls", {})
    found = {}
    for name in services:
        file = sqlite_file(settings.data_dir.resolve(), name)
        known = settings.database_url(name) or running.get(name) or (f"sqlite:///{file}" if file.exists() else None)
        if known:
            found[name] = known
    return found


def nats_url(settings: Settings) -> str:
    """Find the NATS servers: the one at the port that the environment says, and those it shares streams with."""
    first = f"nats://127.0.0.1:{settings.nats_port}"
    running = str(_running(settings.data_dir).get("nats", ""))
    return running if first in running.split(",") else first


@asynccontextmanager
async def opened(
    settings: Settings, services: Sequence[Service[Any, Any]], known: Mapping[str, str] | None = None
) -> AsyncIterator[tuple[Opened, list[str]]]:
    """Open databases of services until the end of the block, and say which cannot be, a sentence each.

    `known` says where they are, when that is known already.
    """
    found = urls(settings, [service.name for service in services]) if known is None else known
    reached: Opened = []
    complaints = []
    if missing := [service.name for service in services if service.name not in found]:
        where = (
            f"in {settings.data_dir}; is the system running? (DATA_DIR and <SERVICE>_DATABASE_URL say where to look)"
        )
        complaints.append(f"there is no database of {', '.join(missing)} {where}")
    async with AsyncExitStack() as stack:
        for service in services:
            if service.name not in found:
                continue
            try:
                database = _open(service.name, found[service.name])
                stack.push_async_callback(database.close)
                await _check(service, database)
            except CannotStart as error:
                complaints.append(str(error))
            else:
                reached.append((service, database))
        yield reached, complaints


def _open(service: str, url: str) -> Database:
    try:
        parsed = driver_url(url)
    except ValueError as error:
        raise CannotStart(f"the database of {service}: {error}") from None
    if parsed.get_backend_name() == "sqlite" and not Path(parsed.database or "").exists():
        raise CannotStart(f"the database of {service} is not there: {parsed.database}")  # opening would make it
    return Database(url, name="orderly", pool_size=2, statement_timeout_s=None)  # an operator sees it wait


async def _check(service: Service[Any, Any], database: Database) -> None:
    """Raise `CannotStart` unless the database answers and is up to date."""
    try:
        missing = await pending(database, service.migrations)
    except Exception as error:  # noqa: BLE001 - whatever the driver raises, it is said
        reason = (str(error) or repr(error)).splitlines()[0]
        raise CannotStart(f"the database of {service.name} cannot be reached: {database} ({reason})") from None
    if missing:
        raise CannotStart(f"the database of {service.name} lacks {', '.join(missing)}; run `./just migrate`")


def _announced(data_dir: Path) -> dict[str, Any]:
    try:
        known = json.loads((data_dir / ANNOUNCED).read_bytes())
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def _running(data_dir: Path) -> dict[str, Any]:
    """Read what a system has announced that still runs."""
    announced = _announced(data_dir)
    return announced if _alive(announced.get("pid")) else {}


def _alive(pid: Any) -> bool:
    """Whether a process of that id runs: one that was killed takes nothing back."""
    if not isinstance(pid, int):
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True  # somebody else's, but there
    return True
