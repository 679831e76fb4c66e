"""Commands: concurrent requests of one kind, committed together, each with its effect once.

While one unit of work is under way, the requests that arrive are gathered; the next unit takes them all.
Nothing waits for a batch to fill, so a lone request pays nothing for it.
"""

import asyncio
import hmac
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, Generic, TypeVar

import structlog
from pydantic import TypeAdapter
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from libs.errors import FieldError, Kind, Refusal, overloaded, unavailable
from libs.messaging.tables import idempotency_keys
from libs.messaging.unit import Unit, Units
from libs.storage import is_lost_race, is_transient
from libs.storage.sets import delete_found, insert_all, rows_among
from libs.tracing import Trace

StoreT = TypeVar("StoreT")
CommandT = TypeVar("CommandT")
ResultT = TypeVar("ResultT")

RETENTION: Final = timedelta(days=7)
"""How long a key is remembered."""

WAITING_AT_MOST: Final = 4_096
TRIES: Final = 3

_REFUSED: Final = TypeAdapter(tuple[str, str, tuple[FieldError, ...]])

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Key:
    """An idempotency key within its scope, and the fingerprint of the body it came with."""

    id: bytes
    fingerprint: bytes

    @classmethod
    def of(cls, secret: bytes, *, subject: str, route: str, key: str, body: str) -> "Key":
        """Derive the id from (subject, route, key), and the fingerprint from the body; both are keyed hashes."""
        scope = f"{subject}\0{route}\0{key}".encode()
        return cls(hmac.digest(secret, scope, "sha256"), hmac.digest(secret, body.encode(), "sha256"))


@dataclass(frozen=True, slots=True)
class Command(Generic[CommandT]):
    """A request to change something, as a handler sees it."""

    body: CommandT
    trace: Trace
    key: Key | None = None


@dataclass(frozen=True, slots=True)
class Outcome(Generic[ResultT]):
    """What came of a command; `replayed` when it is the recorded outcome of an earlier request with its key."""

    result: ResultT
    replayed: bool


CommandHandler = Callable[[Sequence[Command[CommandT]], Unit[StoreT]], Awaitable[Sequence[ResultT | Refusal]]]
"""Carries out commands of one kind in one transaction; answers each, in order, with its result or its refusal."""


class Commands(Generic[StoreT]):
    """Carries out commands through the handlers of one service, a batch a unit of work."""

    def __init__(self, units: Units[StoreT], *, batch_limit: int) -> None:
        self._units = units
        self._batch_limit = batch_limit
        self._lines: dict[Any, _Line[StoreT]] = {}

    async def execute(
        self,
        handler: CommandHandler[CommandT, StoreT, ResultT],
        command: Command[CommandT],
        returns: type[ResultT],
    ) -> Outcome[ResultT]:
        """Carry out one command; raises its `Refusal`. Returns after the commit."""
        line = self._lines.get(handler)
        if line is None:
            line = self._lines[handler] = _Line(handler, self._units, self._batch_limit, TypeAdapter(returns))
        outcome: Outcome[ResultT] = await line.put(command)
        return outcome

    async def finish(self) -> None:
        """Wait until every command that was taken is carried out."""
        await asyncio.gather(*(line.worker for line in self._lines.values() if line.worker), return_exceptions=True)


class _Recorded(Exception):
    """A request was refused although its key has a record, which would have been its answer."""


class _Line(Generic[StoreT]):
    """The requests of one kind that wait for the next unit of work."""

    def __init__(self, handler: Any, units: Units[StoreT], batch_limit: int, result: TypeAdapter[Any]) -> None:
        self._handler = handler
        self._units = units
        self._batch_limit = batch_limit
        self._result = result
        self._waiting: deque[tuple[Command[Any], asyncio.Future[Outcome[Any]]]] = deque()
        self.worker: asyncio.Task[None] | None = None

    async def put(self, command: Command[Any]) -> Outcome[Any]:
        if len(self._waiting) >= WAITING_AT_MOST:
            raise overloaded()
        future: asyncio.Future[Outcome[Any]] = asyncio.get_running_loop().create_future()
        self._waiting.append((command, future))
        if self.worker is None:
            self.worker = asyncio.create_task(self._work(), name=f"commands {self._handler.__name__}")
        return await future

    async def _work(self) -> None:
        while self._waiting:
            taken = [self._waiting.popleft() for _ in range(min(self._batch_limit, len(self._waiting)))]
            await self._carry_out(taken)
        self.worker = None

    async def _carry_out(self, taken: list[tuple[Command[Any], asyncio.Future[Outcome[Any]]]]) -> None:
        commands = [command for command, _ in taken]
        try:
            with self._units.telemetry.committing(self._handler.__name__, [command.trace for command in commands]):
                outcomes = await self._try(commands)
        except Exception as error:  # noqa: BLE001 - every waiting request gets its answer, whatever happened
            if len(taken) > 1 and not is_transient(error):
                for one in taken:  # one that breaks its transaction must not break the others'
                    await self._carry_out([one])
                return
            if is_transient(error):
                log.warning("commands refused", command=self._handler.__name__, batch=len(taken), error=str(error))
            outcomes = [unavailable("the database") if is_transient(error) else error] * len(taken)
        for (_, future), outcome in zip(taken, outcomes, strict=True):
            if future.done():
                continue  # the client went away
            if isinstance(outcome, Exception):
                future.set_exception(outcome)
            else:
                future.set_result(outcome)

    async def _try(self, commands: Sequence[Command[Any]]) -> Sequence[Outcome[Any] | Exception]:
        """Carry out in one unit; again when it lost a race (a deadlock, a key recorded by another replica).

        Keys are taken for new at first, which nearly all are: one that is recorded loses a race against its record.
        """
        for attempt in range(1, TRIES + 1):
            try:
                async with self._units.begin() as unit:
                    outcomes = await self._once(commands, unit, look_up=attempt > 1)
            except Exception as error:
                if attempt == TRIES or not (isinstance(error, _Recorded) or is_lost_race(error)):
                    raise
            else:
                log.info(
                    "carried out",
                    command=self._handler.__name__,
                    batch=len(commands),
                    **unit.stated,
                    message_ids=[str(message.id) for message in unit.outgoing],
                    trace_ids=[command.trace.trace_id for command in commands],
                )
                return outcomes
        raise AssertionError("unreachable")

    async def _once(
        self, commands: Sequence[Command[Any]], unit: Unit[StoreT], *, look_up: bool
    ) -> Sequence[Outcome[Any] | Refusal]:
        """Answer recorded keys from their records, hand the rest to the handler, record what came of it.

        Without `look_up` nothing is answered from records: who has one has the unit fail.
        """
        keyed = [command.key for command in commands if command.key]
        recorded = await self._recorded(unit, keyed) if look_up else {}
        first: dict[bytes, Command[Any]] = {}
        fresh = [command for command in commands if _is_first(command, recorded, first)]
        answers = dict(zip(map(id, fresh), await self._handler(fresh, unit) if fresh else (), strict=True))
        records, unkept = [], []
        for command in fresh:
            answer = answers[id(command)]
            if command.key is None:
                continue
            if isinstance(answer, Refusal) and answer.kind is not Kind.CONFLICT:
                unkept.append(command.key)
                continue
            recorded[command.key.id] = (command.key.fingerprint, answer)
            records.append(self._record(command.key, answer, unit))
        if not look_up and await self._recorded(unit, unkept):
            raise _Recorded
        # In one order for everybody: two replicas with the same keys wait for, and do not block, each other.
        records.sort(key=lambda record: record["id"])
        await insert_all(unit.connection, idempotency_keys, records)
        return [self._outcome(command, answers, recorded, first) for command in commands]

    def _outcome(
        self,
        command: Command[Any],
        answers: dict[int, Any],
        recorded: dict[bytes, tuple[bytes, Any]],
        first: dict[bytes, Command[Any]],
    ) -> Outcome[Any] | Refusal:
        replayed = id(command) not in answers
        if not replayed:
            answer = answers[id(command)]
        else:
            assert command.key is not None
            if command.key.id in recorded:
                fingerprint, answer = recorded[command.key.id]
            else:  # its twin in this batch was refused, and the refusal is not for keeping
                twin = first[command.key.id]
                assert twin.key is not None
                fingerprint, answer = twin.key.fingerprint, answers[id(twin)]
            if not hmac.compare_digest(fingerprint, command.key.fingerprint):
                return Refusal(
                    "idempotency_key_reused",
                    "this Idempotency-Key came with another body before",
                    Kind.INVALID,
                )
        if isinstance(answer, Refusal):
            return answer.again() if replayed else answer
        return Outcome(answer, replayed)

    async def _recorded(self, unit: Unit[StoreT], keys: Sequence[Key]) -> dict[bytes, tuple[bytes, Any]]:
        rows = await rows_among(unit.connection, idempotency_keys.c.id, [key.id for key in keys])
        return {row.id: (row.fingerprint, self._read(row.outcome)) for row in rows}

    def _record(self, key: Key, answer: Any, unit: Unit[StoreT]) -> dict[str, Any]:
        if isinstance(answer, Refusal):
            outcome = "!" + _REFUSED.dump_json((answer.slug, answer.detail, answer.fields)).decode()
        else:
            outcome = self._result.dump_json(answer).decode()
        return {"id": key.id, "fingerprint": key.fingerprint, "outcome": outcome, "created_at": unit.now}

    def _read(self, outcome: str) -> Any:
        if outcome.startswith("!"):
            slug, detail, fields = _REFUSED.validate_json(outcome[1:])
            return Refusal(slug, detail, Kind.CONFLICT, fields)
        return self._result.validate_json(outcome)


async def prune(connection: AsyncConnection, *, now: datetime, limit: int) -> int:
    """Delete up to `limit` records older than `RETENTION`; return how many were."""
    old = (
        select(idempotency_keys.c.id)
        .where(idempotency_keys.c.created_at < now - RETENTION)
        .order_by(idempotency_keys.c.created_at)
        .limit(limit)
    )
    return await delete_found(connection, idempotency_keys, old, key="id")


def _is_first(command: Command[Any], recorded: Mapping[bytes, Any], first: dict[bytes, Command[Any]]) -> bool:
    """Whether a command is to be carried out: it has no key, or is the first with its key."""
    if command.key is None:
        return True
    return command.key.id not in recorded and first.setdefault(command.key.id, command) is command
