"""Races that are made, not hoped for: a lock that the test holds keeps transactions of real processes at a known line.

PostgreSQL lets those who wait for a row have it in the order in which they came, so the test decides who commits first.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

import jwt
import orjson
from sqlalchemy import Row, Table, insert, select, text

from billing.tables import wallets
from libs.ids import uuid7
from libs.messaging.tables import outbox
from libs.storage import Database
from libs.tests.eventually import eventually
from notifications.tables import contacts
from orderly.system import System
from orderly.tests.systems import Customer
from orders.tables import orders

WITHIN_S: Final = 60.0
TRIES: Final = 8
NEXT_TRY_S: Final = 4.0

WAITING: Final = text(
    "select pid from pg_stat_activity where datname = current_database() and application_name = :service"
    " and wait_event_type = 'Lock' order by query_start"
)
WORKING: Final = text(
    "select count(*) from pg_stat_activity where datname = current_database() and application_name = :service"
    " and state <> 'idle'"
)


class Held:
    """A row that nobody else may change before it is released. What wants to, waits in line."""

    def __init__(self, service: str, beside: Database, lock: AsyncExitStack) -> None:
        self._service = service
        self._beside = beside
        self._lock = lock

    async def release(self) -> None:
        """Let those who wait have it, one after the other."""
        await self._lock.aclose()

    async def line(self) -> list[int]:
        """List the transactions of the service that wait for a lock, the longest waiting one first."""
        async with self._beside.reading() as connection:
            return list((await connection.execute(WAITING, {"service": self._service})).scalars())

    async def waited_for_by(self, number: int, *, otherwise: Callable[[], Awaitable[None]] | None = None) -> None:
        """Wait until so many wait for it.

        A fact may be given to the very process that waits already, where it only stands behind. The server takes
        processes in turn: `otherwise` says the fact again, until another process has it, too.
        """

        async def enough() -> bool:
            return len(await self.line()) >= number

        for _ in range(TRIES if otherwise else 0):
            try:
                return await eventually(enough, within_s=NEXT_TRY_S)
            except AssertionError:
                assert otherwise is not None
                await otherwise()
        await eventually(enough, within_s=WITHIN_S)
        return None

    async def let_the_second_pass(self) -> None:
        """Cancel what the first in line does, as a fault would: it is done again, and stands behind the second."""
        first, second = await self.line()
        async with self._beside.writing() as connection:
            await connection.execute(text("select pg_cancel_backend(:pid)"), {"pid": first})

        async def passed() -> bool:
            line = await self.line()
            return len(line) == 2 and line[0] == second

        await eventually(passed, within_s=WITHIN_S)


@asynccontextmanager
async def held(system: System, service: str, table: Table, **key: Any) -> AsyncIterator[Held]:
    """Hold a row of a service's table until the end of the block, or until it is released."""
    database = Database(system.database_url(service), name="test")
    try:
        async with AsyncExitStack() as lock:
            connection = await lock.enter_async_context(database.writing())
            row = select(table).filter_by(**key).with_for_update()
            (await connection.execute(row)).one()
            yield Held(service, database, lock)
    finally:
        await database.close()


async def rows(system: System, service: str, table: Table, **key: Any) -> Sequence[Row[Any]]:
    """Read rows of a service's table, in the order of their primary key."""
    database = Database(system.database_url(service), name="test")
    try:
        async with database.reading() as connection:
            query = select(table).filter_by(**key).order_by(*table.primary_key.columns)
            return (await connection.execute(query)).all()
    finally:
        await database.close()


async def at_rest(system: System, service: str) -> bool:
    """Whether no transaction of a service is under way."""
    database = Database(system.database_url(service), name="test")
    try:
        async with database.reading() as connection:
            return not (await connection.execute(WORKING, {"service": service})).scalar_one()
    finally:
        await database.close()


async def said(system: System, service: str, subject: str) -> Sequence[Row[Any]]:
    """Read what a service has stated on a subject, oldest first."""
    return await rows(system, service, outbox, subject=subject)


async def say_again(system: System, service: str, fact: Row[Any], **headers: str) -> None:
    """Have a service publish a fact once more, as another message; its sweep finds it as if it had been left behind."""
    message_id, now = uuid7(), datetime.now(UTC)
    again = {
        "id": message_id,
        "subject": fact.subject,
        "payload": fact.payload,
        "headers": orjson.dumps({**orjson.loads(fact.headers), "Nats-Msg-Id": str(message_id), **headers}).decode(),
        "created_at": now - timedelta(seconds=3),
    }
    database = Database(system.database_url(service), name="test")
    try:
        async with database.writing() as connection:
            await connection.execute(insert(outbox).values(**again))
    finally:
        await database.close()


def id_of(customer: Customer) -> UUID:
    """Read who a customer is from their token."""
    return UUID(jwt.decode(customer.token, options={"verify_signature": False})["sub"])


class Story:
    """What Ann does while something is held, and what becomes of it."""

    def __init__(self, system: System, ann: Customer) -> None:
        self.system = system
        self.ann = ann

    def wallet(self) -> AbstractAsyncContextManager[Held]:
        """Hold Ann's account in billing."""
        return held(self.system, "billing", wallets, user_id=id_of(self.ann))

    def order(self, order_id: str) -> AbstractAsyncContextManager[Held]:
        """Hold an order of hers in orders."""
        return held(self.system, "orders", orders, id=UUID(order_id))

    def contact(self) -> AbstractAsyncContextManager[Held]:
        """Hold her contact in notifications."""
        return held(self.system, "notifications", contacts, user_id=id_of(self.ann))

    async def newest(self) -> str:
        """Read the id of her newest order."""
        order_id: str = (await self.ann.pages("/orders"))[0]["id"]
        return order_id

    async def cancel(self, order_id: str) -> int:
        """Cancel an order."""
        return (await self.ann.call("POST", f"/orders/{order_id}/cancel"))[0]

    async def again(self, service: str, subject: str, which: int = 0, **headers: str) -> None:
        """Have a service say again what it has said about a subject."""
        await say_again(self.system, service, (await said(self.system, service, subject))[which], **headers)

    async def is_cancelled(self, order_id: str, refunded: str) -> None:
        """Wait until an order is cancelled, and so much came back for it."""
        order: dict[str, Any] = {}

        async def settled() -> bool:
            order.update((await self.ann.call("GET", f"/orders/{order_id}"))[1])
            return order["refunded"] is not None

        await eventually(settled, within_s=WITHIN_S)
        assert (order["status"], order["refunded"]) == ("cancelled", refunded)

    async def letters_are(self, order_id: str, *kinds: str) -> None:
        """Wait until there are so many letters about an order; they must be these."""
        found: list[str] = []

        async def enough() -> bool:
            _, page = await self.ann.call("GET", f"/notifications?order_id={order_id}")
            found[:] = sorted(letter["kind"] for letter in page["items"])
            return len(found) >= len(kinds)

        await eventually(enough, within_s=WITHIN_S)
        assert found == sorted(kinds)

    async def note_goes_to(self) -> str:
        """Write a note to herself; return where it went."""
        _, letter = await self.ann.call("POST", "/notifications", {"subject": "hello", "body": "me"})
        recipient: str = letter["recipient"]
        return recipient

    async def knows(self, version: int) -> None:
        """Wait until notifications has this version of her contact, and nothing else to do about it."""

        async def known() -> bool:
            found = await rows(self.system, "notifications", contacts, user_id=id_of(self.ann))
            return [row.version for row in found] == [version]

        await eventually(known, within_s=WITHIN_S)

    async def changes_address(self, address: str) -> None:
        """Change her address."""
        status, answer = await self.ann.call("PUT", f"/profiles/{self.ann.login}", {"email": address})
        assert status == 200, answer
