"""The standing pull: messages of one durable consumer, asked for ahead of their handlers."""

import asyncio
import contextlib
import functools
import json
import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Final

import structlog
from nats.aio.subscription import Subscription
from nats.errors import Error as NatsError
from nats.errors import TimeoutError as NatsTimeoutError
from nats.js.errors import NotFoundError

from libs.messaging.bus import Delivery, Durable
from libs.messaging.client import Heard, LeanClient, read_headers
from libs.messaging.durable import DurableConsumer
from libs.tasks import going_on

PREFETCH: Final = 512
"""Messages asked for ahead of the handlers: two full batches, so that one waits while one is handled."""

HEARTBEAT_S: Final = 2.0
EXPIRES_S: Final = 30.0
CLOSE_S: Final = 2.0
SETTLE_S: Final = 2

CHECK_EVERY_S: Final = 30.0
"""How often the consumer is looked at without any reason for doubt."""

LOOK_AGAIN_S: Final = 0.1

_ACK_TOKENS: Final = ["$JS", "ACK", "stream", "consumer", "delivered", "sequence", "own_sequence", "time", "pending"]

log = structlog.get_logger()


class Pull:
    """A standing pull request into a local queue: several times faster than one fetch() after the other.

    Whenever there is reason for doubt (another connection, a request that ended or went silent), and every 30 s,
    the durable consumer is looked at before anything else is asked for: a broker may have forgotten it.
    """

    def __init__(self, client: LeanClient, durable: Durable) -> None:
        self._client = client
        self._durable = durable
        self._consumer = DurableConsumer(client, durable)
        self._next = f"$JS.API.CONSUMER.MSG.NEXT.{durable.stream}.{durable.name}"
        self._inbox = ""
        self._subscription: Subscription | None = None
        self._queue: deque[_Delivery] = deque()
        self._arrived = asyncio.Event()
        self._expected = 0  # messages the server still owes to our pull requests
        self._heard_at = 0.0
        self._epoch = 0  # counts connections and incarnations: acknowledgements go only to the one that delivered
        self._opened = -1  # the epoch that the inbox belongs to
        self._incarnation: int | None = None
        self._assured = False
        self._doubted = asyncio.Event()
        self._ready = asyncio.Event()
        self._watching: asyncio.Task[None] | None = None
        self._waiting = False
        self._closed = False

    async def start(self) -> None:
        """Wait for the durable consumer to be there; from then on it is watched."""
        self._watching = asyncio.create_task(self._watch(), name=f"watch {self._durable.stream}")
        await self._ready.wait()

    def restart(self) -> None:
        """Forget what was delivered by a connection, or an incarnation, that is gone. It comes again."""
        self._epoch += 1
        self._queue.clear()
        self._expected = 0
        self._doubt()

    def _doubt(self) -> None:
        self._assured = False
        self._doubted.set()
        self._arrived.set()

    async def _watch(self) -> None:
        pause_s = 0.0
        while going_on():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._doubted.wait(), pause_s)
            self._doubted.clear()
            looking = asyncio.create_task(self._look())
            doubting = asyncio.create_task(self._doubted.wait())
            try:  # a look that is overtaken by doubt is worth nothing, and may wait for an answer that is lost
                await asyncio.wait({looking, doubting}, return_when=asyncio.FIRST_COMPLETED)
                pause_s = looking.result() if looking.done() else LOOK_AGAIN_S
            finally:
                looking.cancel()
                doubting.cancel()

    async def _look(self) -> float:
        """Assure ourselves of the consumer; return when to look again, if nothing gives reason to do so before."""
        try:
            await self._assure()
        except NotFoundError:
            if not self._waiting:
                log.info("waiting for a stream", stream=self._durable.stream, consumer=self._durable.name)
            self._waiting = True
            return LOOK_AGAIN_S
        except NatsTimeoutError:  # it has been waited for
            log.info("nobody says how a consumer stands", stream=self._durable.stream)
            return LOOK_AGAIN_S
        except Exception as error:  # noqa: BLE001 - whatever it is, looking again is all there is to do
            log.info("cannot look at a consumer", stream=self._durable.stream, error=str(error) or repr(error))
            return HEARTBEAT_S
        self._waiting = False
        return CHECK_EVERY_S

    async def _assure(self) -> None:
        """Make sure that the consumer is the right one, and let messages be asked for."""
        incarnation, rest_s = await self._consumer.assured()
        if self._incarnation not in (None, incarnation):
            log.warning("stream was made anew; everything comes again", stream=self._durable.stream)
            self.restart()
        self._incarnation = incarnation
        self._ready.set()
        if rest_s:
            log.info("consumer rests", stream=self._durable.stream, seconds=round(rest_s, 1))
            await asyncio.sleep(rest_s)
            await self._consumer.assured()
        epoch = self._epoch
        if self._opened != epoch:
            await self._open(epoch)
        if not self._assured and not self._closed and epoch == self._epoch:
            self._assured = True
            self._expected = 0  # whatever was asked for before, this consumer may not know of it
            self._arrived.set()

    async def _open(self, epoch: int) -> None:
        """Open an inbox of this epoch's own: what still arrives at the last one is not to be believed."""
        if self._subscription is not None:
            await self._subscription.unsubscribe()
        self._inbox = self._client.new_inbox()
        self._subscription = await self._client.hear(self._inbox, functools.partial(self._on_message, epoch))
        self._opened = epoch

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
                self._doubt()
        batch = [self._queue.popleft() for _ in range(min(limit, len(self._queue)))]
        await self._top_up()
        return batch

    def held(self) -> Sequence[Delivery]:
        """Messages that wait in the local queue."""
        return list(self._queue)

    async def settle(self) -> None:
        """Wait, for a moment, until the server has the acknowledgements: nats-py sends them later by itself."""
        with contextlib.suppress(NatsError, TimeoutError):
            await self._client.flush(timeout=SETTLE_S)

    async def close(self) -> None:
        """Ask for no more, and give back what waits in the queue."""
        self._closed = True
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.wait({self._watching}, timeout=CLOSE_S)
        if self._subscription is None:
            return
        # Drained before anything is given back: what is on its way arrives, and nothing given back comes here again.
        with contextlib.suppress(NatsError, TimeoutError):
            async with asyncio.timeout(CLOSE_S):
                await self._subscription.drain()  # type: ignore[no-untyped-call] # nats-py types it not
        for delivery in self._queue:
            await delivery.nak(0)
        self._queue.clear()

    async def _top_up(self) -> None:
        room = PREFETCH - len(self._queue) - self._expected
        if self._closed or not self._assured or room < PREFETCH // 2 or not self._client.is_connected:
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

    def _on_message(self, epoch: int, message: Heard) -> None:
        if epoch != self._epoch:
            return
        self._heard_at = time.monotonic()
        if not message.reply:
            self._on_status(read_headers(message.headers) or {})
            return
        self._expected = max(0, self._expected - 1)
        self._queue.append(_Delivery(message, self, epoch))
        self._arrived.set()

    def _on_status(self, headers: Mapping[str, str]) -> None:
        status = headers.get("Status", "100")
        if status == "100":
            return  # a heartbeat: nothing to deliver, still there
        left = headers.get("Nats-Pending-Messages")
        self._expected = max(0, self._expected - int(left)) if left else 0
        if status in ("408", "404"):  # the request has had its time
            self._arrived.set()
            return
        log.info("pull ended", stream=self._durable.stream, status=status, why=headers.get("Description"))
        self._doubt()


class _Delivery:
    """A JetStream message and the connection that delivered it."""

    __slots__ = ("_epoch", "_pull", "_reply", "attempt", "headers", "payload", "sequence", "stream", "subject")

    def __init__(self, message: Heard, pull: Pull, epoch: int) -> None:
        self._pull = pull
        self._epoch = epoch
        self._reply = message.reply.decode()
        self.subject = message.subject.decode(errors="replace")
        self.payload = message.payload
        self.headers: Mapping[str, str] = read_headers(message.headers) or {}
        tokens = self._reply.split(".")  # $JS.ACK.<stream>.<consumer>.<delivered>.<seq>.<cseq>.<time>.<pending>
        offset = 0 if len(tokens) == len(_ACK_TOKENS) else 2  # with a domain and an account in front
        self.stream = tokens[2 + offset]
        self.attempt = int(tokens[4 + offset])
        self.sequence = int(tokens[5 + offset])

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
                await self._pull._client.publish(self._reply, word)  # noqa: SLF001 - its own pull
