"""Accounts to benchmark with: people who registered, brought money, and perhaps ordered something."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final

from bench.connection import ANSWER_WITHIN_S, Connection

PASSWORD: Final = "correct horse"  # noqa: S105 - everybody's here
LOOK_AGAIN_S: Final = 0.1
LOOK_AGAIN_AT_LEAST_EVERY_S: Final = 1.0
"""How often a client looks at an order whose outcome it was not told: it is not to be what keeps the system busy."""


class Failed(Exception):
    """A request has failed; the message is its outcome."""


@dataclass(frozen=True, slots=True)
class Account:
    """Somebody with money: a login, a token, and the ids of the orders so far."""

    login: str
    token: str
    orders: Sequence[str] = ()


async def open_accounts(
    base: str, number: int, *, deposit: str, orders: int = 0, at_a_time: int = 8
) -> Sequence[Account]:
    """Register, log in and bring money for a number of people; each places some orders."""
    gate = asyncio.Semaphore(at_a_time)

    async def open_one(login: str) -> Account:
        async with gate:
            connection = await Connection.to(base)
            try:
                return await _arrive(connection, login, deposit, orders)
            finally:
                connection.close()

    return await asyncio.gather(*(open_one(login) for login in logins(number)))


def logins(number: int) -> list[str]:
    """Make up logins that nobody has."""
    stamp = f"{time.time_ns():x}"
    return [f"bench-{stamp}-{index}" for index in range(number)]


def registration(login: str) -> dict[str, str]:
    """What somebody registers with."""
    return {"login": login, "password": PASSWORD, "email": f"{login}@example.org"}


async def _arrive(connection: Connection, login: str, deposit: str, orders: int) -> Account:
    await _expect(connection, (201, 202), "/client/users", registration(login))
    _, answer = await _expect(connection, (200,), "/client/login", {"login": login, "password": PASSWORD})
    account = Account(login, answer["access_token"])
    await _bring(connection, account, deposit)
    placed = [await place_order(connection, account) for _ in range(orders)]
    return Account(account.login, account.token, [order["id"] for order, _ in placed])


async def place_order(
    connection: Connection, account: Account, price: str = "1.00", *, until: float = float("inf")
) -> tuple[dict[str, Any], bool]:
    """Place an order and learn its outcome; return it, and whether the first answer was still without.

    Raises `Failed` when it is answered otherwise, or has no outcome by `until` (`time.perf_counter`).
    """
    headers = bearer(account)
    status, order = await connection.ask("POST", "/client/orders", {"price": price}, **headers)
    pending, pause_s = status == HTTPStatus.ACCEPTED, LOOK_AGAIN_S
    while _is_pending(status, order):
        if time.perf_counter() > until:
            raise Failed("pending")
        await asyncio.sleep(pause_s)
        pause_s = min(2 * pause_s, LOOK_AGAIN_AT_LEAST_EVERY_S)
        status, order = await connection.ask("GET", f"/client/orders/{order['id']}", **headers)
    if status not in (200, 201) or not isinstance(order, dict) or "status" not in order:
        raise Failed(f"{status}")
    return order, pending


def _is_pending(status: int, order: Any) -> bool:
    """Whether an order is to be looked at again: as it was placed, or as it was shown."""
    if not isinstance(order, dict) or "id" not in order:
        return False
    return status == HTTPStatus.ACCEPTED or (status == HTTPStatus.OK and order.get("status") == "pending")


async def _bring(connection: Connection, account: Account, deposit: str) -> None:
    """Bring money, as soon as the account is open: who is registered under load may have to wait for it."""
    path, given, wanted = "/client/billing/deposits", {"amount": deposit}, (HTTPStatus.CREATED, HTTPStatus.NOT_FOUND)
    async with asyncio.timeout(ANSWER_WITHIN_S):
        while True:
            status, _ = await _expect(connection, wanted, path, given, **bearer(account))
            if status == HTTPStatus.CREATED:
                return
            await asyncio.sleep(LOOK_AGAIN_S)


async def _expect(
    connection: Connection, wanted: Sequence[int], path: str, body: Any, **headers: str
) -> tuple[int, Any]:
    status, answer = await connection.ask("POST", path, body, **headers)
    if status not in wanted:
        raise RuntimeError(f"POST {path} answered {status} instead of {wanted[0]}: {answer}")
    return status, answer


def bearer(account: Account) -> dict[str, str]:
    """The header that says who is asking."""
    return {"Authorization": f"Bearer {account.token}"}
