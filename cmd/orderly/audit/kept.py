"""What a stream and the database of its publisher must agree on, and what its consumers must have done.

The end of a stream is asked for before the snapshot is taken, and its messages are read after. So every message up to
that end has a row in the snapshot, and every mark in the snapshot has its message: nothing here is ever under way,
except while a stream is being made anew.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any, Final

from orderly.audit.look import Look, Part
from orderly.audit.reading import Snapshot, together
from orderly.audit.report import FOLLOWED, written
from orderly.audit.streams import State, Streams, incarnation_of

AGEING: Final = timedelta(hours=1)
"""For so long before its time is over a message may be gone, or not: clocks differ, and servers take their time."""

LOOKED_UP: Final = 500

Subjects = Mapping[str, Mapping[str, Sequence[str]]]
"""By service and durable consumer of its stream: what must be consumed."""

_MARKS: Final = """
    select sequence, id, case when published_at >= $1 then 1 else 0 end
    from outbox where sequence is not null order by sequence"""

_MARKS_AMONG: Final = "select sequence, id, 1 from outbox where sequence is not null and {}"
_IDS_AMONG: Final = "select id from outbox where {}"


def parts(subjects: Subjects) -> list[Part]:
    """Make the parts that read streams, for the services that have one."""
    made = []
    for service, durables in subjects.items():
        kept = ("facts_in_streams", "messages_explained")
        of = ("streams_of_incarnation",)
        made += [
            Part(f"stream of {service}", of, (service,), _look_at_incarnation(service), of_streams=True),
            Part(f"facts of {service}", kept, (service,), _look_at_facts(service), of_streams=True),
            Part(f"consumers of {service}", ("durables_keep_up",), (), _consumers(service, durables), of_streams=True),
        ]
    return made


def _look_at_incarnation(service: str) -> Callable[[Look, Sequence[str] | None], Awaitable[None]]:
    stream = service.upper()

    async def look(at: Look, among: Sequence[str] | None) -> None:
        assert at.streams is not None
        snapshot = at.snapshots[service]
        state = await at.streams.state(stream)  # after the snapshot: no mark can be beyond its end
        sql = "select incarnation, sequence from streams where name = $1"
        known = [tuple(row) async for row in snapshot.rows(sql, stream)]
        incarnation, newest = known[0] if known else (0, 0)
        if among is None:
            at.examined("streams_of_incarnation", 1)
        wrong = None
        if state is None:
            wrong = f"is not there, but its database knows incarnation {incarnation}" if incarnation else None
        elif state.incarnation != incarnation:
            wrong = f"is incarnation {state.incarnation}, but its database knows {incarnation}"
        elif state.last < newest:
            wrong = f"ends at {state.last}, but its newest mark is {newest}"
        if wrong:
            at.suspect("streams_of_incarnation", stream, wrong)

    return look


def _look_at_facts(service: str) -> Callable[[Look, Sequence[str] | None], Awaitable[None]]:
    async def look(at: Look, among: Sequence[str] | None) -> None:
        state, streams = at.states[service], at.streams
        if state is None or streams is None:
            return  # that it is not there is said elsewhere; everything it may hold is in the outbox
        comparison = _Comparison(service.upper(), at, at.snapshots[service], state)
        if among is None:
            await comparison.whole(streams)
        else:
            await comparison.again(streams, among)

    return look


class _Comparison:
    """Marks in an outbox, and messages in a stream."""

    def __init__(self, stream: str, look: Look, snapshot: Snapshot, state: State) -> None:
        self._stream = stream
        self._look = look
        self._snapshot = snapshot
        self._state = state
        self._unmarked: dict[str, int] = {}  # messages that no mark explains; perhaps a row does

    async def whole(self, streams: Streams) -> None:
        """Compare everything, in the order of sequences."""
        marked = await self._snapshot.value("select max(sequence) from outbox")
        last = max(self._state.last, marked or 0)
        marks = self._snapshot.rows(_MARKS, self._look.now - self._state.max_age + AGEING)
        rows = messages = number = 0
        async for sequence, (rows_here, messages_here) in together(
            marks, streams.messages(self._stream, self._state, last)
        ):
            number += 1
            self._look.step(number)
            rows += len(rows_here)
            messages += len(messages_here)
            await self._compare(sequence, rows_here, [message[1] for message in messages_here])
            if len(self._unmarked) >= LOOKED_UP:
                await self._explain()
        await self._explain()
        self._look.examined("facts_in_streams", rows)
        self._look.examined("messages_explained", messages)

    async def again(self, streams: Streams, among: Sequence[str]) -> None:
        """Look at single rows and messages again, where the stream's leader keeps them."""
        ids = [one for one in among if _is_id(one)]
        async for sequence, row_id, recent in self._snapshot.among(_MARKS_AMONG, "id", ids):
            there = await streams.at(self._stream, sequence)
            await self._compare(sequence, [(sequence, row_id, recent)], [] if there is None else [there])
        for one in among:
            if "/" in one:
                sequence = int(one.rpartition("/")[2])
                there = await streams.at(self._stream, sequence)
                if there is not None:
                    self._seek(sequence, there)
        await self._explain()

    async def _compare(self, sequence: int, rows: Sequence[Sequence[Any]], ids: Sequence[str]) -> None:
        for _, row_id, recent in rows:
            if ids and ids[0] != row_id:
                self._look.suspect("facts_in_streams", row_id, f"{self._stream}/{sequence} is {written(ids[0])}")
            elif not ids and recent:
                self._look.suspect("facts_in_streams", row_id, f"{self._stream}/{sequence} is not there")
        for message_id in ids:
            if message_id in [row[1] for row in rows] or sequence > self._state.last:
                continue
            self._seek(sequence, message_id)

    def _seek(self, sequence: int, message_id: str) -> None:
        if _is_id(message_id):
            self._unmarked[message_id] = sequence
        else:
            self._unexplained(sequence, message_id)

    async def _explain(self) -> None:
        """Look for the rows of messages without mark: published a moment ago, or a second time."""
        unmarked, self._unmarked = self._unmarked, {}
        ids = list(unmarked)
        for start in range(0, len(ids), FOLLOWED):
            some = ids[start : start + FOLLOWED]
            known = {row[0] async for row in self._snapshot.among(_IDS_AMONG, "id", some)}
            for message_id in some:
                if message_id not in known:
                    self._unexplained(unmarked[message_id], message_id)

    def _unexplained(self, sequence: int, message_id: str) -> None:
        what = f"the message {written(message_id)}" if message_id else "a message without id"
        self._look.suspect("messages_explained", f"{self._stream}/{sequence}", f"{what} is in no outbox")


def _is_id(text: str) -> bool:
    return len(text) == 32 and all(digit in "0123456789abcdef" for digit in text)


def _consumers(
    service: str, durables: Mapping[str, Sequence[str]]
) -> Callable[[Look, Sequence[str] | None], Awaitable[None]]:
    stream = service.upper()

    async def look(at: Look, among: Sequence[str] | None) -> None:
        state, streams = at.states[service], at.streams
        if state is None or streams is None:
            return
        there = {consumer["name"]: consumer for consumer in await streams.consumers(stream)}
        # Asked for once more: consumers only get as far as the stream is when they are asked.
        state = await streams.state(stream) or state
        if among is None:
            at.examined("durables_keep_up", len({*there, *durables}))
        for name in sorted({*there, *durables}):
            if wrong := await _wrong(streams, stream, state, at, there.get(name)):
                at.suspect("durables_keep_up", f"{stream}.{name}", wrong)

    return look


async def _wrong(
    streams: Streams, stream: str, state: State, look: Look, consumer: Mapping[str, Any] | None
) -> str | None:
    if consumer is None:
        return "is not there"
    floor, delivered = consumer["ack_floor"]["stream_seq"], consumer["delivered"]["stream_seq"]
    if max(floor, delivered) > state.last:
        return f"has got to {max(floor, delivered)}, but its stream ends at {state.last}: it will skip what comes"
    if incarnation_of(dict(consumer)) != state.incarnation and consumer["config"].get("durable_name"):
        return f"was made for incarnation {incarnation_of(dict(consumer))} of its stream, which is {state.incarnation}"
    if not consumer["num_pending"] and not consumer["num_ack_pending"]:
        return None
    config = consumer["config"]
    subjects = config.get("filter_subjects") or [config.get("filter_subject") or ">"]
    oldest = await streams.oldest(stream, floor + 1, subjects)
    if oldest is not None and look.now - oldest > look.limits.unhandled:
        return f"has not handled a message of {oldest:%Y-%m-%d %H:%M:%S} UTC"
    return None
