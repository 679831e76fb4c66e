"""The migrations of every service make exactly the tables that its code believes in, on both databases."""

import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, MetaData, inspect, text

from libs.messaging.tables import METADATA as MESSAGING
from libs.service import Service
from libs.storage import Database
from libs.storage.migrations import migrate, pending, scripts_of
from libs.tests.units import shared_database
from orderly.services import SERVICES

database_url = shared_database()
EVERY_SERVICE = pytest.mark.parametrize("service", SERVICES, ids=lambda service: service.name)


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    """A database with nothing in it."""
    opened = Database(database_url, name="tests")
    async with opened.writing() as connection:
        await connection.run_sync(drop_everything)
    yield opened
    await opened.close()


def drop_everything(connection: Connection) -> None:
    for view in inspect(connection).get_view_names():
        connection.execute(text(f"drop view {view}"))
    there = MetaData()
    there.reflect(connection)
    there.drop_all(connection)


def differences(connection: Connection, service: Service[Any, Any]) -> list[Any]:
    """Compare the database with the tables as alembic's own command would."""
    context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
    return list(compare_metadata(context, [service.tables, MESSAGING]))  # type: ignore[arg-type] # takes several, says one


def shape(connection: Connection) -> dict[str, Any]:
    """Describe every table as the database sees it, with what alembic does not compare: checks and conditions."""
    found = inspect(connection)
    return {
        table: {
            "columns": [column | {"type": str(column["type"])} for column in found.get_columns(table)],
            "key": found.get_pk_constraint(table),
            "checks": sorted(str(check) for check in found.get_check_constraints(table)),
            "unique": sorted(str(rule) for rule in found.get_unique_constraints(table)),
            "indexes": {
                index["name"]: (index["column_names"], index["unique"], condition_of(dict(index), table))
                for index in found.get_indexes(table)
            },
        }
        for table in found.get_table_names()
        if table != "alembic_version"
    }


def condition_of(index: dict[str, Any], table: str) -> str:
    """Say which rows an index covers. SQLite keeps the condition as it was written, PostgreSQL in its own words."""
    conditions = [str(value) for name, value in index.get("dialect_options", {}).items() if name.endswith("_where")]
    return re.sub(rf"\b{table}\.", "", "".join(conditions)).lower()


@EVERY_SERVICE
async def test_migrations_are_applied_once_and_make_the_tables_of_the_code(
    database: Database, service: Service[Any, Any]
) -> None:
    heads = sorted(scripts_of(service.migrations).get_heads())
    assert await pending(database, service.migrations) == heads
    assert set(await migrate(database, service.migrations)) >= set(heads)
    assert await pending(database, service.migrations) == []
    assert await migrate(database, service.migrations) == []
    async with database.writing() as connection:
        assert await connection.run_sync(differences, service) == []
        by_migrations = await connection.run_sync(shape)
        await connection.run_sync(drop_everything)
        for metadata in (service.tables, MESSAGING):
            await connection.run_sync(metadata.create_all)
        by_tables = await connection.run_sync(shape)
    assert by_migrations == by_tables


@EVERY_SERVICE
def test_every_migration_is_named_after_its_service_and_number(service: Service[Any, Any]) -> None:
    folder = service.migrations / "versions"
    scripts = scripts_of(service.migrations).walk_revisions()
    own = {script.revision for script in scripts if Path(script.path).parent == folder}
    assert own == {f"{service.name}_{path.name[:4]}" for path in folder.glob("*.py")}
