"""Gauges: looked up from time to time, and NaN when that fails."""

import math
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import insert, update
from sqlalchemy.ext.asyncio import AsyncConnection

from libs.messaging.memory import MemoryBus
from libs.messaging.tables import dead_letters
from libs.messaging.tests.stage import everything, messages, mislaid, opened
from libs.storage import Database
from libs.telemetry import Metrics
from libs.telemetry.gauges import Gauge, Gauges, age_s
from libs.telemetry.tests.test_metrics import value


@pytest.fixture
async def database(database_url: str, tmp_path: Path) -> AsyncIterator[Database]:
    async with opened(database_url, tmp_path / "migrations") as database:
        yield database


def letter(event_id: str) -> dict[str, object]:
    return {
        "id": event_id,
        "event_id": event_id,
        "subject": "orders.order.placed.1",
        "payload": b"",
        "headers": "{}",
        "error": "KeyError",
        "attempts": 20,
        "trace_id": "0" * 32,
        "created_at": datetime.now(UTC),
    }


async def test_dead_letters_count_until_somebody_attends_to_them(database: Database) -> None:
    metrics = Metrics()
    gauges = Gauges(metrics, "billing", database, MemoryBus())
    async with database.writing() as connection:
        await connection.execute(insert(dead_letters), [letter("a"), letter("b")])
    await gauges.look()
    assert value(metrics, "dead_letters_unattended", service="billing") == 2
    async with database.writing() as connection:
        attended = update(dead_letters).where(dead_letters.c.event_id == "a").values(attended_at=datetime.now(UTC))
        await connection.execute(attended)
    await gauges.look()
    assert value(metrics, "dead_letters_unattended", service="billing") == 1


async def test_what_cannot_be_looked_up_is_no_number_and_spoils_nothing_else(database: Database) -> None:
    async def seven(_connection: AsyncConnection) -> float:
        return 7.0

    metrics, bus = Metrics(), MemoryBus()
    gauges = Gauges(metrics, "billing", database, bus)
    gauges.add_lag([everything("orders")])
    gauges.add(Gauge("sevens", "Seven", seven), lambda connection: connection)
    async with mislaid(database, dead_letters):
        await gauges.look()
    assert math.isnan(value(metrics, "dead_letters_unattended", service="billing"))
    assert math.isnan(value(metrics, "consumer_lag_messages", stream="ORDERS", consumer="reader"))
    assert value(metrics, "sevens") == 7
    await gauges.look()
    assert value(metrics, "dead_letters_unattended", service="billing") == 0


async def test_a_consumer_that_is_behind_shows_by_how_much(database: Database) -> None:
    metrics, bus = Metrics(), MemoryBus()
    gauges = Gauges(metrics, "billing", database, bus)
    gauges.add_lag([everything("orders")])
    labels = {"stream": "ORDERS", "consumer": "reader"}
    await bus.ensure_stream("orders")
    subscription = await bus.subscribe(everything("orders"))
    await bus.publish(messages("orders", 5))
    taken = await subscription.next_batch(2)
    await gauges.look()
    assert value(metrics, "consumer_lag_messages", **labels) == 3
    assert value(metrics, "consumer_ack_pending_messages", **labels) == 2
    for delivery in [*taken, *await subscription.next_batch(3)]:
        await delivery.ack()
    await gauges.look()
    assert value(metrics, "consumer_lag_messages", **labels) == 0
    assert value(metrics, "consumer_ack_pending_messages", **labels) == 0
    bus.go_away()
    await gauges.look()
    assert math.isnan(value(metrics, "consumer_lag_messages", **labels))


def test_an_age_is_seconds_and_nothing_has_none() -> None:
    assert age_s(None) == 0
    assert 59 < age_s(datetime.now(UTC) - timedelta(minutes=1)) < 65
