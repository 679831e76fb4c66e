"""nats-py's client, with less to do for each message, and a read loop that outlives what anybody may send.

What it spends on a message is most of what a message costs a service (docs/performance.md): headers written and read
one by one with three patterns each, a queue and a task between the connection and whoever listens, and for each
acknowledgement of a stream a task, a timer and a random name. None of that is needed for what arrives by the hundred.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import orjson
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.errors import MaxPayloadError, NoRespondersError
from nats.js.errors import APIError

from libs.messaging.envelope import Outgoing


class Heard(NamedTuple):
    """A message as it came."""

    subject: bytes
    reply: bytes
    payload: bytes
    headers: bytes | None


Hear = Callable[[Heard], None]

_STATUS_LINE: Final = "NATS/1.0"
_NO_RESPONDERS: Final = b"NATS/1.0 503"

_OUR_HEADERS: Final = frozenset(
    {
        *("ce-specversion", "ce-id", "ce-type", "ce-source", "ce-time", "content-type", "traceparent", "restated"),
        *("Nats-Msg-Id", "Nats-Batch-Id", "Nats-Batch-Sequence", "Nats-Batch-Commit"),
    }
)
"""Names that are known to be fit to send."""


class LeanClient(Client):
    """See the module. Whoever hears with `hear` is called from the read loop itself."""

    def __init__(self) -> None:
        super().__init__()
        self._hearing: dict[int, Hear] = {}

    async def hear(self, subject: str, hear: Hear) -> Subscription:
        """Subscribe to `subject`, and have `hear` called at once for each message, in the order in which they come."""
        for gone in self._hearing.keys() - self._subs.keys():
            del self._hearing[gone]
        identity = self._sid + 1  # what `subscribe` is about to give; a message may arrive before it returns
        self._hearing[identity] = hear
        subscription = await self.subscribe(subject, cb=_unheard)
        assert subscription._id == identity  # noqa: SLF001 - see above
        return subscription

    async def publish(
        self, subject: str, payload: bytes = b"", reply: str = "", headers: Mapping[str, str] | None = None
    ) -> None:
        """See `Client`. The subject is taken as it is."""
        head = b"" if headers is None else write_headers(headers)
        if head is None or not self.is_connected:
            await super().publish(subject, payload, reply, None if headers is None else dict(headers))
            return
        whole = len(head) + len(payload)
        if whole > self._max_payload:
            raise MaxPayloadError  # the server would close the connection
        line = f"HPUB {subject} {reply} {len(head)} {whole}\r\n" if head else f"PUB {subject} {reply} {whole}\r\n"
        command = b"".join((line.encode(), head, payload, b"\r\n"))
        self._pending.append(command)
        self._pending_data_size += len(command)
        if self._flush_queue is not None and self._flush_queue.empty():
            await self._flush_pending()

    async def _process_msg(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: Any) -> None:
        hear = self._hearing.get(sid)
        if hear is None:
            await super()._process_msg(sid, subject, reply, data, headers)
        elif sid in self._subs:
            try:
                hear(Heard(subject, reply, data, headers))
            except Exception as error:  # noqa: BLE001 - as `Client` does with what its listeners raise
                await self._error_cb(error)

    def _build_message(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: Any) -> Msg | None:
        readable = subject.decode(errors="replace").encode()
        message: Msg | None = super()._build_message(sid, readable, reply, data, headers)
        return message

    async def _process_headers(self, headers: Any) -> dict[str, str] | None:
        return read_headers(headers)


async def _unheard(_message: Msg) -> None:
    """Nothing comes this way: `LeanClient.hear` is called instead."""


def write_headers(headers: Mapping[str, str]) -> bytes | None:
    """Write headers as the wire has them; None when any is not known to be fit for it."""
    if not headers.keys() <= _OUR_HEADERS:
        return None
    lines = [f"{name}: {value}\r\n" for name, value in headers.items()]
    text = f"{_STATUS_LINE}\r\n{''.join(lines)}\r\n"
    ends = len(lines) + 2
    return text.encode() if text.count("\r") == ends == text.count("\n") else None


def read_headers(raw: bytes | bytearray | None) -> dict[str, str] | None:
    """Read headers, and a status with its description; None when there are none. Never raises: anybody may write some.

    Names that are no tokens are left out, and what is not UTF-8 is replaced.
    """
    if not raw:
        return None
    first, *lines = raw.decode("utf-8", "replace").split("\r\n")
    headers: dict[str, str] = {}
    if len(first) > len(_STATUS_LINE):
        status, _, description = first[len(_STATUS_LINE) :].strip().partition(" ")
        if status.isdigit():
            headers["Status"] = status
        if description:
            headers["Description"] = description
    for line in lines:
        name, colon, value = line.partition(":")
        if name in _OUR_HEADERS:
            headers[name] = value.strip()
            continue
        name = name.strip()
        if colon and name.isascii() and len(name.split()) == 1:
            headers[name] = value.strip()
    return headers or None


class Acknowledged:
    """Publishes to streams and collects their acknowledgements, all at one inbox."""

    def __init__(self, client: LeanClient) -> None:
        self._client = client
        self._inbox = ""
        self._opening = asyncio.Lock()
        self._number = 0
        self._waiting: dict[bytes, Hear] = {}

    async def publish(self, messages: Sequence[Outgoing], *, within_s: float) -> list[dict[str, Any]]:
        """Publish messages, and return what the streams say about each, in the same order.

        Raises what nats-py raises when a stream refuses one, nobody keeps its subject, or an answer does not come.
        """
        if not self._inbox:
            await self._open()
        answers: list[Heard | None] = [None] * len(messages)
        complete: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        missing = len(messages)

        def expect(place: int) -> Hear:
            def take(answer: Heard) -> None:
                nonlocal missing
                answers[place] = answer
                missing -= 1
                if not missing and not complete.done():
                    complete.set_result(None)

            return take

        names = [f"{self._number + place}" for place in range(len(messages))]
        self._number += len(messages)
        try:
            for place, (name, message) in enumerate(zip(names, messages, strict=True)):
                self._waiting[name.encode()] = expect(place)
                await self._client.publish(
                    message.subject, message.payload, reply=f"{self._inbox}.{name}", headers=message.headers
                )
            async with asyncio.timeout(within_s):
                await complete
        finally:
            for name in names:
                self._waiting.pop(name.encode(), None)
        return [_read(answer) for answer in answers if answer is not None]

    async def _open(self) -> None:
        async with self._opening:
            if not self._inbox:
                inbox = self._client.new_inbox()
                await self._client.hear(f"{inbox}.*", self._take)
                self._inbox = inbox

    def _take(self, answer: Heard) -> None:
        take = self._waiting.pop(answer.subject.rpartition(b".")[2], None)
        if take is not None:
            take(answer)


def _read(answer: Heard) -> dict[str, Any]:
    if not answer.payload and answer.headers and answer.headers.startswith(_NO_RESPONDERS):
        raise NoRespondersError
    said: dict[str, Any] = orjson.loads(answer.payload)
    if "error" in said:
        raise APIError.from_error(said["error"])
    return said
