"""Streams as the audit reads them: as the observer, who may change nothing."""

import asyncio
import base64
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.errors import NoRespondersError

from orderly.audit.reading import CannotAudit

BATCH: Final = 256
ANSWER_WITHIN_S: Final = 10.0
ASK_AGAIN_S: Final = 1.0
IN_FLIGHT: Final = 64

INCARNATION: Final = "orderly.incarnation"

_SEQUENCE: Final = b"\r\nNats-Sequence:"
_ID: Final = b"\r\nNats-Msg-Id:"


@dataclass(frozen=True, slots=True)
class State:
    """A stream at one moment. `first` is above `last` when it is empty."""

    incarnation: int
    first: int
    last: int
    max_age: timedelta
    direct: bool
    """Whether its messages may be read in batches."""


class _Client(Client):
    """nats-py's client; messages for a `taker` reach it as they come, without a task for each of them.

    It reads no headers that anybody may have written, so none can stop it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.takers: dict[bytes, Callable[[bytes], None]] = {}

    async def _process_msg(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes) -> None:
        taker = self.takers.get(subject)
        if taker is None:
            await super()._process_msg(sid, subject, reply, data, headers)
        else:
            taker(headers or b"")


class Streams:
    """One connection to NATS. Everything raises `CannotAudit` when there is no answer."""

    def __init__(self, client: _Client) -> None:
        self._client = client

    async def state(self, stream: str) -> State | None:
        """Ask how a stream stands; None: it is not there."""
        info = await self._ask(stream, f"STREAM.INFO.{stream}", {})
        if info is None:
            return None
        config, state = info["config"], info["state"]
        return State(
            _incarnation(config),
            state["first_seq"],
            state["last_seq"],
            timedelta(microseconds=config["max_age"] // 1_000),
            bool(config.get("allow_direct")),
        )

    async def consumers(self, stream: str) -> list[dict[str, Any]]:
        """List the consumers of a stream, as the server describes them."""
        found: list[dict[str, Any]] = []
        while page := await self._ask(stream, f"CONSUMER.LIST.{stream}", {"offset": len(found)}):
            found += page["consumers"] or []
            if not page["consumers"] or len(found) >= page["total"]:
                break
        return found

    async def at(self, stream: str, sequence: int) -> str | None:
        """Ask the stream's leader for the id of the message at a sequence; None: there is no message."""
        found = await self._ask(stream, f"STREAM.MSG.GET.{stream}", {"seq": sequence})
        return _id_in(_headers(found)) if found else None

    async def oldest(self, stream: str, sequence: int, subjects: list[str]) -> datetime | None:
        """Ask when the first message from a sequence on, on any of these subjects, was stored."""
        times = []
        for subject in subjects or [">"]:
            asked = {"seq": sequence, "next_by_subj": subject}
            if found := await self._ask(stream, f"STREAM.MSG.GET.{stream}", asked):
                times.append(datetime.fromisoformat(_to_the_microsecond(found["message"]["time"])))
        return min(times, default=None)

    async def messages(self, stream: str, state: State, last: int) -> AsyncIterator[tuple[int, str]]:
        """Read sequence and id of every message up to `last`, in order."""
        batches = self._directly(stream, state.first, last) if state.direct else self._singly(stream, state.first, last)
        async for message in batches:
            yield message

    async def _directly(self, stream: str, first: int, last: int) -> AsyncIterator[tuple[int, str]]:
        inbox = self._client.new_inbox()
        subscription = await self._client.subscribe(inbox)
        try:
            while first <= last:
                some = await self._batch(stream, first, min(BATCH, last - first + 1), inbox)
                for headers in some:
                    first = _sequence_in(headers) + 1
                    if first - 1 <= last:
                        yield first - 1, _id_in(headers)
                if not some:
                    break
        finally:
            self._client.takers.pop(inbox.encode(), None)
            with contextlib.suppress(NatsError):
                await subscription.unsubscribe()

    async def _batch(self, stream: str, first: int, size: int, inbox: str) -> list[bytes]:
        """Read the headers of up to `size` messages from `first` on. What follows them is in no stream."""
        over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        got: list[bytes] = []

        def take(headers: bytes) -> None:
            if _SEQUENCE in headers:
                got.append(headers)
            elif not over.done():
                over.set_result(None)

        self._client.takers[inbox.encode()] = take
        asked = json.dumps({"seq": first, "batch": size}).encode()
        try:
            await self._client.publish(f"$JS.API.DIRECT.GET.{stream}", asked, reply=inbox)
            await asyncio.wait_for(over, ANSWER_WITHIN_S)
        except (NatsError, OSError, TimeoutError) as error:
            raise _unreadable(stream, error) from error
        return got

    async def _singly(self, stream: str, first: int, last: int) -> AsyncIterator[tuple[int, str]]:
        """Read a stream that a service of an older version has made, some five times slower."""
        for start in range(first, last + 1, IN_FLIGHT):
            some = range(start, min(start + IN_FLIGHT, last + 1))
            found = await asyncio.gather(
                *(self._ask(stream, f"STREAM.MSG.GET.{stream}", {"seq": number}) for number in some)
            )
            for number, message in zip(some, found, strict=True):
                if message is not None:
                    yield number, _id_in(_headers(message))

    async def _ask(self, stream: str, what: str, asked: dict[str, Any]) -> dict[str, Any] | None:
        """Ask the server; None: there is no such thing. While servers elect a leader, who alone answers, ask again."""
        until = time.monotonic() + ANSWER_WITHIN_S
        while True:
            try:
                reply = await self._client.request(f"$JS.API.{what}", json.dumps(asked).encode(), timeout=ASK_AGAIN_S)
                break
            except (NatsError, OSError, TimeoutError) as error:
                if not isinstance(error, TimeoutError) or time.monotonic() > until:
                    raise _unreadable(stream, error) from error
        answer: dict[str, Any] = json.loads(reply.data)
        refusal = answer.get("error")
        if refusal is None:
            return answer
        if refusal["code"] == 404:
            return None
        raise CannotAudit(f"stream {stream} cannot be read: {refusal['description']}")


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[Streams]:
    """Connect until the end of the block. Raises `CannotAudit`."""
    client = _Client()

    async def ignore(_error: Exception) -> None:
        pass  # whoever asks hears of it

    try:
        async with asyncio.timeout(5):
            await client.connect(
                servers=url.split(","),
                name="orderly audit",
                connect_timeout=2,
                error_cb=ignore,
                allow_reconnect=False,
                max_reconnect_attempts=1,
                reconnect_time_wait=0,
            )
    except (NatsError, OSError, TimeoutError):
        raise CannotAudit(f"the streams cannot be read: no NATS server at {url}") from None
    try:
        yield Streams(client)
    finally:
        await client.close()


def _unreadable(stream: str, error: BaseException) -> CannotAudit:
    reason = "nobody answers" if isinstance(error, NoRespondersError) else str(error) or type(error).__name__
    return CannotAudit(f"stream {stream} cannot be read: {reason}")


def _incarnation(config: dict[str, Any]) -> int:
    text = (config.get("metadata") or {}).get(INCARNATION, "")
    return int(text) if text.isascii() and text.isdigit() else 0


def incarnation_of(consumer: dict[str, Any]) -> int:
    """Read under which incarnation of its stream a consumer was made; 0 when it does not say."""
    return _incarnation(consumer["config"])


def _headers(answer: dict[str, Any]) -> bytes:
    return base64.b64decode(answer["message"].get("hdrs", ""))


def _id_in(headers: bytes) -> str:
    """Read a message's id as 32 hexadecimal digits, or as it is when it is no UUID; empty when there is none."""
    text = headers.partition(_ID)[2].partition(b"\r\n")[0].strip().decode(errors="replace")
    return text.replace("-", "") if len(text) == 36 else text


def _sequence_in(headers: bytes) -> int:
    """Read where a message is kept: the last such header is the server's own."""
    return int(headers.rpartition(_SEQUENCE)[2].partition(b"\r\n")[0])


def _to_the_microsecond(moment: str) -> str:
    """Shorten a server's time to what Python 3.11 reads."""
    whole, dot, rest = moment.rstrip("Z").partition(".")
    return f"{whole}{dot}{rest[:6]}+00:00"
