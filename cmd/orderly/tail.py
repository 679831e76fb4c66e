"""``tail``: events as they happen, one line each, without the nats CLI."""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from rich.console import Console
from rich.text import Text

from libs.local.servers import CannotStart
from orderly.run import stopping_on_signals

EVERYTHING: Final = "*.*.*.*"
_SUBJECT: Final = re.compile(r"[A-Za-z0-9_*-]+(\.[A-Za-z0-9_*-]+)*(\.>)?|>")


@dataclass(frozen=True, slots=True)
class Seen:
    """An event that passed by."""

    subject: str
    payload: str
    at: float

    @property
    def type(self) -> str:
        """What happened: the subject without the id at its end."""
        return self.subject.rsplit(".", 1)[0]


def pattern_of(wanted: str | None) -> str:
    """Turn what somebody wants to see into a subject: a pattern as it is, an id into everything about it.

    Raises `CannotStart` for what is neither.
    """
    if not wanted:
        return EVERYTHING
    try:
        return f"*.*.*.{UUID(wanted)}"
    except ValueError:
        pass
    if not _SUBJECT.fullmatch(wanted):
        raise CannotStart(f"{wanted!r} is neither a subject, like 'orders.>' or 'billing.payment.*.*', nor an id")
    return wanted


@asynccontextmanager
async def watching(nats_url: str, pattern: str, see: Callable[[Seen], Awaitable[None] | None]) -> AsyncIterator[Client]:
    """Call `see` for every event on `pattern` until the end of the block. Raises `CannotStart` without a server."""
    client = Client()

    async def on_message(message: Msg) -> None:
        if message.subject.startswith("$"):
            return  # the server's own notices
        now = asyncio.get_running_loop().time()
        result = see(Seen(message.subject, message.data.decode(errors="replace"), now))
        if result is not None:
            await result

    async def ignore(_error: Exception) -> None:
        pass  # while the server is away there is nothing to see

    try:
        async with asyncio.timeout(5):
            await client.connect(
                servers=nats_url.split(","),
                max_reconnect_attempts=-1,
                reconnect_time_wait=1,
                ping_interval=5,
                error_cb=ignore,
            )
    except (NatsError, OSError, TimeoutError):
        raise CannotStart(f"no NATS server at {nats_url}; is the system running?") from None
    try:
        await client.subscribe(pattern, cb=on_message)
        await client.flush()
        yield client
    finally:
        await client.close()


async def tail(nats_url: str, wanted: str | None) -> int:
    """Print events until SIGINT or SIGTERM; return the exit code."""
    console = Console(highlight=False, soft_wrap=True)

    def show(seen: Seen) -> None:
        moment = datetime.now().astimezone().strftime("%H:%M:%S.%f")[:-3]
        kind, _, about = seen.subject.rpartition(".")
        console.print(
            Text.assemble((moment, "dim"), " ", (kind, "bold cyan"), (f".{about}", "cyan"), " ", seen.payload)
        )

    pattern = pattern_of(wanted)
    async with stopping_on_signals() as stop, watching(nats_url, pattern, show):
        if console.is_terminal:
            console.print(f"[dim]watching {pattern} on {nats_url}; Ctrl-C ends[/]")
        await stop.wait()
    return 0
