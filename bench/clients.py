"""Closed-loop clients: each sends its next request when it has the outcome of the last one.

They are a process of their own, with kept connections and little CPU a request, so that what is measured is the
system and not the one who measures it. A request that fails does not end them: it is counted, and they go on.
"""

import asyncio
import sys
import time
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from http import HTTPStatus
from itertools import cycle
from pathlib import Path
from typing import Any, Final, Literal, TypedDict

import orjson
import uvloop

from bench.connection import ANSWER_WITHIN_S, Connection
from bench.people import Account, Failed, bearer, logins, open_accounts, place_order, registration
from libs.local.supervisor import die_with_parent

PAUSE_S: Final = 0.05
"""After a request that failed: who fails at once shall not be asked in a tight loop."""


class Seen(TypedDict):
    """What the clients say when they are done, as JSON."""

    seconds: list[float]
    outcomes: dict[str, int]
    failures: dict[str, int]
    pending: int


@dataclass(slots=True)
class Load:
    """What the clients saw in the time that counts: what ended in it, whenever it began.

    Whatever is under way at its beginning makes up for what is under way at its end, however long it takes.
    `seconds` are to the final outcome, one for each that has one; `pending` counts those that were not told it at once.
    What failed, or was without an outcome in the end, is in `failures` alone.
    """

    began: float
    until: float
    seconds: list[float] = field(default_factory=list)
    outcomes: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    pending: int = 0

    def note(self, started: float, outcome: str, *, pending: bool = False) -> None:
        """Count what has its outcome now."""
        now = time.perf_counter()
        if self.began <= now <= self.until:
            self.seconds.append(now - started)
            self.outcomes[outcome] += 1
            self.pending += pending

    def fail(self, how: str) -> None:
        """Count what has failed now, and what has in the end: nobody waits for it any longer."""
        if self.began <= time.perf_counter():
            self.failures[how] += 1


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a request ended, and whether its first answer was still without the outcome."""

    name: str
    pending: bool = False


Step = Callable[[Connection], Awaitable[Outcome]]
"""What a client does again and again. Raises `Failed`, `ConnectionError` and `TimeoutError`."""


async def repeat(base: str, steps: Sequence[Step], *, warm_up_s: float, seconds: float) -> Load:
    """Have a client for each of the steps repeat it."""
    began = time.perf_counter() + warm_up_s
    load = Load(began, began + seconds)
    await asyncio.gather(*(_repeat(base, step, load) for step in steps))
    return load


async def _repeat(base: str, step: Step, load: Load) -> None:
    connection: Connection | None = None
    while time.perf_counter() < load.until:
        started = time.perf_counter()
        try:
            if connection is None:
                connection = await Connection.to(base)
            outcome = await step(connection)
        except Failed as failed:
            load.fail(str(failed))
        except OSError:  # a timeout is one, too
            load.fail("no answer")
            if connection is not None:
                connection.close()
            connection = None
        else:
            load.note(started, outcome.name, pending=outcome.pending)
            continue
        await asyncio.sleep(PAUSE_S)
    if connection is not None:
        connection.close()


def ordering(accounts: Sequence[Account], price: str, until: float) -> Step:
    """Place orders, from one account after the other."""
    turns = cycle(accounts)

    async def step(connection: Connection) -> Outcome:
        order, pending = await place_order(connection, next(turns), price, until=until)
        return Outcome(order["status"], pending)

    return step


What = Literal["account", "order", "letters"]


def paths(account: Account, what: What) -> list[str]:
    """Say where an account, its orders or its letters are read."""
    known = {"account": ["/client/billing/account"], "letters": ["/client/notifications"]}
    return known.get(what) or [f"/client/orders/{order}" for order in account.orders]


def reading(account: Account, what: What) -> Step:
    """Read the account's balance, its orders one after the other, or its letters."""
    turns = cycle(paths(account, what))

    async def step(connection: Connection) -> Outcome:
        status, answer = await connection.ask("GET", next(turns), **bearer(account))
        if status != HTTPStatus.OK or not isinstance(answer, dict):
            raise Failed(f"{status}")
        return Outcome("read")

    return step


def registering(names: Iterator[str]) -> Step:
    """Register people, of whom `names` has one for each."""

    async def step(connection: Connection) -> Outcome:
        status, _ = await connection.ask("POST", "/client/users", registration(next(names)))
        if status not in (201, 202):
            raise Failed(f"{status}")
        return Outcome("registered", pending=status == HTTPStatus.ACCEPTED)

    return step


def _endless_logins() -> Iterator[str]:
    while True:
        yield from logins(1000)


def steps_of(do: str, clients: int, accounts: Sequence[Account], asked: dict[str, Any], until: float) -> list[Step]:
    """Give each client something to do, and one of the accounts in turn to do it with."""
    turns = [accounts[index % len(accounts)] for index in range(clients)] if accounts else []
    match do:
        case "place orders":
            shares = [accounts[index % len(accounts) :: clients] for index in range(clients)]
            return [ordering(share, asked["price"], until) for share in shares]
        case "read":
            return [reading(account, asked["what"]) for account in turns]
        case "register":
            names = _endless_logins()
            return [registering(names) for _ in range(clients)]
        case _:
            raise ValueError(f"nobody knows how to {do}")


async def _answer(asked: dict[str, Any]) -> None:
    do, base = asked.pop("do"), asked.pop("base")
    if do == "open accounts":
        _say([asdict(one) for one in await open_accounts(base, **asked)])
        return
    accounts = [Account(**one) for one in asked.pop("accounts", ())]
    warm_up_s, seconds = asked.pop("warm_up_s"), asked.pop("seconds")
    until = time.perf_counter() + warm_up_s + seconds + ANSWER_WITHIN_S
    steps = steps_of(do, asked.pop("clients"), accounts, asked, until)
    loop = asyncio.get_running_loop()
    for at_s in (warm_up_s, warm_up_s + seconds):
        loop.call_later(at_s, _say, "edge")
    load = await repeat(base, steps, warm_up_s=warm_up_s, seconds=seconds)
    seen = Seen(seconds=load.seconds, outcomes=dict(load.outcomes), failures=dict(load.failures), pending=load.pending)
    _say(seen)


def _say(what: Any) -> None:
    sys.stdout.buffer.write(orjson.dumps(what) + b"\n")
    sys.stdout.buffer.flush()


async def have_clients(**asked: Any) -> AsyncGenerator[Any, None]:
    """Have clients, a process of their own, `do` something at a `base`; give what they say.

    To ``open accounts`` they answer with the accounts. All else takes `clients`, `accounts`, `warm_up_s` and `seconds`:
    they say when the time that counts begins and ends, and then what they saw.
    """
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bench.clients"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=1 << 28,
        cwd=Path(__file__).parents[1],
        preexec_fn=die_with_parent,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(orjson.dumps(asked))
        process.stdin.close()
        async for line in process.stdout:
            yield orjson.loads(line)
        if await process.wait():
            raise RuntimeError(f"the clients could not {asked['do']}; see above")
    finally:
        with suppress(ProcessLookupError):
            process.kill()


def main() -> None:
    """Do what standard input asks for; answer on standard output."""
    uvloop.run(_answer(orjson.loads(sys.stdin.buffer.read())))


if __name__ == "__main__":
    main()
