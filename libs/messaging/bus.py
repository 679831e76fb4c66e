"""What the project needs of a message bus. `JetStream` provides it for real, `MemoryBus` inside a process."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Protocol

from libs.messaging.envelope import Outgoing

NOTHING_WAITS: Final = datetime.max.replace(tzinfo=UTC)
"""What a durable consumer that has handled everything has handled until."""


class BusUnavailable(Exception):
    """The bus did not confirm. Whether it did what it was asked is unknown; ask again with the same ids."""


class StreamForgot(BusUnavailable):
    """The stream is not the one that acknowledged before: it is gone, or has lost its newest messages."""


@dataclass(frozen=True, slots=True)
class StreamState:
    """What a stream says about itself.

    `incarnation` is how often its publisher has made it; 0 when it does not say. Sequences begin at 1 with each;
    `first_sequence` is above `last_sequence` in an empty stream.
    """

    incarnation: int
    first_sequence: int
    last_sequence: int


@dataclass(frozen=True, slots=True)
class Durable:
    """A durable consumer: `name` is its identity on `stream`, and outlives every process that pulls from it."""

    stream: str
    name: str
    subjects: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Lag:
    """How far a durable consumer is behind: messages not yet delivered, and delivered but not acknowledged."""

    pending: int
    ack_pending: int


def matches(pattern: str, subject: str) -> bool:
    """Whether a subject is among those a NATS pattern means: ``*`` is one token, ``>`` one or more at the end."""
    wanted, tokens = pattern.split("."), subject.split(".")
    if wanted[-1] == ">" and len(tokens) >= len(wanted):
        wanted, tokens = wanted[:-1], tokens[: len(wanted) - 1]
    return len(wanted) == len(tokens) and all(want in ("*", token) for want, token in zip(wanted, tokens, strict=True))


class Delivery(Protocol):
    """One message handed to one consumer, until it is acknowledged, given back, or its `ack_wait` is over."""

    @property
    def stream(self) -> str: ...
    @property
    def sequence(self) -> int: ...
    @property
    def subject(self) -> str: ...
    @property
    def payload(self) -> bytes: ...
    @property
    def headers(self) -> Mapping[str, str]: ...
    @property
    def attempt(self) -> int:
        """How often this message was delivered, this time included: 1, 2, …"""
        ...

    async def ack(self) -> None:
        """It is done with; it is not delivered again. May get lost, and the message then comes again."""
        ...

    async def nak(self, delay_s: float) -> None:
        """Deliver it again after `delay_s` seconds."""
        ...

    async def term(self) -> None:
        """Never deliver it again."""
        ...

    async def in_progress(self) -> None:
        """Start its `ack_wait` anew."""
        ...


class Subscription(Protocol):
    """A place in the queue of one durable consumer, shared with its other replicas."""

    async def next_batch(self, limit: int) -> Sequence[Delivery]:
        """Wait for messages; return those that are here, from 1 to `limit`, in stream order."""
        ...

    def held(self) -> Sequence[Delivery]:
        """Messages that were delivered here and wait for `next_batch`."""
        ...

    async def settle(self) -> None:
        """Wait until the broker has what deliveries were answered with so far; for a moment, and not for certain."""
        ...

    async def close(self) -> None:
        """Ask for no more messages."""
        ...


class Bus(Protocol):
    """Streams that keep messages, durable consumers that hand them out, plain subjects that only pass by."""

    @property
    def connected(self) -> bool:
        """Whether the bus is there right now."""
        ...

    @property
    def epoch(self) -> int:
        """Counts the connections: another one may lead to a broker that forgot."""
        ...

    async def stream(self, service: str) -> StreamState | None:
        """Ask how the stream of `service` stands; None: it is not there. Raises `BusUnavailable`."""
        ...

    async def message_id_at(self, service: str, sequence: int) -> str | None:
        """Ask for the id of the message that the stream of `service` keeps at `sequence`, if there is one."""
        ...

    async def ensure_stream(self, service: str, incarnation: int = 1) -> None:
        """Create the stream that keeps ``<service>.>``, or bring its configuration up to date.

        The incarnation of a stream that has one stays as it is.
        """
        ...

    async def delete_stream(self, service: str) -> None:
        """Delete the stream of `service`, its messages, and the durable consumers on it."""
        ...

    async def publish(self, messages: Sequence[Outgoing], *, above: int = 0) -> list[int]:
        """Store the messages, in order, and return their sequences. Raises `BusUnavailable`.

        Many messages are stored as one atomic batch where the server allows, for speed alone: after a failure, some of
        them may be stored.
        An id that is stored already is not stored twice within the server's duplicate window; nothing may
        rely on that. Raises `StreamForgot` when there is no stream, or when it stored a message at a sequence not
        above `above`, which it had given away before.
        """
        ...

    async def subscribe(self, durable: Durable) -> Subscription:
        """Create or update the durable consumer and join its replicas. Waits for the stream to be there.

        A durable that was lost, or that belongs to an earlier incarnation of its stream, is made anew by itself:
        then everything the stream keeps is delivered again.
        """
        ...

    async def listen(self, subject: str, hear: Callable[[str], None]) -> None:
        """Call `hear` with the subject of whatever passes by. A hint, never a proof: nothing is kept or repeated,
        and messages are seen before they are stored."""
        ...

    async def lag(self, durable: Durable) -> Lag:
        """Ask how far a durable consumer is behind. Raises when it is not there, or the bus is away."""
        ...

    async def handled_until(self, durable: Durable) -> datetime:
        """Say since when facts may wait for a durable consumer: it has handled those stated before this time.

        Raises when the consumer is not there, or the bus is away.
        """
        ...

    async def close(self) -> None:
        """Flush and leave."""
        ...
