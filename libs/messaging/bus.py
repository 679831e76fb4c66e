"""What the project needs of a message bus. `JetStream` provides it for real, `MemoryBus` inside a process."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from libs.messaging.envelope import Outgoing


class BusUnavailable(Exception):
    """The bus did not confirm. Whether it did what it was asked is unknown; ask again with the same ids."""


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

    async def close(self) -> None:
        """Ask for no more messages."""
        ...


class Bus(Protocol):
    """Streams that keep messages, durable consumers that hand them out, plain subjects that only pass by."""

    @property
    def connected(self) -> bool:
        """Whether the bus is there right now."""
        ...

    async def ensure_stream(self, service: str) -> None:
        """Create or update the stream that keeps ``<service>.>``."""
        ...

    async def publish(self, messages: Sequence[Outgoing]) -> list[int]:
        """Store the messages, in order, and return their sequences. Raises `BusUnavailable`.

        Several messages are stored as one atomic batch where the server allows, so they are durable together.
        An id that is stored already is not stored twice within the server's duplicate window; nothing may
        rely on that.
        """
        ...

    async def subscribe(self, durable: Durable) -> Subscription:
        """Create or update the durable consumer and join its replicas. Waits for the stream to be there."""
        ...

    async def listen(self, subject: str, hear: Callable[[str], Awaitable[None] | None]) -> None:
        """Call `hear` with the subject of whatever passes by. A hint, never a proof: nothing is kept or repeated,
        and messages are seen before they are stored."""
        ...

    async def lag(self, durable: Durable) -> Lag:
        """Ask how far a durable consumer is behind. Raises when it is not there, or the bus is away."""
        ...

    async def close(self) -> None:
        """Flush and leave."""
        ...
