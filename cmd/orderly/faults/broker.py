"""The broker is away, stands still, or has forgotten: everything, the newest, one stream, one consumer."""

import asyncio
import os
import shutil
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Final

from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.js.client import JetStreamContext

from libs.contracts import stream_of
from libs.messaging.consumer import durables
from orderly.credentials import ensure_credentials
from orderly.faults import Fault
from orderly.faults.chance import VICTIMS
from orderly.faults.processes import stopped
from orderly.services import NAMES, SERVICES
from orderly.system import System

OLDER_BY_S: Final = 3.0
"""How much the broker has stored, and acknowledged, since the copy that takes its store's place."""

DURABLES: Final = {
    f"{durable.name} on {durable.stream}": durable
    for service in SERVICES
    for durable in durables(service.name, service.listens)
}

TRIES: Final = 60
EVERY_S: Final = 0.5


def store(system: System) -> Path:
    """Where the broker of a system keeps its streams."""
    return system.plan.data_dir / "nats" / "store"


@asynccontextmanager
async def _killed(system: System) -> AsyncIterator[None]:
    await system.supervisor.stop(["nats"], number=signal.SIGKILL)
    try:
        yield
    finally:
        await system.start_nats()


@asynccontextmanager
async def _standing_still(system: System) -> AsyncIterator[None]:
    async with stopped(system, "nats"):
        yield


@asynccontextmanager
async def _wiped(system: System) -> AsyncIterator[None]:
    async with _killed(system):
        shutil.rmtree(store(system))
        yield


@asynccontextmanager
async def _put_back(system: System) -> AsyncIterator[None]:
    copy = store(system).with_name("copy")
    async with _killed(system):
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(store(system), copy)
    await asyncio.sleep(OLDER_BY_S)
    async with _killed(system):
        shutil.rmtree(store(system))
        copy.rename(store(system))
        yield


@asynccontextmanager
async def _cut_short(system: System) -> AsyncIterator[None]:
    async with _killed(system):
        for messages in store(system).glob("jetstream/*/streams/*/msgs"):
            cut_newest_block(messages)
        yield


def cut_newest_block(messages: Path) -> None:
    """Cut the second half off the file that a stream's newest messages lie in."""
    if blocks := sorted(messages.glob("*.blk"), key=lambda path: int(path.stem)):
        os.truncate(blocks[-1], blocks[-1].stat().st_size // 2)


@asynccontextmanager
async def _stream_deleted(system: System) -> AsyncIterator[None]:
    name = VICTIMS.draw(NAMES)
    await _told(system, name, lambda broker: broker.delete_stream(stream_of(name)))
    yield


@asynccontextmanager
async def _durable_deleted(system: System) -> AsyncIterator[None]:
    durable = DURABLES[VICTIMS.draw(list(DURABLES))]
    await _told(system, durable.name, lambda broker: broker.delete_consumer(durable.stream, durable.name))
    yield


async def _told(system: System, user: str, what: Callable[[JetStreamContext], Awaitable[object]]) -> None:
    """Have the broker do something that a service may tell it to do, as soon as it can."""
    async with connected(system, user) as client:
        for tries_left in reversed(range(TRIES)):
            try:
                await what(client.jetstream())
            except (NatsError, TimeoutError):  # still recovering from what was before; or the thing is being made
                if not tries_left:
                    raise
                await asyncio.sleep(EVERY_S)
            else:
                return


@asynccontextmanager
async def connected(system: System, user: str) -> AsyncIterator[Client]:
    """Connect to the broker of a system as one of its services."""
    client = Client()
    password = ensure_credentials(system.plan.data_dir / "keys").nats[user]
    await client.connect(
        system.nats_url, user=user, password=password, inbox_prefix=f"_INBOX_{user}", max_reconnect_attempts=-1
    )
    try:
        yield client
    finally:
        await client.close()


_Cause = Callable[[System], AbstractAsyncContextManager[None]]

_LOSSES: Final[dict[str, tuple[str, _Cause]]] = {
    "store-wiped": ("the broker is killed and its store is wiped", _wiped),
    "store-put-back": ("the broker's store is replaced by an older copy of it", _put_back),
    "store-cut-short": ("the broker is killed and half of each stream's newest file is gone", _cut_short),
    "stream-deleted": ("a stream is deleted, the others stay", _stream_deleted),
    "durable-deleted": ("a durable consumer is deleted, its stream stays", _durable_deleted),
}

LOSSES: Final = tuple(Fault(name, says, cause) for name, (says, cause) in _LOSSES.items())
"""What the broker forgets. Consumers of a stream that was made anew rest for 30 s before they pull."""

FAULTS: Final = (
    Fault("broker-killed", "the broker is killed and stays away", _killed),
    Fault("broker-stopped", "the broker stands still", _standing_still),
    *LOSSES,
)
