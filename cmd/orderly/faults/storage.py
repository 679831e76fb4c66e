"""Faults of the broker's storage: a stream that is full, and a disk that is full."""

import resource
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Final

from libs.ids import uuid7
from libs.messaging import outbox
from libs.messaging.envelope import Outgoing
from libs.storage import Database
from orderly.faults import Fault
from orderly.system import System

SMALL: Final = 1 << 20
"""Room for each stream in a system where one is to be full soon (`STREAM_MAX_BYTES`)."""

ENOUGH: Final = 1 << 30
PADDING: Final = 64 * 1024
FILLED: Final = "orders"


@asynccontextmanager
async def _stream_full(system: System) -> AsyncIterator[None]:
    """Fill the stream of orders with facts that nobody listens to; then give every stream more room, as operators do.

    Needs a system that was started with ``STREAM_MAX_BYTES`` set to `SMALL`.
    """
    assert int(system.plan.extra["STREAM_MAX_BYTES"]) == SMALL
    now = datetime.now(UTC)
    await _state(system, [_padding(now) for _ in range(SMALL // PADDING + 1)])
    try:
        yield
    finally:
        system.plan.extra["STREAM_MAX_BYTES"] = str(ENOUGH)
        await system.start_again(FILLED)


def _padding(now: datetime) -> Outgoing:
    message_id = uuid7()
    headers = {"Nats-Msg-Id": str(message_id), "ce-id": str(message_id), "ce-type": "orders.padding.stated"}
    return Outgoing(message_id, f"orders.padding.stated.{message_id}", b"x" * PADDING, headers, now)


async def _state(system: System, messages: list[Outgoing]) -> None:
    """Put messages into the outbox of orders; its relay finds them there."""
    database = Database(system.database_url(FILLED), name="fault")
    try:
        async with database.writing() as connection:
            await outbox.write(connection, messages)
    finally:
        await database.close()


@asynccontextmanager
async def _disk_full(system: System) -> AsyncIterator[None]:
    """Let no file of the broker grow; then let them, and restart it.

    A limit on the size of its files fails the same writes as a full disk does, and needs no rights. The server refuses
    to store in a stream from its first failed write on until it is restarted, whatever room there is.
    """
    pid = system.supervisor.pid("nats")
    assert pid is not None
    _, most = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (1, most))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (most, most))
        await system.supervisor.restart("nats")


STREAM_FULL: Final = Fault("stream-full", "a stream takes nothing more", _stream_full)
DISK_FULL: Final = Fault("disk-full", "the broker's disk is full", _disk_full)
FAULTS: Final = (STREAM_FULL, DISK_FULL)
