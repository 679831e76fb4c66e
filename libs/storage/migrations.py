"""Migrations: alembic, per service, with the tables of `libs` as a line of their own beside the service's.

Both lines are upgraded together. On PostgreSQL an advisory lock keeps replicas that start at once from
migrating at once; on SQLite ``BEGIN IMMEDIATE`` does.
"""

import asyncio
import time
from pathlib import Path
from typing import Final

import structlog
from alembic.migration import MigrationContext
from alembic.operations import Operations
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text

from libs.storage.database import Database, is_transient

SHARED = Path(__file__).parent.parent / "messaging" / "migrations"
RETRY_EVERY_S: Final = 1.0
_LOCK = 0x6F726465726C79  # "orderly"

log = structlog.get_logger()


async def migrate(database: Database, migrations: Path | None = None) -> list[str]:
    """Bring the schema up to date; return the revisions applied, oldest first (none if it was).

    Without `migrations` of a service: the tables of `libs` alone.
    """
    async with database.writing() as connection:
        if not database.is_sqlite:
            await connection.execute(text("select pg_advisory_xact_lock(:key)"), {"key": _LOCK})
        return await connection.run_sync(_upgrade, migrations)


async def migrate_when_there(database: Database, migrations: Path, *, within_s: float) -> list[str]:
    """Do what `migrate` does, trying again for so long while the database is not there, or busy."""
    deadline = time.monotonic() + within_s
    while True:
        try:
            return await migrate(database, migrations)
        except Exception as error:
            if not is_transient(error) or time.monotonic() + RETRY_EVERY_S > deadline:
                raise
            log.info("waiting", awaits="database", error=str(error).splitlines()[0] if str(error) else repr(error))
        await asyncio.sleep(RETRY_EVERY_S)


async def pending(database: Database, migrations: Path) -> list[str]:
    """List the newest revisions that the schema lacks; none when it is up to date."""
    async with database.reading() as connection:
        there = await connection.run_sync(lambda sync: MigrationContext.configure(sync).get_current_heads())
    return sorted(set(scripts_of(migrations).get_heads()) - set(there))


def scripts_of(migrations: Path | None) -> ScriptDirectory:
    """Load the two lines of migrations of a service, or the one of `libs` alone."""
    own = [migrations / "versions"] if migrations else []
    # version_locations would do, but alembic wants an env.py beside them; its parts are enough for us.
    return ScriptDirectory(migrations or SHARED, version_locations=[SHARED / "versions", *own])


def _upgrade(connection: Connection, migrations: Path | None) -> list[str]:
    scripts = scripts_of(migrations)
    applied: list[str] = []

    def steps(current: tuple[str, ...] | str, _context: MigrationContext) -> list[object]:
        revisions = scripts._upgrade_revs("heads", current)  # type: ignore[arg-type] # noqa: SLF001 - what alembic's own command does
        applied.extend(step.revision.revision for step in revisions)
        return list(revisions)

    context = MigrationContext.configure(connection, opts={"fn": steps, "transactional_ddl": True})
    with Operations.context(context):
        context.run_migrations()
    return applied
