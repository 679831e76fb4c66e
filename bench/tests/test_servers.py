"""Servers that are given are used, and left as they were."""

import asyncpg
import pytest
from nats.aio.client import Client

from bench import servers
from bench.servers import NATS, POSTGRES, fresh_databases, fresh_streams, given, given_pids, pid_of
from libs.local.servers import CannotStart, Postgres, free_port


@pytest.mark.parametrize(
    ("setting", "url"),
    [(POSTGRES, "mysql://host/x"), (POSTGRES, "postgresql:///x"), (NATS, "host:4222"), (NATS, "http://host:4222")],
)
def test_what_is_no_address_is_said(setting: str, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(setting, url)
    with pytest.raises(CannotStart, match=f"{setting} must be like"):
        given(setting)


def test_without_addresses_everybody_starts_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    for setting in (POSTGRES, NATS):
        monkeypatch.setenv(setting, " ")
        assert given(setting) == ""
    assert given_pids() == {}


def superuser(postgres: Postgres) -> str:
    return f"postgresql://postgres:{postgres._password}@127.0.0.1:{postgres._port}/postgres"


async def test_databases_are_made_and_dropped(postgres: Postgres, monkeypatch: pytest.MonkeyPatch) -> None:
    async with fresh_databases(superuser(postgres), ["orders", "billing"]) as urls:
        connections = {name: await asyncpg.connect(url) for name, url in urls.items()}
        for name, connection in connections.items():
            assert (await connection.fetchval("select current_database()")).endswith(f"_{name}")
            # one is still connected when the database goes
        await connections["billing"].close()
    with pytest.raises(asyncpg.InvalidCatalogNameError):
        await asyncpg.connect(urls["orders"])
    connections["orders"].terminate()
    monkeypatch.setenv(POSTGRES, superuser(postgres))
    assert list(given_pids()) == ["postgres"]


async def test_a_user_who_may_make_none_is_said(postgres: Postgres) -> None:
    url = await postgres.create_database("poor", "ab" * 8)
    with pytest.raises(CannotStart, match=f"{POSTGRES}: cannot create databases there: permission denied"):
        async with fresh_databases(url, ["orders"]):
            pass


async def test_a_server_that_is_away_is_said() -> None:
    with pytest.raises(CannotStart, match=f"{POSTGRES}: cannot connect"):
        async with fresh_databases(f"postgresql://a:b@127.0.0.1:{free_port()}/x", ["orders"]):
            pass
    with pytest.raises(CannotStart, match=f"{NATS}: cannot connect"):
        async with fresh_streams(f"nats://127.0.0.1:{free_port()}", ["ORDERS"]):
            pass


async def test_streams_of_somebody_else_are_not_touched(nats_url: str) -> None:
    client = Client()
    await client.connect(nats_url)
    await client.jetstream().add_stream(name="ORDERS", subjects=["orders.>"])
    await client.jetstream().add_stream(name="OTHERS", subjects=["others.>"])
    with pytest.raises(CannotStart, match="there are streams ORDERS, which the benchmark would use and delete"):
        async with fresh_streams(nats_url, ["BILLING", "ORDERS"]):
            pass
    await client.jetstream().delete_stream("ORDERS")
    async with fresh_streams(nats_url, ["BILLING", "ORDERS"]):
        await client.jetstream().add_stream(name="ORDERS", subjects=["orders.>"])
    assert [one.config.name for one in await client.jetstream().streams_info()] == ["OTHERS"]
    await client.close()


def test_processes_elsewhere_are_not_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servers, "listener", lambda port: port)
    assert pid_of("nats://example.org") is None
    assert pid_of("nats://127.0.0.1") == 4222
    assert pid_of("postgresql://localhost/x") == 5432
    assert pid_of("postgresql://localhost:7/x") == 7
