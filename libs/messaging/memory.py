"""The bus inside a process: what JetStream does, without a server. Tests of services and simulations use it."""

import asyncio
import contextlib
import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from libs.contracts import stream_of
from libs.messaging.bus import NOTHING_WAITS, BusUnavailable, Delivery, Durable, Lag, StreamForgot, StreamState, matches
from libs.messaging.envelope import Outgoing, stated_at

Hear = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Stored:
    """A message as its stream keeps it."""

    stream: str
    sequence: int
    subject: str
    payload: bytes
    headers: Mapping[str, str]


class MemoryBroker:
    """The server: streams, durable consumers, listeners. Outlives every `MemoryBus` that connects to it.

    Time is the event loop's. Nothing happens in the background: what is due is found when somebody asks for it.
    """

    def __init__(self, *, ack_wait_s: float = 30.0) -> None:
        self.ack_wait_s = ack_wait_s
        self.streams: dict[str, _Stream] = {}
        self.listeners: list[tuple[MemoryBus, str, Hear]] = []
        self._waiting: dict[str, asyncio.Event] = {}

    def stored(self, service: str) -> Sequence[Stored]:
        """What the stream of `service` keeps, in order."""
        stream = self.streams.get(stream_of(service))
        return list(stream.messages) if stream else []

    def make(self, name: str, incarnation: int = 1) -> "_Stream":
        """Make a stream, unless it is there; return it."""
        return self.streams.setdefault(name, _Stream(name, incarnation))

    def copy(self) -> "dict[str, _Stream]":
        """Copy the store, as a backup does."""
        return copy.deepcopy(self.streams)

    def restore(self, store: "dict[str, _Stream]") -> None:
        """Exchange the store for another one: an empty one, or an older copy."""
        self.streams = copy.deepcopy(store)
        self.changed()

    def changed(self, stream: str | None = None) -> None:
        """Let everybody look again who waits for a change of `stream`, or of anything."""
        for name in [stream] if stream is not None else list(self._waiting):
            if event := self._waiting.pop(name, None):
                event.set()

    async def change(self, stream: str, *, until: float | None = None) -> None:
        """Wait for the next change of `stream`, or until the event loop's time is `until`."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(until):
                await self._waiting.setdefault(stream, asyncio.Event()).wait()


class MemoryBus:
    """One connection to a `MemoryBroker`. Several of them on one broker are the replicas of a service."""

    def __init__(self, broker: MemoryBroker | None = None) -> None:
        self.broker = broker or MemoryBroker()
        self.connection: object | None = object()  # None while away, another one after each absence
        self._epoch = 0

    @property
    def connected(self) -> bool:
        """Whether the broker can be reached."""
        return self.connection is not None

    def go_away(self) -> None:
        """Lose the connection: publishing fails, nothing is delivered, acknowledgements get lost."""
        self.connection = None

    def come_back(self) -> None:
        """Connect again. Acknowledgements of what the old connection delivered are not sent."""
        self.connection = object()
        self._epoch += 1
        self.broker.changed()

    @property
    def epoch(self) -> int:
        """Counts the connections."""
        return self._epoch

    async def stream(self, service: str) -> StreamState | None:
        """Say how the stream of `service` stands."""
        self._check()
        stream = self.broker.streams.get(stream_of(service))
        return StreamState(stream.incarnation, 1, len(stream.messages)) if stream else None

    async def message_id_at(self, service: str, sequence: int) -> str | None:
        """Say which message the stream keeps at `sequence`."""
        self._check()
        stream = self.broker.streams.get(stream_of(service))
        if stream is None or not 0 < sequence <= len(stream.messages):
            return None
        return stream.messages[sequence - 1].headers.get("Nats-Msg-Id")

    async def ensure_stream(self, service: str, incarnation: int = 1) -> None:
        """Create the stream that keeps ``<service>.>``, unless it is there."""
        self._check()
        name = stream_of(service)
        stream = self.broker.make(name, incarnation)
        stream.incarnation = stream.incarnation or incarnation
        self.broker.changed()

    async def delete_stream(self, service: str) -> None:
        """Delete the stream of `service`, and the durable consumers on it."""
        self._check()
        self.broker.streams.pop(stream_of(service), None)
        self.broker.changed()

    async def publish(self, messages: Sequence[Outgoing], *, above: int = 0) -> list[int]:
        """Store the messages, in order; an id that is stored already keeps its sequence."""
        if not messages:
            return []
        await asyncio.sleep(0)  # a server would not answer at once either: others get their turn
        self._check()
        for message in messages:  # like the server, to listeners first: nothing is stored yet
            self._pass_by(message.subject)
        sequences = []
        for message in messages:
            stream = self.broker.streams.get(stream_of(message.subject.split(".", 1)[0]))
            if stream is None:
                raise StreamForgot(f"no stream keeps {message.subject}")
            before = len(stream.messages)
            sequences.append(stream.store(message))
            self.broker.changed(stream.name)
            if before < sequences[-1] <= above:
                raise StreamForgot(f"{stream.name} gave away sequence {sequences[-1]} before")
        return sequences

    async def subscribe(self, durable: Durable) -> "_Place":
        """Create or update the durable consumer and join its replicas; waits for the broker, and for its stream."""
        while not self.connected or durable.stream not in self.broker.streams:
            await self.broker.change(durable.stream)
        place = _Place(self, durable)
        place.progress()
        return place

    async def listen(self, subject: str, hear: Hear) -> None:
        """Call `hear` with the subject of whatever passes by, duplicates and what no stream keeps included."""
        self.broker.listeners.append((self, subject, hear))

    async def lag(self, durable: Durable) -> Lag:
        """Ask how far a durable consumer is behind."""
        self._check()
        progress = self.broker.streams[durable.stream].durables[durable.name]
        return Lag(progress.pending(), len(progress.due))

    async def handled_until(self, durable: Durable) -> datetime:
        """Say since when facts may wait for a durable consumer."""
        self._check()
        progress = self.broker.streams[durable.stream].durables[durable.name]
        first = progress.first_unhandled()
        return stated_at(first.headers) if first else NOTHING_WAITS

    async def close(self) -> None:
        """Leave. What was delivered and not acknowledged comes to another replica after its `ack_wait`."""
        self.broker.listeners = [listener for listener in self.broker.listeners if listener[0] is not self]
        self.go_away()

    def _check(self) -> None:
        if not self.connected:
            raise BusUnavailable("the broker is away")

    def _pass_by(self, subject: str) -> None:
        for bus, pattern, hear in list(self.broker.listeners):
            if bus.connected and matches(pattern, subject):
                hear(subject)


@dataclass(slots=True)
class _Stream:
    name: str
    incarnation: int
    messages: list[Stored] = field(default_factory=list)
    sequences: dict[str, int] = field(default_factory=dict)
    durables: "dict[str, _Progress]" = field(default_factory=dict)

    def store(self, message: Outgoing) -> int:
        sequence = len(self.messages) + 1
        message_id = message.headers.get("Nats-Msg-Id")
        if message_id is not None and self.sequences.setdefault(message_id, sequence) != sequence:
            return self.sequences[message_id]
        self.messages.append(Stored(self.name, sequence, message.subject, message.payload, dict(message.headers)))
        return sequence


@dataclass(slots=True)
class _Progress:
    """How far a durable consumer has got, and when each message it waits for is delivered again."""

    stream: _Stream
    incarnation: int
    subjects: tuple[str, ...] = ()
    position: int = 0
    due: dict[int, float] = field(default_factory=dict)
    attempts: dict[int, int] = field(default_factory=dict)

    def pending(self) -> int:
        """Count what is still to be handed out for the first time."""
        ahead = self.stream.messages[self.position :]
        return sum(any(matches(pattern, message.subject) for pattern in self.subjects) for message in ahead)

    def first_unhandled(self) -> Stored | None:
        """Find the first message that was not acknowledged; None when every one was."""
        if self.due:
            return self.stream.messages[min(self.due) - 1]
        ahead = self.stream.messages[self.position :]
        wanted = (one for one in ahead if any(matches(pattern, one.subject) for pattern in self.subjects))
        return next(wanted, None)

    def take(self, limit: int, *, now: float, ack_wait_s: float) -> list[Stored]:
        """Hand out up to `limit` messages: what is due again comes first, since it is older."""
        sequences = sorted(sequence for sequence, due in self.due.items() if due <= now)[:limit]
        while len(sequences) < limit and self.position < len(self.stream.messages):
            subject = self.stream.messages[self.position].subject
            self.position += 1
            if any(matches(pattern, subject) for pattern in self.subjects):
                sequences.append(self.position)
        for sequence in sequences:
            self.due[sequence] = now + ack_wait_s
            self.attempts[sequence] = self.attempts.get(sequence, 0) + 1
        return [self.stream.messages[sequence - 1] for sequence in sequences]


@dataclass(slots=True)
class _Place:
    """A place in the queue of a durable consumer. Fetches nothing ahead, so a closed one holds nothing back."""

    bus: MemoryBus
    durable: Durable
    closed: bool = False

    def progress(self) -> _Progress | None:
        """Find the durable, and make it if it is not there, or of another incarnation; None without a stream."""
        stream = self.bus.broker.streams.get(self.durable.stream)
        if stream is None:
            return None
        progress = stream.durables.get(self.durable.name)
        if progress is None or progress.incarnation != stream.incarnation:
            progress = stream.durables[self.durable.name] = _Progress(stream, stream.incarnation)
        progress.subjects = self.durable.subjects
        return progress

    async def next_batch(self, limit: int) -> Sequence[Delivery]:
        broker = self.bus.broker
        while True:
            await asyncio.sleep(0)  # other replicas get their turn
            until = None
            progress = self.progress()
            if progress and self.bus.connected and not self.closed:
                now = asyncio.get_running_loop().time()
                taken = progress.take(limit, now=now, ack_wait_s=broker.ack_wait_s)
                if taken:
                    return [_Delivery(self.bus, progress, message) for message in taken]
                until = min(progress.due.values(), default=None)
            await broker.change(self.durable.stream, until=until)

    def held(self) -> Sequence[Delivery]:
        return ()

    async def settle(self) -> None:
        """Do nothing: here whoever answers waits until the broker knows."""

    async def close(self) -> None:
        self.closed = True


class _Delivery:
    """A stored message, handed out over one connection."""

    def __init__(self, bus: MemoryBus, progress: _Progress, message: Stored) -> None:
        self.stream = message.stream
        self.sequence = message.sequence
        self.subject = message.subject
        self.payload = message.payload
        self.headers = message.headers
        self.attempt = progress.attempts[message.sequence]
        self._bus = bus
        self._connection = bus.connection
        self._due = progress.due

    async def ack(self) -> None:
        if self._bus.connection is self._connection:
            self._due.pop(self.sequence, None)

    async def nak(self, delay_s: float) -> None:
        self._again_in(delay_s)

    async def term(self) -> None:
        await self.ack()

    async def in_progress(self) -> None:
        self._again_in(self._bus.broker.ack_wait_s)

    def _again_in(self, delay_s: float) -> None:
        if self._bus.connection is self._connection and self.sequence in self._due:
            self._due[self.sequence] = asyncio.get_running_loop().time() + delay_s
            self._bus.broker.changed(self.stream)
