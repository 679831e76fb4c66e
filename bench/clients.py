"""Closed-loop clients: each sends its next request when it has the outcome of the last one.

A client is a connection that is kept, and a few dozen microseconds of CPU a request, so that what is measured is the
system and not the one who measures it.
"""

import asyncio
import os
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import cycle
from typing import Any, Final, cast
from urllib.parse import urlsplit

import orjson
import uvloop

ANSWER_WITHIN_S: Final = 30.0
LOOK_AGAIN_S: Final = 0.01
"""How often a client looks at an order whose outcome it was not told."""


@dataclass(slots=True)
class Load:
    """What the clients saw in the time that counts. `seconds` are of the final outcome, one for each order."""

    began: float
    until: float
    seconds: list[float] = field(default_factory=list)
    outcomes: Counter[str] = field(default_factory=Counter)

    def note(self, started: float, outcome: str) -> None:
        """Count an order that has its outcome, if all of it happened in the time that counts."""
        now = time.perf_counter()
        if self.began <= started and now <= self.until:
            self.seconds.append(now - started)
            self.outcomes[outcome] += 1


class Connection(asyncio.Protocol):
    """A kept HTTP/1.1 connection with one request under way at a time; knows as much of HTTP as our answers need."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._buffer = b""
        self._answer: asyncio.Future[tuple[int, bytes]] | None = None

    @classmethod
    async def to(cls, base: str) -> "Connection":
        """Connect to ``http://host:port``."""
        url = urlsplit(base)
        _, protocol = await asyncio.get_running_loop().create_connection(cls, url.hostname or "", url.port or 80)
        return protocol

    async def ask(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        """Send a request; return status and JSON. Raises `ConnectionError` and `TimeoutError`."""
        assert self._transport is not None
        content = b"" if body is None else orjson.dumps(body)
        lines = [f"{method} {path} HTTP/1.1", "Host: bench", *(f"{name}: {text}" for name, text in headers.items())]
        if content:
            lines += ["Content-Type: application/json", f"Content-Length: {len(content)}"]
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write("\r\n".join(lines).encode() + b"\r\n\r\n" + content)
        async with asyncio.timeout(ANSWER_WITHIN_S):
            status, answer = await self._answer
        return status, orjson.loads(answer) if answer else None

    def close(self) -> None:
        """Close the connection."""
        if self._transport:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's are not registered as such

    def connection_lost(self, exc: Exception | None) -> None:
        if self._answer and not self._answer.done():
            self._answer.set_exception(exc or ConnectionError("the connection was closed"))

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, found, rest = self._buffer.partition(b"\r\n\r\n")
        if not found:
            return
        length = _length_of(head)
        if len(rest) < length:
            return
        self._buffer = rest[length:]
        if self._answer and not self._answer.done():
            self._answer.set_result((int(head[9:12]), rest[:length]))


def _length_of(head: bytes) -> int:
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    raise ValueError(f"an answer without its length: {head!r}")


@dataclass(frozen=True, slots=True)
class Account:
    """Somebody with money: a login and a token."""

    login: str
    token: str


async def open_accounts(base: str, number: int, *, deposit: str, at_a_time: int = 8) -> list[Account]:
    """Register, log in and bring money for a number of people."""
    gate = asyncio.Semaphore(at_a_time)
    stamp = f"{time.time_ns():x}"

    async def open_one(index: int) -> Account:
        async with gate:
            connection = await Connection.to(base)
            try:
                given = {"login": f"bench-{stamp}-{index}", "password": "correct horse"}
                await _expect(connection, 201, "/client/users", {**given, "email": f"{given['login']}@example.org"})
                answer = await _expect(connection, 200, "/client/login", given)
                account = Account(given["login"], answer["access_token"])
                await _expect(connection, 201, "/client/billing/deposits", {"amount": deposit}, **bearer(account))
                return account
            finally:
                connection.close()

    return await asyncio.gather(*(open_one(index) for index in range(number)))


async def _expect(connection: Connection, status: int, path: str, body: Any, **headers: str) -> Any:
    got, answer = await connection.ask("POST", path, body, **headers)
    if got != status:
        raise RuntimeError(f"POST {path} answered {got} instead of {status}: {answer}")
    return answer


def bearer(account: Account) -> dict[str, str]:
    """The header that says who is asking."""
    return {"Authorization": f"Bearer {account.token}"}


async def place_orders(
    base: str, accounts: Sequence[Account], *, clients: int, warm_up_s: float, seconds: float, price: str = "1.00"
) -> Load:
    """Have clients place orders one after the other; each turns to the next account of its own share."""
    connections = await asyncio.gather(*(Connection.to(base) for _ in range(clients)))
    began = time.perf_counter() + warm_up_s
    load = Load(began, began + seconds)
    try:
        await asyncio.gather(
            *(
                _shop(connection, accounts[index % len(accounts) :: clients], load, price)
                for index, connection in enumerate(connections)
            )
        )
    finally:
        for connection in connections:
            connection.close()
    return load


async def _shop(connection: Connection, accounts: Sequence[Account], load: Load, price: str) -> None:
    for account in cycle(accounts):
        if time.perf_counter() >= load.until:
            return
        headers = bearer(account)
        started = time.perf_counter()
        status, order = await connection.ask("POST", "/client/orders", {"price": price}, **headers)
        while status == 202 or (status == 200 and order["status"] == "pending"):  # noqa: PLR2004 - HTTP's numbers
            await asyncio.sleep(LOOK_AGAIN_S)
            status, order = await connection.ask("GET", f"/client/orders/{order['id']}", **headers)
        load.note(started, order["status"] if status in (200, 201) else f"{status}")


def main() -> None:
    """Do what standard input asks for; answer on standard output, with a line at each edge of the time that counts."""
    asked = orjson.loads(sys.stdin.buffer.read())
    uvloop.run(_answer(asked))


async def _answer(asked: dict[str, Any]) -> None:
    match asked.pop("do"):
        case "open accounts":
            accounts = await open_accounts(**asked)
            _say([{"login": one.login, "token": one.token} for one in accounts])
        case "place orders":
            accounts = [Account(**one) for one in asked.pop("accounts")]
            loop = asyncio.get_running_loop()
            loop.call_later(asked["warm_up_s"], _say, "began")
            loop.call_later(asked["warm_up_s"] + asked["seconds"], _say, "over")
            load = await place_orders(accounts=accounts, **asked)
            _say({"seconds": load.seconds, "outcomes": load.outcomes, "cpu_s": sum(os.times()[:2])})
        case what:
            raise ValueError(f"nobody knows how to {what}")


def _say(what: Any) -> None:
    sys.stdout.buffer.write(orjson.dumps(what) + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
