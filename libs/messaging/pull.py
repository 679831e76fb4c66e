"""The standing pull: messages of one durable consumer, asked for ahead of their handlers."""

import asyncio
import contextlib
import json
import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Final

import structlog
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError

from libs.messaging.bus import Delivery, Durable

PREFETCH: Final = 512
"""Messages asked for ahead of the handlers: two full batches, so that one waits while one is handled."""

HEARTBEAT_S: Final = 2.0
EXPIRES_S: Final = 30.0
CLOSE_S: Final = 2.0

_ACK_TOKENS: Final = ["$JS", "ACK", "stream", "consumer", "delivered", "sequence", "own_sequence", "time", "pending"]

log = structlog.get_logger()


class Pull:
    """A standing pull request into a local queue: several times faster than one fetch() after the other."""

    def __init__(self, client: Client, durable: Durable) -> None:
        self._client = client
        self._durable = durable
        self._next = f"$JS.API.CONSUMER.MSG.NEXT.{durable.stream}.{durable.name}"
        self._inbox = client.new_inbox()
        self._queue: deque[_Delivery] = deque()
        self._arrived = asyncio.Event()
        self._expected = 0  # messages the server still owes to our pull requests
        self._heard_at = 0.0
        self._epoch = 0  # counts connections: acknowledgements go only to the one that delivered
        self._closed = False

    async def start(self) -> None:
        """Open the inbox and ask for the first messages."""
        self._subscription = await self._client.subscribe(
            self._inbox, cb=self._on_message, pending_msgs_limit=4 * PREFETCH, pending_bytes_limit=0
        )
        await self._top_up()

    def restart(self) -> None:
        """After a reconnection: forget what the old connection delivered. It comes again after its ack_wait."""
        self._epoch += 1
        self._queue.clear()
        self._expected = 0
        self._arrived.set()

    def current(self, epoch: int) -> bool:
        """Whether `epoch` is that of the connection in use."""
        return epoch == self._epoch and self._client.is_connected

    async def next_batch(self, limit: int) -> Sequence[Delivery]:
        """Wait for messages; return those that are here, from 1 to `limit`."""
        while not self._queue:
            self._arrived.clear()
            await self._top_up()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._arrived.wait(), HEARTBEAT_S)
            if self._expected and time.monotonic() - self._heard_at > 2 * HEARTBEAT_S + 1:
                # Two missed heartbeats: the request is gone (a leader changed, a consumer was made anew).
                log.info("pull went silent; asking again", stream=self._durable.stream)
                self._expected = 0
        batch = [self._queue.popleft() for _ in range(min(limit, len(self._queue)))]
        await self._top_up()
        return batch

    def held(self) -> Sequence[Delivery]:
        """Messages that wait in the local queue."""
        return list(self._queue)

    async def close(self) -> None:
        """Ask for no more, and give back what waits in the queue."""
        self._closed = True
        # Drained before anything is given back: what is on its way arrives, and nothing given back comes here again.
        with contextlib.suppress(NatsError, TimeoutError):
            async with asyncio.timeout(CLOSE_S):
                await self._subscription.drain()  # type: ignore[no-untyped-call] # nats-py types it not
        for delivery in self._queue:
            await delivery.nak(0)
        self._queue.clear()

    async def _top_up(self) -> None:
        room = PREFETCH - len(self._queue) - self._expected
        if self._closed or room < PREFETCH // 2 or not self._client.is_connected:
            return
        request = {
            "batch": room,
            "expires": int(EXPIRES_S * 1e9),
            "idle_heartbeat": int(HEARTBEAT_S * 1e9),
        }
        with contextlib.suppress(NatsError):
            await self._client.publish(self._next, json.dumps(request).encode(), reply=self._inbox)
            self._expected += room
            self._heard_at = time.monotonic()

    async def _on_message(self, message: Msg) -> None:
        self._heard_at = time.monotonic()
        if message.headers and not message.reply and "Status" in message.headers:
            self._on_status(message.headers)
            return
        self._expected = max(0, self._expected - 1)
        self._queue.append(_Delivery(message, self, self._epoch))
        self._arrived.set()

    def _on_status(self, headers: Mapping[str, str]) -> None:
        if headers["Status"] == "100":
            return  # a heartbeat: nothing to deliver, still there
        left = headers.get("Nats-Pending-Messages")
        self._expected = max(0, self._expected - int(left)) if left else 0
        if headers["Status"] not in ("408", "404"):
            log.info(
                "pull ended",
                stream=self._durable.stream,
                status=headers["Status"],
                why=headers.get("Description"),
            )
        if headers["Status"] != "503":  # 503: nobody answers; the heartbeat's pace is fast enough to ask again
            self._arrived.set()


class _Delivery:
    """A JetStream message and the connection that delivered it."""

    __slots__ = ("_epoch", "_message", "_pull", "attempt", "sequence", "stream")

    def __init__(self, message: Msg, pull: Pull, epoch: int) -> None:
        self._message = message
        self._pull = pull
        self._epoch = epoch
        tokens = message.reply.split(".")  # $JS.ACK.<stream>.<consumer>.<delivered>.<seq>.<cseq>.<time>.<pending>
        offset = 0 if len(tokens) == len(_ACK_TOKENS) else 2  # with a domain and an account in front
        self.stream = tokens[2 + offset]
        self.attempt = int(tokens[4 + offset])
        self.sequence = int(tokens[5 + offset])

    @property
    def subject(self) -> str:
        return self._message.subject

    @property
    def payload(self) -> bytes:
        return self._message.data

    @property
    def headers(self) -> Mapping[str, str]:
        return self._message.headers or {}

    async def ack(self) -> None:
        await self._answer(b"+ACK")

    async def nak(self, delay_s: float) -> None:
        await self._answer(b"-NAK" + (b" " + json.dumps({"delay": int(delay_s * 1e9)}).encode() if delay_s else b""))

    async def term(self) -> None:
        await self._answer(b"+TERM")

    async def in_progress(self) -> None:
        await self._answer(b"+WPI")

    async def _answer(self, word: bytes) -> None:
        # An acknowledgement of what an earlier connection delivered could count for another message: the
        # broker may have been replaced by one that forgot (its sequences begin anew).
        if self._pull.current(self._epoch):
            with contextlib.suppress(NatsError):
                await self._pull._client.publish(self._message.reply, word)  # noqa: SLF001 - its own pull
