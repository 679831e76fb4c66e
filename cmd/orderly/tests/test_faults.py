"""The whole system while parts of it die, are away, or say things twice."""

import asyncio
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from nats.aio.client import Client
from sqlalchemy import MetaData, Table, select

from libs.contracts import stream_of
from libs.ids import uuid7
from libs.local.servers import free_port, listening, nats_program
from libs.local.supervisor import Program, Supervisor, environment
from libs.storage import Database
from libs.tests.eventually import eventually
from orderly.credentials import ensure_credentials
from orderly.faults.broker import connected
from orderly.services import NAMES, SERVICES
from orderly.system import DatabaseKind, System
from orderly.tests.preloaded import spawn
from orderly.tests.systems import assert_the_books_balance, customers, running_system

both_databases = pytest.mark.parametrize("database", ["sqlite", "postgres"])
one_now_one_later = pytest.mark.parametrize("database", ["sqlite", pytest.param("postgres", marks=pytest.mark.prove)])
one_later_one_now = pytest.mark.parametrize("database", [pytest.param("sqlite", marks=pytest.mark.prove), "postgres"])


@one_later_one_now
async def test_two_replicas_of_every_service_share_the_work(database: DatabaseKind) -> None:
    async with running_system(database, replicas=2) as system, customers(system) as customer:
        people = await asyncio.gather(*(customer().arrive("100") for _ in range(6)))
        answers = await asyncio.gather(*(person.order("2") for person in people for _ in range(30)))
        assert [status for status, _ in answers] == [201] * len(answers), "an awaited answer did not arrive"
        for person in people:
            assert await person.audit() == {"confirmed": 30}
        await assert_the_books_balance(system)
        for name in NAMES:
            for suffix in ("", "-2"):
                log = (system.logs / f"{name}{suffix}.log").read_text()
                assert '"event":"handled"' in log, f"{name}{suffix} had nothing to do"


async def test_a_system_is_not_healthy_before_every_process_of_every_service_is_ready() -> None:
    async with running_system("sqlite", replicas=2) as system, customers(system) as customer:
        (second,) = [program for program in system._programs() if program.label == "auth#2"]
        nowhere = replace(second, env={**second.env, "NATS_URL": f"nats://127.0.0.1:{free_port()}"})
        await system.supervisor.stop([second.label])
        await system.supervisor.start(nowhere)
        waiting = asyncio.create_task(system.healthy(within_s=60))
        for _ in range(20):  # the first one is ready, and that is all that the gateway wants to know
            assert (await customer().call("GET", "/health/"))[0] == 200
        assert not waiting.done()
        await system.supervisor.stop([second.label])
        await system.supervisor.start(second)
        await waiting
        ann = await customer().arrive()
        for _ in range(4):  # whoever's turn it is
            assert (await ann.call("POST", "/login", {"login": ann.login, "password": ann.password}))[0] == 200


@one_now_one_later
async def test_orders_placed_while_nats_is_away_are_settled_and_charged_once(database: DatabaseKind) -> None:
    async with running_system(database, extra={"PATIENCE_S": "0.3"}) as system, customers(system) as customer:
        ann = await customer().arrive("100")
        await system.supervisor.stop(["nats"])
        answers = [await ann.order("10") for _ in range(5)]
        assert {status for status, _ in answers} == {202}
        assert {order["status"] for _, order in answers} == {"pending"}
        assert (await customer().call("GET", "/health/"))[0] == 503
        for name in NAMES:  # a cluster goes on sending requests to who is ready
            assert await _ready(system, name) == (200, ["nats"]), name
        await system.start_nats()
        await system.healthy(within_s=60)
        assert await ann.audit(within_s=45) == {"confirmed": 5}
        await assert_the_books_balance(system)


@pytest.mark.prove
@pytest.mark.timeout(400)
@both_databases
async def test_services_stop_gracefully_under_traffic(database: DatabaseKind) -> None:
    async with running_system(database) as system, customers(system) as customer:
        people = await asyncio.gather(*(customer().arrive("1000") for _ in range(4)))
        stop = asyncio.Event()

        async def shop(person: Any) -> None:
            while not stop.is_set():
                await person.order("1", **{"Idempotency-Key": str(uuid7())})

        shopping = [asyncio.create_task(shop(person)) for person in people]
        for name in NAMES:
            async with asyncio.timeout(15):
                await system.supervisor.restart(name, number=signal.SIGTERM)
        await system.healthy(within_s=60)
        stop.set()
        await asyncio.gather(*shopping)
        for person in people:
            assert set(await person.audit(within_s=45)) == {"confirmed"}
        await assert_the_books_balance(system)


@one_later_one_now
async def test_every_message_delivered_again_changes_nothing(database: DatabaseKind) -> None:
    async with running_system(database) as system, customers(system) as customer:
        ann = await customer().arrive("100")
        await ann.call("PUT", f"/profiles/{ann.login}", {"first_name": "Ann"})
        _, order = await ann.order("60")
        await ann.order("60")
        await ann.call("POST", f"/orders/{order['id']}/cancel")
        await ann.call("POST", "/billing/withdrawals", {"amount": "5"})
        ann.withdrawn += 5
        await ann.audit()
        before = {service.name: await _content(system, service.name) for service in SERVICES}
        handled = await _handled(system)
        types = {kind for name in NAMES for kind in await _say_everything_again(system, name)}
        assert types == {fact.type for service in SERVICES for fact in service.publishes}
        listened = sum(len(service.listens) for service in SERVICES)
        await eventually(lambda: _caught_up(system), within_s=60)
        assert await _handled(system) >= handled + listened
        after = {service.name: await _content(system, service.name) for service in SERVICES}
        assert after == before
        await ann.audit()


async def test_a_service_says_what_it_awaits_and_goes_on_when_it_is_there(tmp_path: Path) -> None:
    nats_port, port = free_port(), free_port()
    credentials = ensure_credentials(tmp_path / "keys")
    database = tmp_path / "billing.db"
    env = environment(
        PORT=str(port),
        NATS_URL=f"nats://127.0.0.1:{nats_port}",
        DATABASE_URL=f"sqlite:///{database}",
        FINGERPRINT_KEY=credentials.fingerprint_key,
        JWT_PUBLIC_KEYS=str(credentials.public_keys),
    )
    supervisor = Supervisor(lambda _sentence: None, spawn)
    log = tmp_path / "logs" / "billing.log"
    program = str(Path(sys.executable).parent / "billing")
    try:
        async with aiohttp.ClientSession() as session:

            async def awaits() -> list[str] | None:
                try:
                    async with session.get(f"http://127.0.0.1:{port}/readyz") as response:
                        answer = await response.json()
                        return list(answer.get("awaits", [])) if response.status == 503 else []
                except aiohttp.ClientError:
                    return None

            async def awaits_exactly(*names: str) -> bool:
                return await awaits() == list(names)

            await supervisor.start(Program("billing", [program], env, log))
            await eventually(lambda: awaits_exactly("database", "nats"), within_s=60)
            await eventually(lambda: '"awaits":"database"' in log.read_text())
            migrating = await asyncio.create_subprocess_exec(program, "migrate", env=env)
            assert await migrating.wait() == 0
            await eventually(lambda: awaits_exactly("nats"), within_s=60)
            await eventually(lambda: '"awaits":"nats"' in log.read_text(), within_s=60)
            await supervisor.start(nats_program(tmp_path / "nats", nats_port, tmp_path / "logs"))
            await listening(nats_port, within_s=60, what="nats-server", log=log)
            await eventually(awaits_exactly, within_s=60)
    finally:
        await supervisor.stop()


async def _ready(system: System, service: str) -> tuple[int, list[str]]:
    async with aiohttp.ClientSession() as session, session.get(f"{system.service_urls(service)[0]}/readyz") as answer:
        return answer.status, (await answer.json())["awaits"]


async def _content(system: System, service: str) -> dict[str, set[tuple[Any, ...]]]:
    """Every row of a service's own tables."""
    own: MetaData = next(known.tables for known in SERVICES if known.name == service)
    database = Database(system.database_url(service), name="test")
    try:
        async with database.reading() as connection:
            rows = {}
            for table in own.sorted_tables:
                rows[table.name] = {tuple(row) for row in await connection.execute(_everything(table))}
            return rows
    finally:
        await database.close()


def _everything(table: Table) -> Any:
    return select(*[column for column in table.columns if column.name != "due_at"])


async def _observing(system: System) -> Client:
    client = Client()
    await client.connect(system.nats_url)
    return client


async def _say_everything_again(system: System, service: str) -> set[str]:
    """Publish every stored message of a service's stream once more, as new messages; return their types."""
    watcher, stream = await _observing(system), stream_of(service)
    last = (await watcher.jetstream().stream_info(stream)).state.last_seq
    types = set()
    async with connected(system, service) as client:
        for sequence in range(1, last + 1):
            message = await watcher.jetstream().get_msg(stream, sequence)
            # Without the place in an atomic batch that it may have come in: it is none any more.
            kept = {name: value for name, value in (message.headers or {}).items() if not name.startswith("Nats-")}
            headers = {**kept, "Nats-Msg-Id": str(uuid7())}
            await client.jetstream().publish(message.subject or "", message.data or b"", headers=headers)
            types.add(headers["ce-type"])
    await watcher.close()
    return types


async def _handled(system: System) -> int:
    """How many messages all durable consumers together have acknowledged."""
    client = await _observing(system)
    total = 0
    for name in NAMES:
        total += sum(
            info.ack_floor.consumer_seq if info.ack_floor else 0
            for info in await client.jetstream().consumers_info(stream_of(name))
        )
    await client.close()
    return total


async def _caught_up(system: System) -> bool:
    """Whether no durable consumer has anything left to do."""
    client = await _observing(system)
    waiting = 0
    for name in NAMES:
        for info in await client.jetstream().consumers_info(stream_of(name)):
            waiting += (info.num_pending or 0) + (info.num_ack_pending or 0)
    await client.close()
    return waiting == 0
