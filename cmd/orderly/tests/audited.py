"""A small world in five databases whose books balance, and ways to spoil it: for tests of the audit."""

import asyncio
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from libs.storage import Database
from libs.storage.migrations import migrate
from orderly.databases import sqlite_file
from orderly.services import NAMES, SERVICES

CASH: Final = "000000000000700080000000000000c1"
SALES: Final = "000000000000700080000000000000c2"

NOW: Final = "2026-11-01 12:00:00.000000"
LONG_AGO: Final = "2020-01-01 00:00:00.000000"
YOUNG: Final = "2999-01-01 00:00:00.000000"
"""Never beyond any deadline."""


def uid(number: int) -> str:
    """Make an id: 32 hexadecimal digits, which both databases take."""
    return f"{number:032x}"


def dashed(number: int) -> str:
    """Write an id as texts contain it."""
    digits = uid(number)
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


ANN, BOB = 1, 2
ACCOUNT_OF: Final = {ANN: 11, BOB: 12}
CONFIRMED, REJECTED, REFUNDED, NEVER_PAID, PENDING = 31, 32, 33, 34, 35
DEPOSIT_OF: Final = {ANN: 41, BOB: 42}
WITHDRAWAL, REFUND = 43, 44
NOTE = 60
UNKNOWN = 99


def users() -> dict[str, list[str]]:
    """Two users, in every database that must know them."""
    world: dict[str, list[str]] = {"auth": [], "profiles": [], "billing": [], "notifications": []}
    for user, name in ((ANN, "ann"), (BOB, "bob")):
        world["auth"].append(
            "insert into users (id, login, password_hash, account_id, traceparent, restated, created_at) "
            f"values ('{uid(user)}', '{name}', 'x', '{uid(ACCOUNT_OF[user])}', '', 0, '{NOW}')"
        )
        world["profiles"].append(
            f"insert into profiles (user_id, login, email, version) values ('{uid(user)}', '{name}', '{name}@x', 0)"
        )
        world["notifications"].append(
            f"insert into contacts (user_id, login, email, version) values ('{uid(user)}', '{name}', '{name}@x', 0)"
        )
    return world


def wallet(user: int, account: int, balance: int, version: int) -> str:
    """Write the statement that opens a wallet."""
    return (
        "insert into wallets (user_id, account_id, balance_minor, version, opened_at) "
        f"values ('{uid(user)}', '{uid(account)}', {balance}, {version}, '{NOW}')"
    )


def transfer(
    number: int, kind: str, user: int, moved: tuple[int, int], *, version: int, about: int | None = None
) -> str:
    """Write the statement that moves money between the right accounts: an amount, and the balance after it."""
    amount, balance = moved
    account = uid(ACCOUNT_OF[user])
    other = CASH if kind in ("deposit", "withdrawal") else SALES
    debit, credit = (other, account) if kind in ("deposit", "refund") else (account, other)
    order_id = f"'{uid(about)}'" if about else "null"
    return (
        "insert into transfers (id, kind, debit, credit, amount_minor, wallet, version, balance_minor, order_id, at) "
        f"values ('{uid(number)}', '{kind}', '{debit}', '{credit}', {amount}, '{account}', {version}, {balance}, "
        f"{order_id}, '{NOW}')"
    )


def payment(order: int, amount: int, reason: str = "") -> str:
    """Write the statement that decides on an order of Ann's: declined with a reason, accepted without."""
    outcome, why = ("declined", f"'{reason}'") if reason else ("accepted", "null")
    return (
        "insert into payments (order_id, user_id, amount_minor, outcome, reason, decided_at) "
        f"values ('{uid(order)}', '{uid(ANN)}', {amount}, '{outcome}', {why}, '{NOW}')"
    )


def refund(order: int, amount: int) -> str:
    """Write the statement that decides what goes back for an order of Ann's."""
    return (
        "insert into refunds (order_id, user_id, amount_minor, at) "
        f"values ('{uid(order)}', '{uid(ANN)}', {amount}, '{NOW}')"
    )


def order(number: int, price: int, status: str, *, reason: str = "null", back: str = "null", at: str = NOW) -> str:
    """Write the statement that places an order of Ann's."""
    return (
        "insert into orders (id, user_id, price_minor, status, reason, refunded_minor, created_at, traceparent, "
        f"restated) values ('{uid(number)}', '{uid(ANN)}', {price}, '{status}', {reason}, {back}, '{at}', '', 0)"
    )


def letter(number: int, kind: str, cause: str, *, user: int = ANN, about: int = 0) -> str:
    """Write the statement that stores a letter."""
    order_id = f"'{uid(about)}'" if about else "null"
    return (
        "insert into letters (id, user_id, kind, cause, order_id, subject, body, created_at) "
        f"values ('{uid(number)}', '{uid(user)}', '{kind}', '{cause}', {order_id}, '', '', '{NOW}')"
    )


def letter_about(number: int, kind: str, about: int) -> str:
    """Write the statement that stores a letter about an order."""
    return letter(number, kind, f"order:{dashed(about)}:{kind}", about=about)


def fact(number: int, subject: str, at: str, *, published: str = "null", sequence: int | str = "null") -> str:
    """Write the statement that states a fact."""
    when = f"'{published}'" if published != "null" else published
    return (
        "insert into outbox (id, subject, payload, headers, created_at, published_at, sequence) "
        f"values ('{uid(number)}', '{subject}', '', '', '{at}', {when}, {sequence})"
    )


def world() -> dict[str, list[str]]:
    """Everything that may happen to an order, and to money; the books balance."""
    made = users() | {"orders": []}
    made["billing"] += [
        wallet(ANN, ACCOUNT_OF[ANN], 700, 4),
        wallet(BOB, ACCOUNT_OF[BOB], 400, 2),
        transfer(DEPOSIT_OF[ANN], "deposit", ANN, (1000, 1000), version=1),
        transfer(CONFIRMED, "payment", ANN, (300, 700), version=2, about=CONFIRMED),
        transfer(REFUNDED, "payment", ANN, (200, 500), version=3, about=REFUNDED),
        transfer(REFUND, "refund", ANN, (200, 700), version=4, about=REFUNDED),
        transfer(DEPOSIT_OF[BOB], "deposit", BOB, (500, 500), version=1),
        transfer(WITHDRAWAL, "withdrawal", BOB, (100, 400), version=2),
        payment(CONFIRMED, 300),
        payment(REJECTED, 9000, "insufficient_funds"),
        payment(REFUNDED, 200),
        payment(NEVER_PAID, 10, "order_cancelled"),
        payment(PENDING, 9001, "insufficient_funds"),
        refund(REFUNDED, 200),
        refund(NEVER_PAID, 0),
    ]
    made["orders"] += [
        order(CONFIRMED, 300, "confirmed"),
        order(REJECTED, 9000, "rejected", reason="'insufficient_funds'"),
        order(REFUNDED, 200, "cancelled", back="200"),
        order(NEVER_PAID, 10, "cancelled", back="0"),
        order(PENDING, 9001, "pending", at=YOUNG),
    ]
    made["notifications"] += [
        letter_about(51, "joy", CONFIRMED),
        letter_about(52, "sorrow", REJECTED),
        letter_about(53, "joy", REFUNDED),
        letter_about(54, "cancelled", REFUNDED),
        letter_about(55, "cancelled", NEVER_PAID),
        letter(56, "deposit", f"transfer:{dashed(DEPOSIT_OF[ANN])}"),
        letter(57, "deposit", f"transfer:{dashed(DEPOSIT_OF[BOB])}", user=BOB),
        letter(NOTE, "note", f"note:{dashed(NOTE)}"),
    ]
    for service in made:
        made[service].append(fact(90, f"{service}.x.y.z", YOUNG))  # written a moment ago
    return made


async def execute(url: str, statements: Sequence[str]) -> None:
    """Change a database behind everybody's back, also in ways that SQLite's own rules forbid."""
    database = Database(url, name="spoiler", pool_size=1)
    async with database.writing() as connection:
        if database.is_sqlite:
            await connection.exec_driver_sql("pragma ignore_check_constraints=on")
        for statement in statements:
            await connection.exec_driver_sql(statement)
    await database.close()


async def made(urls: Mapping[str, str]) -> None:
    """Bring five databases up to date."""
    for service in SERVICES:
        database = Database(urls[service.name], name="maker")
        await migrate(database, service.migrations)
        await database.close()


TABLES: Final = {
    "auth": ("users",),
    "profiles": ("profiles",),
    "billing": ("wallets", "transfers", "payments", "refunds"),
    "orders": ("orders",),
    "notifications": ("contacts", "letters"),
}


async def reset(urls: Mapping[str, str], services: Sequence[str]) -> None:
    """Make databases as the world has them."""
    sound = world()
    for service in services:
        tables = (*TABLES[service], "outbox", "streams", "dead_letters")
        await execute(urls[service], [*(f"delete from {table}" for table in tables), *sound[service]])


def crowd(count: int) -> dict[str, list[str]]:
    """Write the statements that give Ann of the world, in SQLite, so many more confirmed orders of one unit each."""
    numbers = f"with recursive n (n) as (select 1 union all select n + 1 from n where n < {count}) "
    order_id, letter_id = "printf('%032x', 1000 + n)", "printf('f%031x', n)"
    cause = f"'order:00000000-0000-0000-' || substr({order_id}, 17, 4) || '-' || substr({order_id}, 21) || ':joy'"
    account = uid(ACCOUNT_OF[ANN])
    moved = f"{order_id}, 'payment', '{account}', '{SALES}', 1, '{account}', 5 + n, 700 + {count} - n, {order_id}"
    columns = "id, user_id, price_minor, status, created_at, traceparent, restated"
    placed = f"{order_id}, '{uid(ANN)}', 1, 'confirmed', '{NOW}', '', 0"
    written = f"{letter_id}, '{uid(ANN)}', 'joy', {cause}, {order_id}, null, '', '', '{NOW}'"
    return {
        "billing": [
            f"{numbers} insert into payments select {order_id}, '{uid(ANN)}', 1, 'accepted', null, '{NOW}' from n",
            f"{numbers} insert into transfers select {moved}, '{NOW}' from n",
            transfer(97, "deposit", ANN, (count, 700 + count), version=5),
            f"update wallets set version = 5 + {count} where user_id = '{uid(ANN)}'",
        ],
        "orders": [f"{numbers} insert into orders ({columns}) select {placed} from n"],
        "notifications": [
            f"{numbers} insert into letters select {written} from n",
            letter(97, "deposit", f"transfer:{dashed(97)}"),
        ],
    }


async def populate(urls: Mapping[str, str], count: int) -> None:
    """Make databases, sound ones, with so many orders and a few."""
    await made(urls)
    await reset(urls, list(urls))
    for service, statements in crowd(count).items():
        await execute(urls[service], statements)


if __name__ == "__main__":  # the figures of the decision record: python -m orderly.tests.audited FOLDER ORDERS
    folder, orders = Path(sys.argv[1]), int(sys.argv[2])
    asyncio.run(populate({name: f"sqlite:///{sqlite_file(folder, name)}" for name in NAMES}, orders))
