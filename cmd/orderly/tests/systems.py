"""Whole systems for tests: started on free ports in a fresh folder, asked over HTTP, audited from outside."""

import secrets
import shutil
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import aiohttp

from libs.local.servers import free_port
from libs.local.supervisor import Supervisor
from libs.tests.eventually import eventually
from orderly.audit import audit
from orderly.services import NAMES
from orderly.system import DatabaseKind, Plan, System
from orderly.tests.preloaded import spawn

KINDS: Final = {"confirmed": "joy", "rejected": "sorrow", "cancelled": "cancelled"}
"""The letter that every order gets in the end, by its status."""


@asynccontextmanager
async def running_system(
    database: DatabaseKind,
    *,
    replicas: int = 1,
    cluster: bool = False,
    extra: dict[str, str] | None = None,
    database_urls: dict[str, str] | None = None,
    nats_url: str = "",
    kind: Callable[[Plan, Callable[[str], None]], System] = System,
) -> AsyncIterator[System]:
    """A system of the test's own; its folder is gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="orderly-test-"))
    folder.chmod(0o711)  # PostgreSQL may run as another user
    said: list[str] = []
    ports = free_port(), free_port()
    plan = Plan(
        folder, *ports, database, replicas, database_urls or {}, extra or {}, cluster=cluster, nats_url=nats_url
    )
    system = kind(plan, said.append)
    system.supervisor = Supervisor(said.append, spawn)
    try:
        await system.start()
        yield system
    finally:
        await system.stop()
        shutil.rmtree(folder, ignore_errors=True)


@dataclass(slots=True)
class Customer:
    """Somebody who uses the system, and remembers what it answered."""

    session: aiohttp.ClientSession
    base: str
    login: str = field(default_factory=lambda: f"u{secrets.token_hex(6)}")
    password: str = field(default_factory=lambda: secrets.token_hex(8))
    token: str = ""
    statuses: Counter[int] = field(default_factory=Counter)
    deposited: Decimal = Decimal(0)
    withdrawn: Decimal = Decimal(0)
    orders: dict[str, Decimal] = field(default_factory=dict)

    async def call(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        """Ask, and return status and JSON."""
        if self.token:
            headers["Authorization"] = f"Bearer {self.token}"
        url = f"{self.base}/client{path}"
        async with self.session.request(method, url, json=body, headers=headers) as response:
            self.statuses[response.status] += 1
            return response.status, await response.json(content_type=None)

    async def arrive(self, deposit: str | None = None) -> "Customer":
        """Register, log in, and put money on the account."""
        given = {"login": self.login, "password": self.password}
        status, user = await self.call("POST", "/users", {**given, "email": f"{self.login}@example.org"})
        assert status == 201, user
        assert user["account"], user
        status, token = await self.call("POST", "/login", given)
        assert status == 200, token
        self.token = token["access_token"]
        if deposit:
            await self.deposit(deposit)
        return self

    async def deposit(self, amount: str) -> None:
        """Bring money in."""
        status, answer = await self.call("POST", "/billing/deposits", {"amount": amount})
        assert status == 201, answer
        self.deposited += Decimal(amount)

    async def order(self, price: str, **headers: str) -> tuple[int, dict[str, Any]]:
        """Place an order; one that was taken is remembered."""
        status, order = await self.call("POST", "/orders", {"price": price}, **headers)
        if status in (201, 202):
            self.orders[order["id"]] = Decimal(price)
        return status, order

    async def balance(self) -> Decimal:
        """What is on the account."""
        status, account = await self.call("GET", "/billing/account")
        assert status == 200, account
        return Decimal(account["balance"])

    async def pages(self, path: str) -> list[dict[str, Any]]:
        """Read a whole list, page by page."""
        items: list[dict[str, Any]] = []
        cursor = ""
        while True:
            status, page = await self.call("GET", f"{path}?limit=100{cursor}")
            assert status == 200, page
            items += page["items"]
            if page["next"] is None:
                return items
            cursor = f"&cursor={page['next']}"

    async def audit(self, *, within_s: float = 20) -> dict[str, int]:
        """Wait until every order is settled and has its letter; check the books; return the orders by status."""

        async def settled() -> bool:
            orders = await self.pages("/orders")
            letters = {(letter["order_id"], letter["kind"]) for letter in await self.pages("/notifications")}
            refunded = all(order["refunded"] is not None for order in orders if order["status"] == "cancelled")
            return refunded and all((order["id"], KINDS.get(order["status"])) in letters for order in orders)

        await eventually(settled, within_s=within_s)
        orders = {order["id"]: order for order in await self.pages("/orders")}
        assert set(self.orders) == set(orders)
        charged = sum(
            (Decimal(order["price"]) for order in orders.values() if order["status"] == "confirmed"), Decimal(0)
        )
        assert await self.balance() == self.deposited - self.withdrawn - charged
        letters = [letter for letter in await self.pages("/notifications") if letter["order_id"]]
        kinds = Counter((letter["order_id"], letter["kind"]) for letter in letters)
        assert set(kinds.values()) <= {1}, "an order has two letters of a kind"
        for order in orders.values():
            assert kinds[order["id"], KINDS[order["status"]]] == 1, order
        entries = await self.pages("/billing/statement")
        assert sum((Decimal(entry["amount"]) for entry in entries), Decimal(0)) == await self.balance()
        return Counter(order["status"] for order in orders.values())


async def assert_the_books_balance(system: System, *, patience_s: float = 30) -> None:
    """Have every database and every stream audited, as ``orderly audit`` does."""
    urls = {name: system.database_url(name) for name in NAMES}
    report = await audit(urls, system.nats_url, patience_s=patience_s)
    assert report.offenders() == {}


@asynccontextmanager
async def customers(system: System) -> AsyncIterator[Callable[[], Customer]]:
    """A maker of customers of a system."""
    timeout = aiohttp.ClientTimeout(total=90)  # longer than any gateway here waits: who is slow is answered
    async with aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=0)) as session:
        yield lambda: Customer(session, system.url)
