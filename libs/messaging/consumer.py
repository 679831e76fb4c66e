"""Consumers: feed one stream's messages to the handlers, a batch a unit of work, acknowledged after the commit."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

import structlog

from libs.contracts import Fact, publisher_of, stream_of
from libs.errors import Kind, Refusal
from libs.messaging import dead_letters
from libs.messaging.bus import Bus, Delivery, Durable, Subscription
from libs.messaging.envelope import Event, open_envelope
from libs.messaging.unit import DeadlineExceeded, Unit, Units
from libs.storage import is_lost_race, is_transient
from libs.telemetry.messaging import processing

StoreT = TypeVar("StoreT")
FactT = TypeVar("FactT", bound=Fact)
ResultT = TypeVar("ResultT")

MAX_ATTEMPTS: Final = 20
"""Deliveries without an outcome after which a message is set aside."""

TOGETHER_AT_MOST: Final = 2
"""Deliveries of a message that is still handled together with others; after a crash everything in hand comes again."""

GATHER_S: Final = 0.5
"""How long a process that gets the first message of that kind waits for those that were in hand with it."""

TRIES: Final = 3
"""How often a batch that loses a race against another replica is begun before that counts as a failure."""

PAUSE_S: Final = 1.0
KEEP_ALIVE_S: Final = 10.0

log = structlog.get_logger()

Handler = Callable[[Sequence[Event[FactT]], Unit[StoreT]], Awaitable[None]]
"""Handles facts of one type that arrived together, in stream order, within one transaction. Any of them may
have been handled before: a handler's effects are keyed by their cause, so that the second time changes nothing."""


@dataclass(frozen=True, slots=True)
class Listens(Generic[StoreT]):
    """A line of a service's table: the handler that answers a fact, and the facts it may answer with."""

    fact: type[Fact]
    handler: Handler[Any, StoreT]
    answers: tuple[type[Fact], ...] = ()


def durables(service: str, table: Sequence[Listens[Any]]) -> list[Durable]:
    """List the durable consumers of `service`: one a stream, named after the service."""
    subjects: dict[str, list[str]] = {}
    for line in table:
        subjects.setdefault(stream_of(publisher_of(line.fact)), []).append(f"{line.fact.type}.*")
    return [Durable(stream, service, tuple(wanted)) for stream, wanted in subjects.items()]


def table_of(lines: Sequence[Listens[StoreT]]) -> dict[str, Listens[StoreT]]:
    """Look lines of a service's table up by the type of their fact."""
    return {line.fact.type: line for line in lines}


def read_event(
    table: Mapping[str, Listens[Any]], subject: str, payload: bytes, headers: Mapping[str, str]
) -> Event[Any]:
    """Read a message as one of the facts of `table`. Raises `Refusal` (never transient) if it is none."""
    line = table.get(subject.rsplit(".", 1)[0])
    if line is None:  # the consumer's filter lets nothing else through; believe the subject all the same
        raise _unknown(subject)
    event = open_envelope(line.fact, payload, headers)
    if event.fact.subject != subject:
        raise _unknown(subject)
    return event


def is_passing(error: Exception) -> bool:
    """Whether a handler may take the same message when it is tried again, unchanged: then it is not its fault."""
    return is_transient(error) or (isinstance(error, Refusal) and error.transient)


class Consumer(Generic[StoreT]):
    """Pulls from one durable consumer and hands batches to the handlers of its types.

    With `pace_s` a batch is followed by the next one so many seconds later, unless it was full: for work that
    nobody waits for.
    """

    def __init__(
        self,
        service: str,
        durable: Durable,
        table: Sequence[Listens[StoreT]],
        units: Units[StoreT],
        *,
        batch_limit: int,
        pace_s: float = 0.0,
    ) -> None:
        self._pace_s = pace_s
        self._service = service
        self._durable = durable
        self._table = table_of(table)
        self._units = units
        self._batch_limit = batch_limit
        self._stopping = asyncio.Event()
        self._gathered = False

    def stop(self) -> None:
        """Finish the batch in hand and take no other."""
        self._stopping.set()

    async def run(self, bus: Bus) -> None:
        """Consume until stopped."""
        subscription = await self._unless_stopped(bus.subscribe(self._durable))
        if subscription is None:
            return
        try:
            while batch := await self._unless_stopped(subscription.next_batch(self._batch_limit)):
                try:
                    await self._work_off(batch, subscription)
                except Exception:
                    # Not acknowledged, so it comes again after its ack_wait.
                    log.exception("batch given up for now", stream=self._durable.stream)
                if self._pace_s and len(batch) < self._batch_limit:
                    await self._unless_stopped(asyncio.sleep(self._pace_s))
        finally:
            await subscription.close()

    async def _unless_stopped(self, waiting: Coroutine[Any, Any, ResultT]) -> ResultT | None:
        """Wait for something; give up, and return None, once this consumer is to stop."""
        if self._stopping.is_set():
            waiting.close()
            return None
        pending = asyncio.ensure_future(waiting)
        stopping = asyncio.ensure_future(self._stopping.wait())
        try:
            await asyncio.wait({pending, stopping}, return_when=asyncio.FIRST_COMPLETED)
            return pending.result() if pending.done() else None
        finally:
            pending.cancel()
            stopping.cancel()

    async def _work_off(self, batch: Sequence[Delivery], subscription: Subscription) -> None:
        """Handle what arrived: together, but for what came again and again without an outcome.

        One of those may end the process whenever it is handled. So each is handled alone, in an order left to
        chance: each time half of its neighbours, on average, are done before it gets its turn. That they are done is
        known to the broker before the next one is tried, or they would come again with it.
        """
        trusted, suspects = _parted(batch)
        if trusted:
            await self.process(trusted, subscription, suspects)
        if suspects and not self._gathered:
            self._gathered = True
            suspects += await self._gather(subscription)
        random.shuffle(suspects)
        for place, delivery in enumerate(suspects, 1):
            await subscription.settle()
            await self.process([delivery], subscription, suspects[place:])

    async def _gather(self, subscription: Subscription) -> list[Delivery]:
        """Wait for the rest of what a process before this one had in hand; work off what is above suspicion in it."""
        await asyncio.sleep(GATHER_S)
        suspects: list[Delivery] = []
        here = len(subscription.held())
        while here > 0 and subscription.held():  # what arrives meanwhile is for the next batch
            batch = await subscription.next_batch(self._batch_limit)
            here -= len(batch)
            trusted, more = _parted(batch)
            suspects += more
            if trusted:
                await self.process(trusted, subscription, suspects)
        return suspects

    async def process(
        self, batch: Sequence[Delivery], subscription: Subscription, following: Sequence[Delivery] = ()
    ) -> None:
        """Handle a batch to its end: every message is acknowledged, set aside, or given back.

        `following` are messages that wait for this batch, and are kept from being delivered elsewhere meanwhile.
        """
        kept_alive = time.monotonic()
        while True:
            try:
                await self._handle(batch)
            except Exception as error:  # noqa: BLE001 - one bad message stops nobody
                too_much = isinstance(error, DeadlineExceeded) and len(batch) > 1
                if is_passing(error) and not too_much:
                    # Not the messages' fault: pause, and spend no deliveries on it.
                    log.warning("consumer pauses", stream=self._durable.stream, batch=len(batch), error=str(error))
                    await asyncio.sleep(PAUSE_S)
                    if time.monotonic() - kept_alive > KEEP_ALIVE_S:
                        kept_alive = time.monotonic()
                        await _keep((*batch, *following, *subscription.held()))
                    if self._stopping.is_set():
                        return
                    continue
                if len(batch) == 1:
                    await self._give_back(batch[0], error)
                    return
                log.warning("batch failed; one by one", batch=len(batch), error=str(error))
                for place, delivery in enumerate(batch, 1):
                    await self.process([delivery], subscription, [*batch[place:], *following])
            return

    async def _give_back(self, delivery: Delivery, error: Exception) -> None:
        """Have a message delivered again; set it aside when that would not help, or has not helped often enough."""
        if isinstance(error, Refusal) or delivery.attempt >= MAX_ATTEMPTS:
            await self._set_aside(delivery, error)
            return
        delay_s = min(0.5 * 2 ** (delivery.attempt - 1), 30.0)
        log.error(
            "message failed; will be delivered again",
            subject=delivery.subject,
            message_id=dead_letters.event_id_of(delivery),
            attempt=delivery.attempt,
            delay_s=delay_s,
            exc_info=error,
        )
        self._units.telemetry.metrics.consumed(delivery.stream, "redelivered")
        await delivery.nak(delay_s)

    async def _handle(self, batch: Sequence[Delivery]) -> None:
        started = time.perf_counter()
        readable: list[Delivery] = []
        unreadable: list[tuple[Delivery, Refusal]] = []
        events: dict[str, list[Event[Any]]] = {name: [] for name in self._table}
        for delivery in batch:
            if delivery.attempt > MAX_ATTEMPTS:  # a handler that fails has set it aside before: this one never ended
                unreadable.append((delivery, _hopeless()))
                continue
            try:
                event = read_event(self._table, delivery.subject, delivery.payload, delivery.headers)
            except Refusal as refusal:
                unreadable.append((delivery, refusal))
            else:
                readable.append(delivery)
                events[event.fact.type].append(event)
        if readable:
            with processing(self._units.telemetry, self._durable, events):
                await self._commit(events)
            _log_handled(events, (time.perf_counter() - started) * 1000)
        for delivery in readable:
            await delivery.ack()
        for delivery, why in unreadable:
            await self._set_aside(delivery, why)

    async def _commit(self, events: Mapping[str, Sequence[Event[Any]]]) -> None:
        """Hand the events to their handlers, type by type in the order of the table, in one transaction.

        Again when it lost a race: another replica decided about the same thing, and that is to be seen now.
        """
        for attempt in range(1, TRIES + 1):
            try:
                async with self._units.begin() as unit:
                    for name, line in self._table.items():
                        if events[name]:
                            await line.handler(events[name], unit)
            except Exception as error:
                if attempt == TRIES or not is_lost_race(error):
                    raise
            else:
                return

    async def _set_aside(self, delivery: Delivery, error: Exception) -> None:
        async with self._units.begin() as unit:
            announcement = await dead_letters.set_aside(unit.connection, self._service, delivery, error, unit.now)
            if announcement:
                unit.outgoing.append(announcement)
        log.error(
            "message set aside",
            subject=delivery.subject,
            message_id=dead_letters.event_id_of(delivery),
            attempts=delivery.attempt,
            error=str(error),
        )
        self._units.telemetry.metrics.consumed(delivery.stream, "dead")
        await delivery.term()


def _parted(batch: Sequence[Delivery]) -> tuple[list[Delivery], list[Delivery]]:
    """Part messages from those that came more often without an outcome than a fault elsewhere explains."""
    trusted = [delivery for delivery in batch if delivery.attempt <= TOGETHER_AT_MOST]
    return trusted, [delivery for delivery in batch if delivery.attempt > TOGETHER_AT_MOST]


def _hopeless() -> Refusal:
    """Make the refusal of a message that probably ended the process whenever it was handled."""
    return Refusal("no_outcome", f"{MAX_ATTEMPTS} deliveries came to no outcome, not even to an error", Kind.MALFORMED)


def _unknown(subject: str) -> Refusal:
    """Make the refusal of a message whose subject and content do not belong together."""
    return Refusal("unknown_message", f"{subject} does not carry what its subject says", Kind.MALFORMED)


async def _keep(deliveries: Sequence[Delivery]) -> None:
    for delivery in deliveries:
        await delivery.in_progress()


def _log_handled(events: Mapping[str, Sequence[Event[Any]]], elapsed_ms: float) -> None:
    for kind, some in events.items():
        if some:
            ids = {f"{some[0].fact.key_field}s": [str(event.fact.key) for event in some]}
            log.info(
                "handled",
                type=kind,
                batch=len(some),
                ms=round(elapsed_ms, 1),
                **ids,
                message_ids=[event.id for event in some],
                trace_ids=[event.trace.trace_id for event in some],
            )
