"""Writes that travel together: what a transaction only writes, it sends at its end, on PostgreSQL as one statement.

Each statement is a journey to the database and back, and a transaction of one statement needs neither a begin nor a
commit of its own. A unit of work that reads nothing costs one journey, and not six.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache
from typing import Any, Final

from sqlalchemy import ColumnClause, Dialect, Executable, Table, literal_column, select
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from libs.storage.connections import Connections

_DONE: Final[ColumnClause[Any]] = literal_column("1")


class GatheringConnection:
    """What a unit of work needs of an `AsyncConnection`; it keeps writes until something else is asked, or the end.

    So whoever reads sees what was written before, and what fails, fails at the end at the latest. Within one statement
    no order holds: no write may need another to be done before, and a second one to the same table waits for the first.

    On PostgreSQL it has a connection, and a transaction, from the first statement on.
    """

    def __init__(self, connections: Connections, transacting: AsyncEngine, single: AsyncEngine | None) -> None:
        self._connections = connections
        self._transacting = transacting
        self._single = single
        self._connection: AsyncConnection | None = None
        self._kept: dict[Table, tuple[Executable, Any]] = {}
        self.dialect: Final[Dialect] = transacting.dialect

    async def keep(self, table: Table, statement: Executable, parameters: Any) -> None:
        """Take a write to a table, whose parameters are called as those of no other table."""
        if table in self._kept:
            await self.flush()
        self._kept[table] = (statement, parameters)

    async def execute(self, *arguments: Any, **options: Any) -> Any:
        """See `AsyncConnection`."""
        return await (await self._ready()).execute(*arguments, **options)

    async def scalar(self, *arguments: Any, **options: Any) -> Any:
        """See `AsyncConnection`."""
        return await (await self._ready()).scalar(*arguments, **options)

    async def stream(self, *arguments: Any, **options: Any) -> Any:
        """See `AsyncConnection`."""
        return await (await self._ready()).stream(*arguments, **options)

    async def run_sync(self, *arguments: Any, **options: Any) -> Any:
        """See `AsyncConnection`."""
        return await (await self._ready()).run_sync(*arguments, **options)

    async def exec_driver_sql(self, *arguments: Any, **options: Any) -> Any:
        """See `AsyncConnection`."""
        return await (await self._ready()).exec_driver_sql(*arguments, **options)

    async def commit(self) -> None:
        """See `AsyncConnection`: what follows is another transaction."""
        await (await self._ready()).commit()

    async def rollback(self) -> None:
        """See `AsyncConnection`: what follows is another transaction."""
        await (await self._ready()).rollback()

    async def flush(self) -> None:
        """Send what was kept."""
        if self._kept:
            await self._send(await self._opened())

    @asynccontextmanager
    async def unit(self) -> AsyncIterator[None]:
        """At the end of the block send what is still kept, and commit; after an exception nothing was."""
        async with self._connections.turn():
            try:
                if self.dialect.name == "sqlite":
                    await (await self._ready()).begin()  # there is but one writer: others wait from here on
                yield
                await self._finish()
            except BaseException:
                if self._connection is not None:
                    await self._connections.drop(self._connection)
                raise
            if self._connection is not None:
                self._connections.give_back(self._connection)

    async def _finish(self) -> None:
        if self._connection is None and self._kept and self._single is not None:
            # Nothing was asked before, so one statement is all there is: it is a transaction by itself.
            self._connection = await self._connections.take(self._single)
            await self._send(self._connection)
            return
        await self.flush()
        if self._connection is not None:
            await self._connection.commit()

    async def _ready(self) -> AsyncConnection:
        await self.flush()
        return await self._opened()

    async def _opened(self) -> AsyncConnection:
        if self._connection is None:
            self._connection = await self._connections.take(self._transacting)
        return self._connection

    async def _send(self, connection: AsyncConnection) -> None:
        kept, self._kept = list(self._kept.values()), {}
        if self.dialect.name == "sqlite":  # lives in this process: no journeys to save
            for statement, parameters in kept:
                await connection.execute(statement, parameters)
            return
        together: dict[str, Any] = {}
        for _, parameters in kept:
            together |= parameters
        await connection.execute(_as_one(*(statement for statement, _ in kept)), together)


@cache
def _as_one(*statements: Any) -> Executable:
    """Make one statement of several, in which all are carried out, or none."""
    if len(statements) == 1:
        only: Executable = statements[0]
        return only
    parts = [statement.cte(f"part_{number}") for number, statement in enumerate(statements, 1)]
    return select(_DONE).add_cte(*parts)
