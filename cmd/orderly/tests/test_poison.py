"""A message that kills whoever handles it, in real processes: set aside after 20 deliveries, and nobody with it."""

import sys
from dataclasses import replace

import pytest

from libs.messaging import dead_letters
from libs.messaging.consumer import MAX_ATTEMPTS
from libs.storage import Database
from libs.tests.eventually import eventually
from notifications.tables import letters
from orderly.system import System
from orderly.tests.poisoned import POISON
from orderly.tests.racing import rows
from orderly.tests.systems import Customer, assert_the_books_balance, customers, running_system
from orderly.tests.test_dead import orderly_dead

NEIGHBOURS = 6
"""Orders whose letters come in one batch with the poison."""

WITHIN_S = 180.0


async def set_aside(system: System) -> list[dead_letters.DeadLetter]:
    """Read what notifications has set aside."""
    database = Database(system.database_url("notifications"), name="test")
    try:
        async with database.reading() as connection:
            return await dead_letters.find(connection, dead_letters.Wanted())
    finally:
        await database.close()


async def joyful(system: System) -> dict[str, str | None]:
    """Read which orders have a letter of joy, and who gets it. From the database: who answers HTTP is dying."""
    written = await rows(system, "notifications", letters, kind="joy")
    return {str(letter.order_id): letter.recipient for letter in written}


def lives(system: System) -> int:
    """Count how often notifications has begun to live."""
    return (system.logs / "notifications.log").read_text().count('"event":"ready"')


async def confirmed(ann: Customer, description: str) -> str:
    """Place an order that is confirmed; return its id."""
    status, order = await ann.call("POST", "/orders", {"price": "1", "description": description})
    assert (status, order["status"]) == (201, "confirmed")
    order_id: str = order["id"]
    return order_id


@pytest.mark.prove
@pytest.mark.timeout(400)
async def test_what_kills_its_process_is_set_aside_alone_and_replayed_once_it_is_mended() -> None:
    async with running_system("postgres") as system, customers(system) as customer:
        ann = await customer().arrive("100")
        (healthy,) = [program for program in system._programs() if program.name == "notifications"]
        poisoned = replace(healthy, argv=[sys.executable, "-m", "orderly.tests.poisoned", "notifications"])
        await system.supervisor.stop(["notifications"])
        before = [await confirmed(ann, "a lamp") for _ in range(NEIGHBOURS // 2)]
        poison = await confirmed(ann, POISON)
        neighbours = {*before, *[await confirmed(ann, "a lamp") for _ in range(NEIGHBOURS // 2)]}
        await system.supervisor.start(poisoned)

        # What comes later is not kept waiting, however often the poison has still to be tried.
        await eventually(lambda: lives(system) > 2, within_s=WITHIN_S)
        later = await confirmed(ann, "a chair")

        async def is_written() -> bool:
            return later in await joyful(system)

        await eventually(is_written, within_s=WITHIN_S)
        assert await set_aside(system) == []

        async def over() -> bool:
            return bool(await set_aside(system))

        await eventually(over, within_s=WITHIN_S)
        (letter,) = await set_aside(system)
        assert (letter.subject, letter.attempts) == (f"orders.order.confirmed.{poison}", MAX_ATTEMPTS + 1)
        assert "not even to an error" in letter.error

        async def all_written() -> bool:
            return (await joyful(system)).keys() == neighbours | {later}

        await eventually(all_written, within_s=WITHIN_S)

        # Mended: the letter is what it would have been, and there is one, however often it is asked for.
        await system.supervisor.stop(["notifications"])
        await system.supervisor.start(healthy)
        for again in ((), ("--again",)):
            code, said = await orderly_dead(system, "replay", letter.id, *again)
            assert (code, "replayed" in said) == (0, True), said
            assert await joyful(system) == dict.fromkeys(neighbours | {later, poison}, f"{ann.login}@example.org")
        await system.healthy(within_s=60)
        await assert_the_books_balance(system)
