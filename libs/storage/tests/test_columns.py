"""Moments mean the same in both databases."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta, timezone

import pytest
from sqlalchemy import Column, Integer, MetaData, Table, insert, select
from sqlalchemy.exc import StatementError

from libs.storage import Database, Timestamp
from libs.tests.units import shared_database

database_url = shared_database()
moments = Table("moments", MetaData(), Column("id", Integer, primary_key=True), Column("at", Timestamp))
NOON = datetime(2026, 7, 1, 12, 0, tzinfo=UTC)


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    opened = Database(database_url, name="tests")
    async with opened.writing() as connection:
        await connection.run_sync(moments.metadata.drop_all)
        await connection.run_sync(moments.metadata.create_all)
    yield opened
    await opened.close()


async def saved(database: Database, *some: datetime | None) -> list[datetime | None]:
    """Save moments, and read them again in the order of their time."""
    async with database.writing() as connection:
        await connection.execute(insert(moments), [{"id": number, "at": at} for number, at in enumerate(some)])
    async with database.reading() as connection:
        return list((await connection.execute(select(moments.c.at).order_by(moments.c.at))).scalars())


@pytest.mark.parametrize(
    "moment",
    [
        NOON,
        NOON.replace(microsecond=1),
        NOON.replace(microsecond=999_999),
        NOON.astimezone(timezone(timedelta(hours=-11, minutes=-30))),
        datetime(2026, 1, 1, 0, 30, tzinfo=timezone(timedelta(hours=14))),
    ],
)
async def test_a_moment_comes_back_as_the_same_moment_in_utc(database: Database, moment: datetime) -> None:
    (read,) = await saved(database, moment)
    assert read == moment
    assert read is not None
    assert read.tzinfo is UTC or read.utcoffset() == timedelta(0)


async def test_no_moment_stays_no_moment(database: Database) -> None:
    assert await saved(database, None) == [None]


async def test_a_moment_without_time_zone_is_refused(database: Database) -> None:
    with pytest.raises(StatementError, match="needs its time zone"):
        await saved(database, NOON.replace(tzinfo=None))


async def test_moments_sort_and_compare_by_time_whatever_their_zone(database: Database) -> None:
    east, west = timezone(timedelta(hours=9)), timezone(timedelta(hours=-9))
    in_order = [NOON + timedelta(microseconds=step) for step in (-3_600_000_000, -1, 0, 1, 10, 1_000_000)]
    zones = [east, west, UTC, east, west, UTC]
    mixed = [moment.astimezone(zone) for moment, zone in zip(in_order, zones, strict=True)]
    assert await saved(database, *mixed[::-1]) == in_order
    async with database.reading() as connection:
        query = select(moments.c.at).where(moments.c.at <= NOON.astimezone(east)).order_by(moments.c.at)
        assert list((await connection.execute(query)).scalars()) == in_order[:3]
