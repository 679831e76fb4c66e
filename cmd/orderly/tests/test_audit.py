"""The audit of databases: what is sound is clean, and each thing that is spoiled is found by the right check."""

import asyncio
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest

from libs.local.servers import Postgres
from orderly.audit import CannotAudit, Limits, audit
from orderly.audit.reading import snapshot
from orderly.audit.report import OF_STREAMS, TITLES
from orderly.services import NAMES
from orderly.tests.audited import (
    ANN,
    BOB,
    CONFIRMED,
    DEPOSIT_OF,
    LONG_AGO,
    NEVER_PAID,
    NOTE,
    NOW,
    PENDING,
    REFUND,
    REFUNDED,
    REJECTED,
    SALES,
    UNKNOWN,
    dashed,
    execute,
    fact,
    letter,
    letter_about,
    made,
    refund,
    reset,
    transfer,
    uid,
    wallet,
)

Urls = Mapping[str, str]


def sound(urls: Urls) -> Urls:
    """Fill new databases; they serve the tests of this module, each of which leaves them sound."""
    asyncio.run(made(urls))
    asyncio.run(reset(urls, NAMES))
    return urls


@pytest.fixture(scope="module")
def on_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Urls:
    folder = tmp_path_factory.mktemp("audited")
    return sound({name: f"sqlite:///{folder / name}.db" for name in NAMES})


@pytest.fixture(scope="module")
def on_postgres(postgres: Postgres) -> Urls:
    secret = secrets.token_hex(4)
    return sound({name: asyncio.run(postgres.create_database(f"t{secret}{name}", secret)) for name in NAMES})


@pytest.fixture(params=["sqlite", "postgres"])
def urls(request: pytest.FixtureRequest) -> Urls:
    """Five databases. Not of the module itself: pytest would make them anew whenever the kind changes."""
    found: Urls = request.getfixturevalue(f"on_{request.param}")
    return found


async def offenders(urls: Urls, *, patience_s: float = 0) -> dict[str, list[str]]:
    """Audit, and give the ids of what is wrong by check."""
    report = await audit(urls, None, patience_s=patience_s)
    return {name: [one.id.replace("-", "") for one in found] for name, found in report.offenders().items()}


async def test_a_sound_world_is_clean_at_the_first_look(urls: Urls) -> None:
    report = await audit(urls, None)

    assert report.offenders() == {}
    assert (report.clean, report.looks) == (True, 1)
    examined = {check.name: check.examined for check in report.checks}
    assert examined == {
        "transfers_sum_to_zero": 6,
        "transfers_have_two_sides": 6,
        "wallets_equal_entries": 2,
        "wallets_without_gaps": 6,
        "wallets_not_below_zero": 2,
        "payments_moved_money": 5,
        "refunds_gave_back": 2,
        "orders_paid": 5,
        "orders_refunded": 5,
        "payments_have_orders": 5,
        "letters_of_orders": 5,
        "letters_of_deposits": 2,
        "letters_have_causes": 8,
        "orders_settled": 1,
        "users_complete": 2,
        "outbox_published": 5,
        "dead_letters_attended": 0,
        **dict.fromkeys(OF_STREAMS, 0),
    }
    assert {check.name for check in report.checks if check.skipped} == set(OF_STREAMS)


@dataclass(frozen=True)
class Spoiled:
    """One thing that is not as it must be, and who finds it."""

    service: str
    statements: tuple[str, ...]
    found: dict[str, list[str]]
    mended: tuple[str, ...] = ()
    """What puts back that which is no row."""


FIRST_DEPOSIT, SECOND_DEPOSIT = uid(DEPOSIT_OF[ANN]), uid(DEPOSIT_OF[BOB])
VIEW = (
    "create view entries (transfer_id, account_id, amount_minor, at) as select id, debit, -amount_minor, at "
    "from transfers{where} union all select id, credit, amount_minor{more}, at from transfers{where}"
)
SOUND_VIEW = VIEW.format(more="", where="")
ONE_MORE = f" + case when id = '{uid(CONFIRMED)}' then 1 else 0 end"
BALANCE_RULE = "alter table wallets drop constraint if exists wallet_never_below_zero"
DEAD = (
    "insert into dead_letters (id, event_id, subject, payload, headers, error, attempts, trace_id, created_at) "
    f"values ('dead', 'e', 'orders.order.placed.1', '', '', 'wrong', 1, '', '{NOW}')"
)

AWAITED = (
    f"update orders set created_at = '{LONG_AGO}', refunded_minor = null, restated = 1 where id = '{uid(REFUNDED)}'"
)

SPOILED: dict[str, Spoiled] = {
    "an entry of one unit more": Spoiled(
        "billing",
        ("drop view entries", VIEW.format(more=ONE_MORE, where="")),
        {"transfers_sum_to_zero": [uid(CONFIRMED), "all entries"]},
        ("drop view entries", SOUND_VIEW),
    ),
    "a transfer without entries": Spoiled(
        "billing",
        ("drop view entries", VIEW.format(more="", where=f" where id <> '{uid(CONFIRMED)}'")),
        {"transfers_sum_to_zero": [uid(CONFIRMED)], "wallets_equal_entries": [uid(ANN)]},
        ("drop view entries", SOUND_VIEW),
    ),
    "a deposit that customers paid": Spoiled(
        "billing",
        (f"update transfers set debit = '{SALES}' where id = '{SECOND_DEPOSIT}'",),
        {"transfers_have_two_sides": [SECOND_DEPOSIT]},
    ),
    "a payment that names no order": Spoiled(
        "billing",
        (f"update transfers set order_id = null where id = '{uid(CONFIRMED)}'",),
        {"transfers_have_two_sides": [uid(CONFIRMED)], "payments_moved_money": [uid(CONFIRMED)]},
    ),
    "a balance of one unit more": Spoiled(
        "billing",
        (f"update wallets set balance_minor = 401 where user_id = '{uid(BOB)}'",),
        {"wallets_equal_entries": [uid(BOB)], "wallets_without_gaps": [uid(BOB)]},
    ),
    "a balance on the way of one unit more": Spoiled(
        "billing",
        (f"update transfers set balance_minor = 1001 where id = '{FIRST_DEPOSIT}'",),
        {"wallets_without_gaps": [FIRST_DEPOSIT, uid(CONFIRMED)]},
    ),
    "a version left out": Spoiled(
        "billing",
        (
            f"update transfers set version = 5 where id = '{uid(REFUND)}'",
            f"update wallets set version = 5 where user_id = '{uid(ANN)}'",
        ),
        {"wallets_without_gaps": [uid(REFUND)]},
    ),
    "a version too high": Spoiled(
        "billing",
        (f"update wallets set version = 5 where user_id = '{uid(ANN)}'",),
        {"wallets_without_gaps": [uid(ANN)]},
    ),
    "a newest transfer that is gone": Spoiled(
        "billing",
        ("delete from transfers where kind = 'withdrawal'",),
        {"wallets_equal_entries": [uid(BOB)], "wallets_without_gaps": [uid(BOB)]},
    ),
    "a wallet below zero": Spoiled(
        "billing",
        (f"update wallets set balance_minor = -1 where user_id = '{uid(BOB)}'",),
        {
            "wallets_equal_entries": [uid(BOB)],
            "wallets_without_gaps": [uid(BOB)],
            "wallets_not_below_zero": [uid(BOB)],
        },
    ),
    "a payment of another amount": Spoiled(
        "billing",
        (f"update payments set amount_minor = 299 where order_id = '{uid(CONFIRMED)}'",),
        {"payments_moved_money": [uid(CONFIRMED)], "orders_paid": [uid(CONFIRMED)]},
    ),
    "a payment that is gone": Spoiled(
        "billing",
        (f"delete from payments where order_id = '{uid(CONFIRMED)}'",),
        {"payments_moved_money": [uid(CONFIRMED)], "orders_paid": [uid(CONFIRMED)]},
    ),
    "money taken twice": Spoiled(
        "billing",
        (
            "drop index transfer_once_per_order",
            transfer(98, "payment", ANN, (300, 400), version=5, about=CONFIRMED),
            f"update wallets set version = 5, balance_minor = 400 where user_id = '{uid(ANN)}'",
        ),
        {"payments_moved_money": [uid(CONFIRMED)]},
        (
            f"delete from transfers where id = '{uid(98)}'",
            "create unique index transfer_once_per_order on transfers (order_id, kind) where order_id is not null",
        ),
    ),
    "money given back twice": Spoiled(
        "billing",
        (
            "drop index transfer_once_per_order",
            transfer(98, "refund", ANN, (200, 900), version=5, about=REFUNDED),
            f"update wallets set version = 5, balance_minor = 900 where user_id = '{uid(ANN)}'",
        ),
        {"refunds_gave_back": [uid(REFUNDED)]},
        (
            f"delete from transfers where id = '{uid(98)}'",
            "create unique index transfer_once_per_order on transfers (order_id, kind) where order_id is not null",
        ),
    ),
    "a refund that is gone": Spoiled(
        "billing",
        (f"delete from refunds where order_id = '{uid(REFUNDED)}'",),
        {"refunds_gave_back": [uid(REFUNDED)], "orders_refunded": [uid(REFUNDED)]},
    ),
    "a refund of half": Spoiled(
        "billing",
        (f"update refunds set amount_minor = 100 where order_id = '{uid(REFUNDED)}'",),
        {"refunds_gave_back": [uid(REFUNDED)], "orders_refunded": [uid(REFUNDED)]},
    ),
    "a refund of what was not taken": Spoiled(
        "billing",
        (f"update refunds set amount_minor = 10 where order_id = '{uid(NEVER_PAID)}'",),
        {"refunds_gave_back": [uid(NEVER_PAID)], "orders_refunded": [uid(NEVER_PAID)]},
    ),
    "a refund of a confirmed order": Spoiled(
        "billing",
        (refund(CONFIRMED, 0),),
        {"refunds_gave_back": [uid(CONFIRMED)], "orders_refunded": [uid(CONFIRMED)]},
    ),
    "a payment declined for another reason": Spoiled(
        "billing",
        (f"update payments set reason = 'account_not_open' where order_id = '{uid(REJECTED)}'",),
        {"orders_paid": [uid(REJECTED)]},
    ),
    "an order of another price": Spoiled(
        "orders",
        (f"update orders set price_minor = 301 where id = '{uid(CONFIRMED)}'",),
        {"orders_paid": [uid(CONFIRMED)]},
    ),
    "an order confirmed without payment": Spoiled(
        "orders",
        (f"update orders set status = 'confirmed', reason = null where id = '{uid(REJECTED)}'",),
        {
            "orders_paid": [uid(REJECTED)],
            "letters_of_orders": [uid(REJECTED)],
            "letters_have_causes": [uid(REJECTED)],
        },
    ),
    "an order rejected although paid for": Spoiled(
        "orders",
        (f"update orders set status = 'rejected', reason = 'x' where id = '{uid(CONFIRMED)}'",),
        {
            "orders_paid": [uid(CONFIRMED)],
            "letters_of_orders": [uid(CONFIRMED)],
            "letters_have_causes": [uid(CONFIRMED)],
        },
    ),
    "an order that says that less went back": Spoiled(
        "orders",
        (f"update orders set refunded_minor = 0 where id = '{uid(REFUNDED)}'",),
        {"orders_refunded": [uid(REFUNDED)]},
    ),
    "a payment without order": Spoiled(
        "orders", (f"delete from orders where id = '{uid(PENDING)}'",), {"payments_have_orders": [uid(PENDING)]}
    ),
    "a letter that is missing": Spoiled(
        "notifications",
        (f"delete from letters where order_id = '{uid(CONFIRMED)}'",),
        {"letters_of_orders": [uid(CONFIRMED)]},
    ),
    "a letter for somebody else": Spoiled(
        "notifications",
        (f"update letters set user_id = '{uid(BOB)}' where order_id = '{uid(REJECTED)}'",),
        {"letters_of_orders": [uid(REJECTED)]},
    ),
    "a letter of another kind": Spoiled(
        "notifications",
        (letter_about(98, "sorrow", NEVER_PAID),),
        {"letters_have_causes": [uid(NEVER_PAID)]},
    ),
    "a letter of joy about an order never paid for": Spoiled(
        "notifications",
        (letter_about(98, "joy", NEVER_PAID),),
        {"letters_have_causes": [uid(NEVER_PAID)]},
    ),
    "two letters of a kind": Spoiled(
        "notifications",
        (letter(98, "joy", "again", about=CONFIRMED),),
        {"letters_of_orders": [uid(CONFIRMED)], "letters_have_causes": [uid(CONFIRMED)]},
    ),
    "a letter about no order": Spoiled(
        "notifications", (letter_about(98, "joy", UNKNOWN),), {"letters_have_causes": [uid(UNKNOWN)]}
    ),
    "a letter about an order that is pending": Spoiled(
        "notifications", (letter_about(98, "sorrow", PENDING),), {"letters_have_causes": [uid(PENDING)]}
    ),
    "a letter about a deposit that is missing": Spoiled(
        "notifications",
        (f"delete from letters where kind = 'deposit' and user_id = '{uid(BOB)}'",),
        {"letters_of_deposits": [SECOND_DEPOSIT]},
    ),
    "a letter about a deposit for somebody else": Spoiled(
        "notifications",
        (f"update letters set user_id = '{uid(ANN)}' where kind = 'deposit'",),
        {"letters_of_deposits": [SECOND_DEPOSIT]},
    ),
    "a letter about no deposit": Spoiled(
        "notifications",
        (letter(98, "deposit", f"transfer:{dashed(UNKNOWN)}"),),
        {"letters_have_causes": [uid(UNKNOWN)]},
    ),
    "a letter about a deposit that nobody can name": Spoiled(
        "notifications", (letter(98, "deposit", "transfer:mine"),), {"letters_have_causes": [uid(98)]}
    ),
    "a note with another cause": Spoiled(
        "notifications",
        ("update letters set cause = 'nothing' where kind = 'note'",),
        {"letters_have_causes": [uid(NOTE)]},
    ),
    "an order pending for years": Spoiled(
        "orders",
        (f"update orders set created_at = '{LONG_AGO}' where status = 'pending'",),
        {"orders_settled": [uid(PENDING)]},
    ),
    "a refund awaited for years": Spoiled(
        "orders",
        (AWAITED,),
        {"orders_settled": [uid(REFUNDED)]},
    ),
    "a user without profile": Spoiled(
        "profiles", (f"delete from profiles where user_id = '{uid(ANN)}'",), {"users_complete": [uid(ANN)]}
    ),
    "a user without contact": Spoiled(
        "notifications",
        (f"update contacts set version = -1 where user_id = '{uid(ANN)}'",),
        {"users_complete": [uid(ANN)]},
    ),
    "a user with another account": Spoiled(
        "auth",
        (f"update users set account_id = '{uid(UNKNOWN)}' where id = '{uid(BOB)}'",),
        {"users_complete": [uid(BOB)]},
    ),
    "a user whose account auth does not know": Spoiled(
        "auth", (f"update users set account_id = null where id = '{uid(BOB)}'",), {"users_complete": [uid(BOB)]}
    ),
    "an account of nobody": Spoiled("billing", (wallet(UNKNOWN, 98, 0, 0),), {"users_complete": [uid(UNKNOWN)]}),
    "a fact unpublished for years": Spoiled(
        "profiles", (fact(98, "profiles.a.b.c", LONG_AGO),), {"outbox_published": [uid(98)]}
    ),
    "a fact published nowhere": Spoiled(
        "auth", (fact(98, "auth.a.b.c", LONG_AGO, published=LONG_AGO),), {"outbox_published": [uid(98)]}
    ),
    "a dead letter": Spoiled("orders", (DEAD,), {"dead_letters_attended": ["dead"]}),
}


# On PostgreSQL every test run makes every statement, on sound databases; that each finds its offenders is for `prove`.
CASES = [
    *(pytest.param("sqlite", what) for what in SPOILED),
    *(pytest.param("postgres", what, marks=pytest.mark.prove) for what in SPOILED),
]


@pytest.mark.parametrize(("urls", "what"), CASES, indirect=["urls"])
async def test_what_is_spoiled_is_found_by_its_check_and_no_other(urls: Urls, what: str) -> None:
    spoiled = SPOILED[what]
    statements = spoiled.statements
    if not urls["billing"].startswith("sqlite") and what == "a wallet below zero":
        statements = (BALANCE_RULE, *statements)
    await execute(urls[spoiled.service], statements)
    try:
        assert await offenders(urls) == spoiled.found
    finally:
        await execute(urls[spoiled.service], spoiled.mended)
        await reset(urls, [spoiled.service])


def test_every_check_of_databases_has_found_something() -> None:
    assert {name for spoiled in SPOILED.values() for name in spoiled.found} == set(TITLES) - set(OF_STREAMS)


async def test_what_is_attended_to_or_waits_for_a_stream_made_anew_is_no_offender(urls: Urls) -> None:
    begun = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S.%f+00:00")
    made_anew = f"insert into streams values ('ORDERS', 2, '{begun}', 0, null)"
    attended = f"update dead_letters set attended_at = '{NOW}'"
    await execute(urls["orders"], [DEAD, attended, made_anew, fact(98, "orders.a.b.c", LONG_AGO)])
    try:
        assert await offenders(urls) == {}
    finally:
        await reset(urls, ["orders"])


async def test_what_vanishes_while_it_is_looked_at_again_was_under_way(urls: Urls) -> None:
    mending: list[asyncio.Task[None]] = []
    await execute(urls["notifications"], [f"delete from letters where order_id = '{uid(CONFIRMED)}'"])

    def mend(what: str, _rows: int) -> None:
        if what == "users" and not mending:  # the last of the first look
            mending.append(asyncio.create_task(execute(urls["notifications"], [letter_about(51, "joy", CONFIRMED)])))

    try:
        report = await audit(urls, None, patience_s=60, progress=mend)
    finally:
        await asyncio.gather(*mending)
        await reset(urls, ["notifications"])
    assert (report.clean, report.looks > 1) == (True, True)


async def test_what_stands_is_looked_at_again_and_named(urls: Urls) -> None:
    await execute(urls["notifications"], [f"delete from letters where order_id = '{uid(CONFIRMED)}'"])
    await execute(urls["orders"], [f"update orders set created_at = '{LONG_AGO}' where status = 'pending'"])
    try:
        report = await audit(urls, None, patience_s=0.1)
    finally:
        await reset(urls, ["notifications", "orders"])
    assert report.looks > 1
    assert set(report.offenders()) == {"letters_of_orders", "orders_settled"}


async def test_limits_are_what_they_are_set_to(urls: Urls) -> None:
    await execute(urls["orders"], [f"update orders set created_at = '{LONG_AGO}' where status = 'pending'"])
    try:
        patient = Limits(order=timedelta(days=36_500))
        assert (await audit(urls, None, patience_s=0, limits=patient)).clean
    finally:
        await reset(urls, ["orders"])


async def test_nothing_can_be_written_through_the_audits_connections(urls: Urls) -> None:
    for service in NAMES:
        for statement in ("delete from outbox", "create table mine (x int)"):
            async with snapshot(service, urls[service]) as taken:
                with pytest.raises(CannotAudit, match=r"read-?only"):
                    await taken.value(statement)
    assert await offenders(urls) == {}


async def test_a_snapshot_does_not_move(urls: Urls) -> None:
    async with snapshot("orders", urls["orders"]) as taken:
        await execute(urls["orders"], ["delete from orders"])
        try:
            assert await taken.value("select count(*) from orders") == 5
        finally:
            await reset(urls, ["orders"])
