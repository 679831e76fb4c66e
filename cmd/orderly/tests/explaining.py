"""What PostgreSQL did to answer each statement: the plans as they were executed, told by its own `auto_explain`.

Nothing is listed by hand. Whoever executes a statement while a `Recorder` records has it explained.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Collection, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import asyncpg
from sqlalchemy import Engine, event

from libs.local.servers import Postgres

_SETTINGS: Final = {
    "session_preload_libraries": "auto_explain",
    "auto_explain.log_min_duration": "0",
    "auto_explain.log_analyze": "on",
    "auto_explain.log_timing": "off",
    "auto_explain.log_format": "json",
    "auto_explain.log_level": "notice",  # whoever executes the statement gets its plan
    "auto_explain.log_nested_statements": "on",  # what foreign keys do
    "auto_explain.log_parameter_max_length": "0",
}


@dataclass(frozen=True, slots=True)
class Plan:
    """How a statement was executed, in which database."""

    database: str
    statement: str
    root: Mapping[str, Any]

    def nodes(self) -> Iterator[Mapping[str, Any]]:
        """All steps of the plan."""
        waiting = [self.root]
        for node in waiting:
            waiting += node.get("Plans", ())
            yield node

    def examined(self) -> Mapping[str, float]:
        """How many rows of each table were looked at, whether they were wanted or not."""
        found: dict[str, float] = {}
        for node in self.nodes():
            if "Scan" in node["Node Type"] and "Relation Name" in node:
                seen = sum(node.get(name, 0) for name in ("Actual Rows", *_REMOVED)) * node["Actual Loops"]
                found[node["Relation Name"]] = found.get(node["Relation Name"], 0) + seen
        return found


_REMOVED: Final = ("Rows Removed by Filter", "Rows Removed by Index Recheck")


@dataclass(slots=True)
class Recorder:
    """Plans, and by database one example of each statement with its parameters."""

    plans: list[Plan] = field(default_factory=list)
    examples: dict[str, dict[str, Sequence[Any]]] = field(default_factory=dict)

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Record what every SQLAlchemy engine executes on connections that are made until the end of the block."""
        event.listen(Engine, "connect", self._connected)
        event.listen(Engine, "before_cursor_execute", self._executes)
        try:
            yield
        finally:
            event.remove(Engine, "connect", self._connected)
            event.remove(Engine, "before_cursor_execute", self._executes)

    @asynccontextmanager
    async def connected(self, url: str) -> AsyncIterator[Any]:
        """Connect to a database past SQLAlchemy, and record what is executed there."""
        connection = await asyncpg.connect(url)
        try:
            self._listen(connection)
            yield connection
            await asyncio.sleep(0)  # the last plan is told in the loop's next turn
        finally:
            await connection.close()

    def _connected(self, connection: Any, _record: Any) -> None:
        self._listen(connection.driver_connection)

    def _listen(self, connection: Any) -> None:
        database = connection._params.database
        connection.add_log_listener(lambda _connection, message: self._take(database, message.message))

    def _take(self, database: str, said: str) -> None:
        _, found, document = said.partition("plan:\n")
        if found:
            plan = json.loads(document)
            self.plans.append(Plan(database, plan["Query Text"], plan["Plan"]))

    def _executes(
        self, connection: Any, _cursor: Any, statement: str, parameters: Any, _context: Any, executemany: bool
    ) -> None:
        database = connection.engine.url.database
        self.examples.setdefault(database, {})[statement] = parameters[0] if executemany else parameters


async def have_plans_told(server: Postgres, databases: Collection[str]) -> None:
    """Have everybody who connects to these databases from now on get the plan of each statement."""
    admin = await server._connect()
    try:
        for database in databases:
            for name, value in _SETTINGS.items():
                await admin.execute(f"alter database \"{database}\" set {name} = '{value}'")
    finally:
        await admin.close()


async def repeat(connection: Any, examples: Mapping[str, Sequence[Any]]) -> None:
    """Execute the examples once more on a connection with an open transaction. Nothing stays of it."""
    for statement, parameters in examples.items():
        attempt = connection.transaction()
        await attempt.start()
        try:
            await connection.fetch(statement, *parameters)
        except asyncpg.PostgresError:
            pass  # what is there already cannot be inserted
        finally:
            await attempt.rollback()


def offenders(plans: Collection[Plan], growing: Mapping[str, Collection[str]], *, at_most: int) -> list[str]:
    """Say which statements read a whole growing table, or look at more than `at_most` rows of one.

    `growing` are the tables, by database, that get longer as time passes.
    """
    found: dict[str, None] = {}  # once each, in order
    for plan in plans:
        tables = growing[plan.database]
        for node in plan.nodes():
            if node["Node Type"] == "Seq Scan" and node["Relation Name"] in tables:
                found[f"reads all of {node['Relation Name']}: {plan.statement}"] = None
        for table, rows in plan.examined().items():
            if table in tables and rows > at_most:
                found[f"looks at {rows:.0f} rows of {table}: {plan.statement}"] = None
    return list(found)
