"""Statements about many rows at once, whose text does not depend on how many.

On PostgreSQL the rows travel as one array a column. A statement for each row costs five times as much, and one whose
text grows with the rows is compiled, parsed and planned for each number of them. SQLite, which lives in the process,
takes rows one by one at 148,000 a second.

In a unit of work, what is inserted or updated without an answer is sent at its end (`libs.storage.gathering`).
"""

from collections.abc import Collection, Mapping, Sequence
from functools import cache
from typing import Any, TypeVar

from sqlalchemy import (
    Column,
    ColumnElement,
    Executable,
    Row,
    Select,
    String,
    Table,
    TableValuedAlias,
    Text,
    any_,
    bindparam,
    column,
    delete,
    func,
    insert,
    select,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.types import TypeEngine

from libs.storage.gathering import GatheringConnection

ValueT = TypeVar("ValueT")


def among(
    connection: AsyncConnection, wanted: ColumnElement[ValueT], values: Collection[ValueT]
) -> ColumnElement[bool]:
    """The condition that a column has one of the values, for a statement on this connection."""
    if connection.dialect.name == "sqlite":
        return wanted.in_(values)
    return wanted == any_(bindparam(None, list(values), type_=ARRAY(wanted.type)))


async def rows_among(
    connection: AsyncConnection, wanted: Column[ValueT], values: Collection[ValueT], *, lock: bool = False
) -> Sequence[Row[Any]]:
    """Read the rows of a table in whose column one of the values stands. With `lock` they are locked, in the column's
    order; SQLite has locked everything from the transaction's begin.

    The statement is made once: to make it costs as much as to carry it out.
    """
    if not values:
        return ()
    result = await connection.execute(_reading(wanted, connection.dialect.name, lock), {"wanted": list(values)})
    return result.all()


@cache
def _reading(wanted: Column[Any], dialect: str, lock: bool) -> Executable:
    if dialect == "sqlite":
        found = select(wanted.table).where(wanted.in_(bindparam("wanted", type_=wanted.type, expanding=True)))
    else:
        found = select(wanted.table).where(wanted == any_(bindparam("wanted", type_=ARRAY(wanted.type))))
    return found.order_by(wanted).with_for_update() if lock else found


async def newest_of(
    connection: AsyncConnection,
    owned_by: Column[ValueT],
    owner: ValueT,
    *,
    before: Any = None,
    limit: int,
    also: Mapping[Column[Any], Any] | None = None,
) -> Sequence[Row[Any]]:
    """Read an owner's rows by falling `id`, those below `before`, and with these values in other columns `also`."""
    others = dict(also or {})
    statement = _newest(owned_by, connection.dialect.name, before is not None, tuple(others))
    given = {f"also_{column.name}": value for column, value in others.items()} | {"most": limit}
    given |= {"owner": owner if connection.dialect.name == "sqlite" else [owner]}
    given |= {"before": before} if before is not None else {}
    return (await connection.execute(statement, given)).all()


@cache
def _newest(owned_by: Column[Any], dialect: str, below: bool, others: tuple[Column[Any], ...]) -> Executable:
    table = owned_by.table
    # One owner, written as several, and the first thing to sort by: sorted by id alone, they are read from everybody's
    # newest on, if PostgreSQL expects to meet the owner's soon.
    if dialect == "sqlite":
        found = select(table).where(owned_by == bindparam("owner", type_=owned_by.type))
    else:
        found = select(table).where(owned_by == any_(bindparam("owner", type_=ARRAY(owned_by.type))))
    if below:
        found = found.where(table.c.id < bindparam("before", type_=table.c.id.type))
    for other in others:
        found = found.where(other == bindparam(f"also_{other.name}", type_=other.type))
    return found.order_by(owned_by.desc(), table.c.id.desc()).limit(bindparam("most"))


async def insert_all(connection: AsyncConnection, table: Table, rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert rows, all with the same columns, in their order. One that is there already fails them all."""
    if not rows:
        return
    if connection.dialect.name == "sqlite":
        await _write(connection, table, _insertion_of_one(table), [dict(row) for row in rows])
    else:
        names = tuple(rows[0])
        await _write(connection, table, _insertion(table, names), _arrays(table, names, rows))


async def insert_new(
    connection: AsyncConnection, table: Table, rows: Sequence[Mapping[str, Any]], *, key: str
) -> set[Any]:
    """Insert the rows whose `key` is not there yet; return the keys that this call inserted.

    A concurrent transaction that inserted the same key first is waited for, and its row counts as there.
    """
    if not rows:
        return set()
    if connection.dialect.name == "sqlite":
        statement = sqlite.insert(table).on_conflict_do_nothing().returning(table.c[key])
        return set((await connection.execute(statement, [dict(row) for row in rows])).scalars())
    names = tuple(rows[0])
    return set((await connection.execute(_insertion_of_new(table, names, key), _arrays(table, names, rows))).scalars())


async def update_all(connection: AsyncConnection, table: Table, rows: Sequence[Mapping[str, Any]], *, key: str) -> None:
    """Give rows new values: each is found by its `key`, and gets the other columns. No key may come twice.

    The order in which rows are locked is the database's; whoever may meet others has locked them before.
    """
    if not rows:
        return
    names = tuple(rows[0])
    if connection.dialect.name == "sqlite":
        await _write(connection, table, _update_of_one(table, names, key), [_prefixed(row) for row in rows])
    else:
        await _write(connection, table, _update(table, names, key), _arrays(table, names, rows))


async def _write(connection: AsyncConnection, table: Table, statement: Executable, parameters: Any) -> None:
    """Send a write whose answer nobody needs; at the end of the unit of work, if there is one."""
    if isinstance(connection, GatheringConnection):
        await connection.keep(table, statement, parameters)
    else:
        await connection.execute(statement, parameters)


@cache
def _insertion_of_one(table: Table) -> Executable:
    return insert(table)


async def delete_found(connection: AsyncConnection, table: Table, found: Select[Any], *, key: str) -> int:
    """Delete the rows whose `key` a query finds, some hundreds at most; return how many were.

    PostgreSQL is given them as an array: for keys in a subquery it may decide to read the whole table.
    """
    wanted, keys = table.c[key], found.scalar_subquery()
    if connection.dialect.name == "sqlite":
        statement = delete(table).where(wanted.in_(keys))
    else:
        statement = delete(table).where(wanted == any_(func.array(keys, type_=ARRAY(wanted.type))))
    return (await connection.execute(statement)).rowcount


@cache
def _insertion(table: Table, names: tuple[str, ...]) -> Executable:
    return postgresql.insert(table).from_select(list(names), _given(table, names), include_defaults=False)


@cache
def _insertion_of_new(table: Table, names: tuple[str, ...], key: str) -> Executable:
    adding = postgresql.insert(table).from_select(list(names), _given(table, names), include_defaults=False)
    return adding.on_conflict_do_nothing().returning(table.c[key])


@cache
def _update(table: Table, names: tuple[str, ...], key: str) -> Executable:
    given = _unnested(table, names)
    changed = {name: given.c[name] for name in names if name != key}
    return update(table).where(table.c[key] == given.c[key]).values(changed)


@cache
def _update_of_one(table: Table, names: tuple[str, ...], key: str) -> Executable:
    changed: dict[str, Any] = {name: bindparam(f"given_{name}") for name in names if name != key}
    return update(table).where(table.c[key] == bindparam(f"given_{key}")).values(changed)


def _given(table: Table, names: tuple[str, ...]) -> Select[Any]:
    given = _unnested(table, names)
    return select(*(given.c[name] for name in names))


def _unnested(table: Table, names: tuple[str, ...]) -> TableValuedAlias:
    """Rows made of one array a column: parameters called as table and column are."""
    arrays = [bindparam(f"{table.name}_{name}", type_=ARRAY(_type_of(table, name))) for name in names]
    columns = [column(name, table.c[name].type) for name in names]
    return func.unnest(*arrays).table_valued(*columns, name="given").render_derived()


def _type_of(table: Table, name: str) -> TypeEngine[Any]:
    kind = table.c[name].type
    # A cast to VARCHAR(n) cuts off what is too long; the column refuses it.
    return Text() if isinstance(kind, String) else kind


def _arrays(table: Table, names: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    return {f"{table.name}_{name}": [row[name] for row in rows] for name in names}


def _prefixed(row: Mapping[str, Any]) -> dict[str, Any]:
    return {f"given_{name}": value for name, value in row.items()}
