"""The bus for real: NATS JetStream through nats-py."""

import asyncio
import contextlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Self

import structlog
from nats.errors import Error as NatsError
from nats.errors import NoRespondersError
from nats.js import JetStreamContext
from nats.js.api import DiscardPolicy, RetentionPolicy, StorageType, StreamConfig
from nats.js.errors import APIError, NotFoundError

from libs.contracts import stream_of
from libs.messaging.bus import NOTHING_WAITS, BusUnavailable, Durable, Lag, StreamForgot, StreamState
from libs.messaging.client import Acknowledged, Heard, LeanClient
from libs.messaging.durable import ANSWER_WITHIN_S, INCARNATION, incarnation_of
from libs.messaging.envelope import Outgoing, stated_at
from libs.messaging.pull import Pull

MAX_AGE_S: Final = 7 * 24 * 3600
PUBLISH_TIMEOUT_S: Final = 5.0
SINGLES_IN_FLIGHT: Final = 64

ATOMIC_FROM: Final = 16
"""Messages that become an atomic batch. The server (2.15.1) lays a batch down in files of its own before it stores it,
which takes it 1.5 ms and more: in that time it stores sixteen messages one by one (docs/performance.md)."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class JetStreamSettings:
    """How to reach the servers, and how this service's own stream is kept."""

    url: str
    name: str
    user: str | None = None
    password: str | None = None
    replicas: int = 1
    max_bytes: int = 1 << 30


class JetStream:
    """One connection to NATS. Reconnects for ever; until it is back, publishing raises `BusUnavailable`."""

    def __init__(self, client: LeanClient, settings: JetStreamSettings) -> None:
        self._client = client
        self._settings = settings
        self._js: JetStreamContext = client.jetstream(timeout=PUBLISH_TIMEOUT_S)
        self._questions: JetStreamContext = client.jetstream(timeout=ANSWER_WITHIN_S)
        self._acknowledged = Acknowledged(client)
        self._subscriptions: list[Pull] = []
        self._leaving = False
        self._epoch = 0

    @classmethod
    async def connect(cls, settings: JetStreamSettings, *, on_closed: Callable[[], None] = lambda: None) -> Self:
        """Connect once. Raises `BusUnavailable` within seconds when no server answers; the caller tries again.

        `on_closed` is called when the client gives up for good: the process should end and be restarted.
        """
        client = LeanClient()
        bus = cls(client, settings)

        async def disconnected() -> None:
            if not bus._leaving:
                log.warning("nats connection lost")
            # Now, and not only once the next one is said to be back: until then it already takes what is published.
            bus._epoch += 1
            for subscription in bus._subscriptions:
                subscription.restart()

        async def reconnected() -> None:
            log.info("nats connection is back")
            bus._epoch += 1
            for subscription in bus._subscriptions:
                subscription.restart()

        async def closed() -> None:
            if not bus._leaving:
                on_closed()

        async def failed(error: Exception) -> None:
            # Permission violations arrive only here; whoever asked sees a timeout.
            log.warning("nats error", error=str(error) or type(error).__name__)

        try:
            async with asyncio.timeout(5):
                await client.connect(
                    servers=settings.url.split(","),
                    name=settings.name,
                    user=settings.user,
                    password=settings.password,
                    inbox_prefix=f"_INBOX_{settings.name}",
                    allow_reconnect=True,
                    max_reconnect_attempts=-1,  # the default gives up after 60 and closes for good
                    reconnect_time_wait=0.25,  # type: ignore[arg-type] # seconds; a fraction works
                    connect_timeout=2,
                    ping_interval=3,  # sees a half-open connection after 9 s, the default after four minutes
                    pending_size=-1,  # while disconnected, fail at once instead of timing out and being sent later
                    disconnected_cb=disconnected,
                    reconnected_cb=reconnected,
                    closed_cb=closed,
                    error_cb=failed,
                )
        except (NatsError, OSError, TimeoutError) as error:
            with contextlib.suppress(Exception):
                await client.close()
            raise BusUnavailable(f"no NATS server at {settings.url}: {str(error) or type(error).__name__}") from error
        return bus

    @property
    def connected(self) -> bool:
        """Whether there is a connection right now."""
        return self._client.is_connected

    @property
    def epoch(self) -> int:
        """Counts the connections."""
        return self._epoch

    async def stream(self, service: str) -> StreamState | None:
        """Ask how the stream of `service` stands."""
        with _unavailable():
            try:
                info = await self._questions.stream_info(stream_of(service))
            except NotFoundError:
                return None
        return StreamState(incarnation_of(info.config.metadata), info.state.first_seq, info.state.last_seq)

    async def message_id_at(self, service: str, sequence: int) -> str | None:
        """Ask the stream's leader which message it keeps at `sequence`."""
        with _unavailable():
            try:
                message = await self._questions.get_msg(stream_of(service), sequence, direct=False)
            except NotFoundError:
                return None
        return (message.headers or {}).get("Nats-Msg-Id")

    async def ensure_stream(self, service: str, incarnation: int = 1) -> None:
        """Create the stream of `service`, or bring it up to date. Its room is never lowered."""
        name = stream_of(service)
        wanted = StreamConfig(
            name=name,
            subjects=[f"{service}.>"],
            retention=RetentionPolicy.LIMITS,  # a work queue's dedup dies with a restart (nats-server#3272)
            storage=StorageType.FILE,
            discard=DiscardPolicy.NEW,
            max_age=MAX_AGE_S,
            max_bytes=self._settings.max_bytes,
            num_replicas=self._settings.replicas,
            duplicate_window=120,
            deny_delete=True,
            deny_purge=True,
            allow_atomic=True,
            allow_direct=True,  # the audit reads whole streams: in batches, from any replica
            max_consumers=-1,
            max_msgs=-1,
            metadata={INCARNATION: str(incarnation)},
        )
        with _unavailable():
            try:
                there = (await self._questions.stream_info(name)).config
            except NotFoundError:
                await self._js.add_stream(wanted)
                return
            room = max(there.max_bytes or 0, self._settings.max_bytes)
            metadata = {INCARNATION: str(incarnation), **(there.metadata or {})}
            await self._js.update_stream(wanted, max_bytes=room, metadata=metadata)

    async def delete_stream(self, service: str) -> None:
        """Delete the stream of `service`. `deny_delete` keeps its messages from being deleted, not all of it."""
        with _unavailable(), contextlib.suppress(NotFoundError):
            await self._js.delete_stream(stream_of(service))

    async def publish(self, messages: Sequence[Outgoing], *, above: int = 0) -> list[int]:
        """Store the messages, in order. Many become one atomic batch; few, or a refused batch, are published singly."""
        if not messages:
            return []
        with _unavailable():
            if len(messages) >= ATOMIC_FROM:
                sequences = await self._publish_batch(messages, above)
                if sequences is not None:
                    return sequences
            return await self._publish_singly(messages, above)

    async def _publish_batch(self, messages: Sequence[Outgoing], above: int) -> list[int] | None:
        batch_id = str(messages[0].id)
        *head, last = messages
        for number, message in enumerate(head, 1):
            headers = {**message.headers, "Nats-Batch-Id": batch_id, "Nats-Batch-Sequence": str(number)}
            await self._client.publish(message.subject, message.payload, headers=headers)
        headers = {
            **last.headers,
            "Nats-Batch-Id": batch_id,
            "Nats-Batch-Sequence": str(len(messages)),
            "Nats-Batch-Commit": "1",
        }
        reply = await self._client.request(last.subject, last.payload, timeout=PUBLISH_TIMEOUT_S, headers=headers)
        ack: dict[str, Any] = json.loads(reply.data)
        if "error" in ack or ack.get("count") != len(messages):
            # Refused whole; for example because one id is stored already (error 10201): then singly, where
            # a known id is acknowledged as a duplicate.
            log.info("atomic batch refused", batch=len(messages), answer=ack)
            return None
        last_sequence = int(ack["seq"])
        first_sequence = last_sequence - len(messages) + 1
        _check_is_above(above, first_sequence)
        return list(range(first_sequence, last_sequence + 1))

    async def _publish_singly(self, messages: Sequence[Outgoing], above: int) -> list[int]:
        sequences: list[int] = []
        for start in range(0, len(messages), SINGLES_IN_FLIGHT):
            some = messages[start : start + SINGLES_IN_FLIGHT]
            for ack in await self._acknowledged.publish(some, within_s=PUBLISH_TIMEOUT_S):
                sequence = int(ack["seq"])
                if not ack.get("duplicate"):
                    _check_is_above(above, sequence)
                sequences.append(sequence)
        return sequences

    async def subscribe(self, durable: Durable) -> Pull:
        """Create or update the durable consumer and pull from it; waits for its stream to be there."""
        pull = Pull(self._client, durable)
        self._subscriptions.append(pull)
        await pull.start()
        return pull

    async def listen(self, subject: str, hear: Callable[[str], None]) -> None:
        """Hear the subjects of whatever passes by on `subject`."""

        def note(passed_by: Heard) -> None:
            hear(passed_by.subject.decode(errors="replace"))

        await self._client.hear(subject, note)

    async def lag(self, durable: Durable) -> Lag:
        """Ask how far a durable consumer is behind."""
        with _unavailable():
            there = await self._questions.consumer_info(durable.stream, durable.name)
        return Lag(there.num_pending or 0, there.num_ack_pending or 0)

    async def handled_until(self, durable: Durable) -> datetime:
        """Say since when facts may wait for a durable consumer."""
        with _unavailable():
            there = await self._questions.consumer_info(durable.stream, durable.name)
            if not there.num_pending and not there.num_ack_pending:
                return NOTHING_WAITS
            floor = there.ack_floor.stream_seq if there.ack_floor else 0
            # What it does not listen to may lie in between; that is not younger than what waits.
            message = await self._questions.get_msg(durable.stream, floor + 1, subject=">", next=True)
        return stated_at(message.headers or {})

    async def close(self) -> None:
        """Flush what was sent and leave. Not drain(), which can stall for 30 s after pulls."""
        self._leaving = True
        for subscription in self._subscriptions:
            await subscription.close()
        with contextlib.suppress(NatsError, TimeoutError, OSError):
            await self._client.flush(timeout=2)
        await self._client.close()


def _check_is_above(above: int, sequence: int) -> None:
    if sequence <= above:
        raise StreamForgot(f"the stream gave away sequence {sequence} before")


@contextlib.contextmanager
def _unavailable() -> Iterator[None]:
    """Turn what the client raises when servers are away, or refuse to store, into `BusUnavailable`."""
    try:
        yield
    except NotFoundError:
        raise
    except NoRespondersError as error:
        raise StreamForgot("no stream keeps this subject") from error
    except (NatsError, APIError, OSError, TimeoutError) as error:
        raise BusUnavailable(str(error) or type(error).__name__) from error
