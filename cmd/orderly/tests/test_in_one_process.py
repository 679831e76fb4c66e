"""All services in one process, on the in-memory broker and SQLite: their tables, their routes, and how they stop."""

import asyncio
import importlib
import secrets
import socket
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from libs import logs, service
from libs.local.servers import free_port
from libs.messaging import relay
from libs.messaging.bus import BusUnavailable
from libs.messaging.envelope import Outgoing
from libs.messaging.memory import MemoryBroker, MemoryBus
from libs.service import Running
from libs.settings import ServiceSettings
from libs.storage import Database
from libs.storage.migrations import migrate
from libs.tests.eventually import eventually
from orderly.credentials import ensure_credentials, key_files
from orderly.services import NAMES, SERVICES


def environment_of(folder: Path, name: str) -> dict[str, Any]:
    """Make the settings of one service, by their names in its model."""
    ensure_credentials(folder)
    private, public = key_files(folder)
    return {
        "port": free_port(),
        "database_url": f"sqlite:///{folder / name}.db",
        "fingerprint_key": "0123456789abcdef",
        "jwt_private_key": private,
        "jwt_public_keys": public,
        "patience_s": 5,
    }


async def migrated(one: service.Service[Any, Any], settings: ServiceSettings) -> None:
    database = Database(settings.database_url.get_secret_value(), name=one.name)
    await migrate(database, one.migrations)
    await database.close()


class Client:
    """Somebody who asks the services themselves, without a gateway."""

    def __init__(self, session: aiohttp.ClientSession, ports: Mapping[str, int]) -> None:
        self._session = session
        self._ports = ports
        self.token = ""

    async def ask(self, method: str, of: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        """Ask one service; return status and JSON."""
        if self.token:
            headers["Authorization"] = f"Bearer {self.token}"
        url = f"http://127.0.0.1:{self._ports[of]}{path}"
        async with self._session.request(method, url, json=body, headers=headers) as response:
            return response.status, await response.json(content_type=None)

    async def log_in(self, login: str) -> None:
        """Register, wait for the account, and log in."""
        given = {"login": login, "password": secrets.token_hex(8)}
        status, user = await self.ask("POST", "auth", "/users", {**given, "email": f"{login}@example.org"})
        assert (status, bool(user["account"])) == (201, True)
        status, token = await self.ask("POST", "auth", "/login", given)
        assert status == 200
        self.token = token["access_token"]


@asynccontextmanager
async def five_services(
    folder: Path, *, urls: Mapping[str, str] | None = None, broker: MemoryBroker | None = None
) -> AsyncIterator[Client]:
    """Every service, ready; on SQLite, unless `urls` say where the databases are, by service."""
    at, ports = broker or MemoryBroker(), {}

    async def connect() -> MemoryBus:
        return MemoryBus(at)

    async with AsyncExitStack() as stack:
        all_of_them = []
        for one in SERVICES:
            elsewhere = {"database_url": urls[one.name]} if urls else {}
            settings = one.settings(**environment_of(folder, one.name) | elsewhere)
            await migrated(one, settings)
            ports[one.name] = settings.port
            running = Running(one, settings)
            await stack.enter_async_context(running.started(connect))
            all_of_them.append(running)
        await eventually(lambda: not any(running.awaits() for running in all_of_them), within_s=20)
        yield Client(await stack.enter_async_context(aiohttp.ClientSession()), ports)


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[Client]:
    async with five_services(tmp_path) as client:
        yield client


async def test_an_order_from_the_registration_to_the_refund(client: Client) -> None:
    await client.log_in("ann")

    assert (await client.ask("POST", "billing", "/billing/deposits", {"amount": "10.00"}))[0] == 201
    assert (await client.ask("POST", "billing", "/billing/withdrawals", {"amount": "1.00"}))[0] == 201
    status, refused = await client.ask("POST", "billing", "/billing/withdrawals", {"amount": "9.01"})
    assert (status, refused["type"].rpartition("/")[2].replace("-", "_")) == (409, "insufficient_funds")
    status, order = await client.ask("POST", "orders", "/orders", {"price": "4.00", "description": "a book"})
    assert (status, order["status"]) == (201, "confirmed")
    status, rejected = await client.ask("POST", "orders", "/orders", {"price": "5.01"})
    assert (status, rejected["status"], rejected["reason"]) == (201, "rejected", "insufficient_funds")
    assert (await client.ask("GET", "orders", f"/orders/{order['id']}"))[1] == order
    status, cancelled = await client.ask("POST", "orders", f"/orders/{order['id']}/cancel")
    assert (status, cancelled["status"], cancelled["refunded"]) == (200, "cancelled", "4.00")
    assert (await client.ask("GET", "billing", "/billing/account"))[1] == {"balance": "9.00", "currency": "EUR"}


async def test_lists_are_read_page_by_page(client: Client) -> None:
    await client.log_in("ann")
    for amount in ("1.00", "2.00", "3.00"):
        await client.ask("POST", "billing", "/billing/deposits", {"amount": amount})
    for _ in range(3):
        await client.ask("POST", "orders", "/orders", {"price": "1.00"})
    for subject in ("one", "two", "three"):
        note = {"subject": subject, "body": "to myself"}
        assert (await client.ask("POST", "notifications", "/notifications", note))[0] == 201

    for of, path in (
        ("billing", "/billing/statement"),
        ("orders", "/orders"),
        ("notifications", "/notifications"),
    ):
        status, whole = await client.ask("GET", of, f"{path}?limit=100")
        assert (status, whole["next"]) == (200, None)
        _, first = await client.ask("GET", of, f"{path}?limit=2")
        assert first["items"] == whole["items"][:2]
        _, second = await client.ask("GET", of, f"{path}?limit=100&cursor={first['next']}")
        assert second == {"items": whole["items"][2:], "next": None}


async def test_a_profile_is_shown_and_changed_by_its_owner_only(client: Client) -> None:
    await client.log_in("ann")

    status, profile = await client.ask("GET", "profiles", "/profiles/ann")
    assert (status, profile["email"]) == (200, "ann@example.org")
    status, profile = await client.ask("PUT", "profiles", "/profiles/ann", {"first_name": "Ann"})
    assert (status, profile["first_name"], profile["email"]) == (200, "Ann", "ann@example.org")
    assert (await client.ask("PUT", "profiles", "/profiles/ann", {"login": "bob"}))[0] == 422
    assert (await client.ask("PUT", "profiles", "/profiles/ann", {"email": None}))[0] == 422
    assert (await client.ask("GET", "profiles", "/profiles/bob"))[0] == 403


async def test_who_is_not_known_gets_nothing(client: Client) -> None:
    await client.log_in("ann")
    nowhere = "/orders/00000000-0000-7000-8000-000000000000"
    assert (await client.ask("GET", "orders", nowhere))[0] == 404
    assert (await client.ask("POST", "orders", f"{nowhere}/cancel"))[0] == 404
    wrong = {"login": "ann", "password": "wrong"}
    assert (await client.ask("POST", "auth", "/login", wrong))[0] == 401
    _, jwks = await client.ask("GET", "auth", "/.well-known/jwks.json")
    assert [key["kty"] for key in jwks["keys"]] == ["RSA"]


class FullBus(MemoryBus):
    """Connected to a broker that stores nothing more."""

    full = True

    async def publish(self, messages: Sequence[Outgoing], *, above: int = 0) -> list[int]:
        if self.full:
            raise BusUnavailable("maximum bytes exceeded")
        return await super().publish(messages, above=above)


async def test_a_service_that_refuses_new_work_says_that_it_awaits_the_broker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay, "LEFT_BEHIND", timedelta(0))
    monkeypatch.setattr(relay, "STALLED_S", 0.1)
    (auth,) = (one for one in SERVICES if one.name == "auth")
    settings = auth.settings(**environment_of(tmp_path, "auth") | {"patience_s": 0.1})
    await migrated(auth, settings)
    bus = FullBus(MemoryBroker())

    async def connect() -> MemoryBus:
        return bus

    async with Running(auth, settings).started(connect), aiohttp.ClientSession() as session:
        client = Client(session, {"auth": settings.port})

        async def says(*awaits: str) -> bool:
            return await client.ask("GET", "auth", "/readyz") == (200, {"status": "OK", "awaits": [*awaits]})

        async def register(login: str) -> int:
            given = {"login": login, "password": secrets.token_hex(8), "email": f"{login}@example.org"}
            return (await client.ask("POST", "auth", "/users", given))[0]

        await eventually(says, within_s=20)
        assert await register("ann") == 202
        await eventually(lambda: says("nats"), within_s=20)
        assert await register("bob") == 503
        bus.full = False
        await eventually(says, within_s=20)


@pytest.mark.parametrize("name", NAMES)
def test_a_program_brings_its_database_up_to_date(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = importlib.import_module(f"{name}.__main__")
    for setting, value in environment_of(tmp_path, name).items():
        monkeypatch.setenv(setting.upper(), str(value))
    monkeypatch.setattr(sys, "argv", [name, "migrate"])
    monkeypatch.setattr(logs, "configure", lambda *_positional, **_named: None)

    program.main()

    assert (tmp_path / f"{name}.db").stat().st_size > 0


async def test_a_service_on_a_real_server_runs_until_it_is_told_to_stop(tmp_path: Path, nats_url: str) -> None:
    (billing,) = (one for one in SERVICES if one.name == "billing")
    settings = billing.settings(**environment_of(tmp_path, "billing"), nats_url=nats_url)
    await migrated(billing, settings)
    stop = asyncio.Event()
    process = asyncio.create_task(service._run(billing, settings, stop))

    async def ready() -> bool:
        try:
            async with (
                aiohttp.ClientSession() as session,
                session.get(f"http://127.0.0.1:{settings.port}/readyz") as response,
            ):
                return response.status == 200
        except aiohttp.ClientConnectionError:
            return False

    await eventually(ready, within_s=20)
    stop.set()
    async with asyncio.timeout(20):
        await process
    with socket.socket() as again:
        assert again.connect_ex(("127.0.0.1", settings.port)) != 0
