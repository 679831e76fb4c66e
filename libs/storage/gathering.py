"""Writes that travel together: what a transaction only writes, it sends at its end, on PostgreSQL as one statement.

Each statement is a journey to the database and back, and a transaction of one statement needs neither a begin nor a
commit of its own. A unit of work that reads nothing costs one journey, and not six.
"""

from functools import cache
from typing import Any, Final

from sqlalchemy import ColumnClause, Executable, Table, literal_column, select
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

_DONE: Final[ColumnClause[Any]] = literal_column("1")


class GatheringConnection(AsyncConnection):
    """A connection in a transaction that keeps its writes until something else is asked, or until `finish`.

    So whoever reads sees what was written before, and what fails, fails at the end at the latest. Within one statement
    no order holds: no write may need another to be done before, and a second one to the same table waits for the first.
    """

    __slots__ = ("_kept",)

    def __init__(self, async_engine: AsyncEngine, sync_connection: Any = None) -> None:
        super().__init__(async_engine, sync_connection)
        self._kept: dict[Table, tuple[Executable, Any]] = {}

    async def keep(self, table: Table, statement: Executable, parameters: Any) -> None:
        """Take a write to a table, whose parameters are called as those of no other table."""
        if table in self._kept:
            await self.flush()
        self._kept[table] = (statement, parameters)

    async def execute(self, *arguments: Any, **options: Any) -> Any:
        """See `AsyncConnection`."""
        await self.flush()
        return await super().execute(*arguments, **options)

    async def run_sync(self, *arguments: Any, **options: Any) -> Any:
        """See `AsyncConnection`."""
        await self.flush()
        return await super().run_sync(*arguments, **options)

    async def exec_driver_sql(self, *arguments: Any, **options: Any) -> Any:
        """See `AsyncConnection`."""
        await self.flush()
        return await super().exec_driver_sql(*arguments, **options)

    async def flush(self) -> None:
        """Send what was kept."""
        if not self._kept:
            return
        kept, self._kept = list(self._kept.values()), {}
        if self.dialect.name == "sqlite":  # lives in this process: no journeys to save
            for statement, parameters in kept:
                await super().execute(statement, parameters)
            return
        together: dict[str, Any] = {}
        for _, parameters in kept:
            together |= parameters
        await super().execute(_as_one(*(statement for statement, _ in kept)), together)

    async def finish(self) -> None:
        """Send what was kept, and commit. For PostgreSQL."""
        if self._kept and not self.in_transaction():
            # Nothing was asked before, so one statement is all there is: it is a transaction by itself.
            await self.execution_options(isolation_level="AUTOCOMMIT")
        await self.flush()
        if self.in_transaction():
            await self.commit()


class GatheringEngine(AsyncEngine):
    """An engine whose connections keep their writes."""

    _connection_cls = GatheringConnection


@cache
def _as_one(*statements: Any) -> Executable:
    """Make one statement of several, in which all are carried out, or none."""
    if len(statements) == 1:
        only: Executable = statements[0]
        return only
    parts = [statement.cte(f"part_{number}") for number, statement in enumerate(statements, 1)]
    return select(_DONE).add_cte(*parts)
