"""The way to the broker in a story: `MemoryBus` with the weather between it and its process."""

from collections.abc import Callable, Mapping, Sequence

from libs.contracts import stream_of
from libs.messaging.bus import BusUnavailable, Delivery, Durable, Subscription
from libs.messaging.envelope import Outgoing
from libs.messaging.memory import MemoryBroker, MemoryBus
from orderly.simulation.weather import Weather

Hear = Callable[[str], None]


class SimulatedBus(MemoryBus):
    """One process' connection to the broker."""

    def __init__(self, broker: MemoryBroker, weather: Weather) -> None:
        super().__init__(broker)
        self._weather = weather
        self._ended = False

    def end(self) -> None:
        """Its process was killed: nothing it still tries has any effect."""
        self._ended = True
        self.broker.listeners = [listener for listener in self.broker.listeners if listener[0] is not self]
        self.go_away()

    def come_back(self) -> None:
        """See `MemoryBus`; the dead stay away."""
        if not self._ended:
            super().come_back()

    async def publish(self, messages: Sequence[Outgoing], *, above: int = 0) -> list[int]:
        """See `Bus`."""
        weather = self._weather
        await weather.step()
        if weather.happens(weather.refused):
            stored = int(weather.chance.random() * len(messages))
            await super().publish(messages[:stored], above=above)
            raise BusUnavailable("the story has it that the broker refused")
        if weather.happens(weather.forgotten_ids):
            self._forget(messages)
        sequences = await super().publish(messages, above=above)
        await weather.step()
        if weather.happens(weather.lost_confirmation) or self._ended:
            raise BusUnavailable("the story has it that the confirmation was lost")
        return sequences

    async def subscribe(self, durable: Durable) -> "_Tampered":  # type: ignore[override] # both are subscriptions
        """See `Bus`."""
        return _Tampered(await super().subscribe(durable), self._weather)

    async def listen(self, subject: str, hear: Hear) -> None:
        """See `Bus`."""

        def perhaps(said: str) -> None:
            if not self._weather.happens(self._weather.lost_hint):
                hear(said)

        await super().listen(subject, perhaps)

    def _forget(self, messages: Sequence[Outgoing]) -> None:
        """Let the window in which the server knows ids again be over."""
        for message in messages:
            stream = self.broker.streams.get(stream_of(message.subject.split(".", 1)[0]))
            if stream is not None:
                stream.sequences.pop(str(message.id), None)


class _Tampered:
    """A subscription whose deliveries get lost, come late, and come twice."""

    def __init__(self, inner: Subscription, weather: Weather) -> None:
        self._inner = inner
        self._weather = weather

    async def next_batch(self, limit: int) -> Sequence[Delivery]:
        weather, chance = self._weather, self._weather.chance
        while True:
            few = 1 + int(chance.random() * 4) if weather.happens(0.5) else limit
            batch: list[Delivery] = []
            for delivery in await self._inner.next_batch(few):
                if weather.happens(weather.dropped):
                    continue
                if weather.happens(weather.late):
                    await delivery.nak(2 * chance.random() ** 2)
                    continue
                if weather.happens(weather.doubled):
                    await delivery.nak(0.1 * chance.random())
                batch.append(_Acknowledging(delivery, weather))
            await weather.step()
            if batch:
                return batch

    def held(self) -> Sequence[Delivery]:
        return self._inner.held()

    async def settle(self) -> None:
        await self._inner.settle()

    async def close(self) -> None:
        await self._inner.close()


class _Acknowledging:
    """A delivery whose acknowledgement may get lost."""

    def __init__(self, inner: Delivery, weather: Weather) -> None:
        self._inner = inner
        self._weather = weather
        self.stream = inner.stream
        self.sequence = inner.sequence
        self.subject = inner.subject
        self.payload = inner.payload
        self.headers: Mapping[str, str] = inner.headers
        self.attempt = inner.attempt

    async def ack(self) -> None:
        await self._weather.step()
        if not self._weather.happens(self._weather.lost_ack):
            await self._inner.ack()
        await self._weather.step()

    async def nak(self, delay_s: float) -> None:
        await self._inner.nak(delay_s)

    async def term(self) -> None:
        await self._inner.term()

    async def in_progress(self) -> None:
        await self._inner.in_progress()
