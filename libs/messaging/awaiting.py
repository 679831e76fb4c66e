"""Awaited answers: a request waits for an outcome that another unit of work, or another replica, commits."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar
from uuid import UUID

import structlog

from libs.storage import is_transient
from libs.tasks import going_on

StoreT = TypeVar("StoreT")
ValueT = TypeVar("ValueT")

INTERVAL_S: Final = 0.25
"""How often those who still wait are looked up, whatever was heard: hints get lost."""

READ_AT_ONCE: Final = 256

_LATE: Final = object()

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Awaits(Generic[StoreT]):
    """What requests of a service wait for: how to read it, and when the waiting is over."""

    read: Callable[[StoreT, Collection[UUID]], Awaitable[Mapping[UUID, Any]]]
    done: Callable[[Any], bool]


class Awaited:
    """Who waits for what, in memory. The truth is the row in the database, so any replica can answer for it.

    `tell` is for values that this process has just committed; they are the truth. `hint` is for everything else
    that was heard: it makes somebody look, and proves nothing. Whoever waits is looked up from time to time in any
    case, and a last time before the waiting ends. All lookups are reads of many keys at once.
    """

    def __init__(
        self, read: Callable[[Collection[UUID]], Awaitable[Mapping[UUID, Any]]], done: Callable[[Any], bool]
    ) -> None:
        self._read = read
        self._done = done
        self._waiting: dict[UUID, set[asyncio.Future[Any]]] = {}
        self._looking: dict[UUID, set[asyncio.Future[Any]]] = {}
        self._hinted: set[UUID] = set()
        self._wake = asyncio.Event()

    async def outcome(self, key: UUID, *, patience_s: float, look_first: bool) -> Any:
        """Wait until the value of `key` is done; return it, or what it is after `patience_s` seconds (None: absent).

        `look_first` for what may be done already; without it, the first look is saved.
        """
        with self._registered(self._waiting, key) as future:
            if look_first:
                self.hint((key,))
            # Every order waits here, so with no more than a timer: asyncio.timeout() costs five times as much.
            patience = asyncio.get_running_loop().call_later(patience_s, _resolve, (future,), _LATE)
            try:
                value = await future
            finally:
                patience.cancel()
            if value is not _LATE:
                return value
        with self._registered(self._looking, key) as future:
            self._wake.set()
            return await future

    def tell(self, key: UUID, value: Any) -> None:
        """Let those who wait for `key` know what was committed."""
        if self._done(value):
            _resolve(self._waiting.get(key, ()), value)

    def hint(self, keys: Iterable[UUID]) -> None:
        """Have the values looked up that somebody waits for."""
        self._hinted.update(key for key in keys if key in self._waiting)
        if self._hinted:
            self._wake.set()

    def hear(self, subject: str) -> None:
        """Take the id at the end of a subject as a hint: what another replica has stated."""
        with contextlib.suppress(ValueError):
            self.hint((UUID(subject.rsplit(".", 1)[-1]),))

    async def run(self) -> None:
        """Look up what was hinted at, and from time to time everything waited for, until cancelled."""
        before: set[UUID] = set()
        loop = asyncio.get_running_loop()
        next_round = loop.time() + INTERVAL_S
        while going_on():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(next_round):
                    await self._wake.wait()
            if loop.time() >= next_round:
                # Those who have waited for a whole interval: the others will most likely be told.
                self._hinted |= before & self._waiting.keys()
                before = set(self._waiting)
                next_round = loop.time() + INTERVAL_S
            self._wake.clear()
            keys = list(self._hinted | self._looking.keys())
            self._hinted.clear()
            for start in range(0, len(keys), READ_AT_ONCE):
                await self._look(keys[start : start + READ_AT_ONCE])

    async def _look(self, keys: list[UUID]) -> None:
        looking = [(key, future) for key in keys for future in self._looking.get(key, ())]
        try:
            values = await self._read(keys)
        except Exception as error:  # whoever looks gets the error; whoever waits goes on waiting
            log.warning(
                "cannot look up what is awaited", keys=len(keys), error=str(error), exc_info=not is_transient(error)
            )
            for _, future in looking:
                if not future.done():
                    future.set_exception(error)
            return
        for key, value in values.items():
            self.tell(key, value)
        for key, future in looking:
            _resolve((future,), values.get(key))

    @contextlib.contextmanager
    def _registered(self, where: dict[UUID, set[asyncio.Future[Any]]], key: UUID) -> Iterator[asyncio.Future[Any]]:
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        where.setdefault(key, set()).add(future)
        try:
            yield future
        finally:
            where[key].discard(future)
            if not where[key]:
                del where[key]


def _resolve(futures: Iterable["asyncio.Future[Any]"], value: Any) -> None:
    for future in futures:
        if not future.done():
            future.set_result(value)
