"""Mistakes to make on purpose, one at a time, in the code that the simulation runs: each has to be found.

They are made in memory. Each is what somebody might really write: a check forgotten, two lines the wrong way round.
"""

from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, Final
from uuid import UUID

import pytest
from sqlalchemy.dialects import sqlite

import orders.api
from billing.domain import Journal, Payment, Refund
from billing.store import SqlBooks
from libs.messaging import dead_letters, outbox
from libs.messaging.bus import Delivery
from libs.messaging.consumer import Consumer
from libs.messaging.envelope import Outgoing
from libs.messaging.own_stream import OwnStream, Standing
from libs.messaging.relay import Relay, Stored
from libs.messaging.unit import Unit, Units
from libs.web.commands import _Line
from notifications.domain import Contact
from notifications.store import SqlLetters
from notifications.tables import contacts
from orderly.simulation.broker import SimulatedBus
from orders import domain as orders_domain
from orders import handlers as orders_handlers
from orders.domain import Order, OrderStatus

Patch = pytest.MonkeyPatch


def deduplicate_nothing(patch: Patch) -> None:
    """Billing decides anew about every order it hears of."""

    async def none(_self: SqlBooks, _order_ids: Collection[UUID]) -> Mapping[UUID, Payment]:
        return {}

    async def add(self: SqlBooks, decided: Sequence[Payment]) -> None:
        known = await real(self, [payment.order_id for payment in decided])
        await really_add(self, [payment for payment in decided if payment.order_id not in known])

    real, really_add = SqlBooks.payments, SqlBooks.add_payments
    patch.setattr(SqlBooks, "payments", none)
    patch.setattr(SqlBooks, "add_payments", add)


def acknowledge_before_the_commit(patch: Patch) -> None:
    """A consumer says that it is done, and then begins."""

    async def handle(self: Consumer[Any], batch: Sequence[Delivery]) -> None:
        for delivery in batch:
            await delivery.ack()
        await real(self, batch)

    real = Consumer._handle
    patch.setattr(Consumer, "_handle", handle)


def lose_the_refund(patch: Patch) -> None:
    """Billing writes down that money went back, and moves none."""

    def refund(_self: Journal, _transfer_id: UUID, payment: Payment) -> Refund:
        return Refund(payment.order_id, payment.user_id, payment.amount_minor)

    patch.setattr(Journal, "refund", refund)


def publish_before_the_commit(patch: Patch) -> None:
    """Facts are handed to the relay before they are true."""

    @asynccontextmanager
    async def begin(self: Units[Any]) -> AsyncIterator[Unit[Any]]:
        async with real(self) as unit:
            yield unit
            self._relay.offer(unit.outgoing)

    real = Units.begin
    patch.setattr(Units, "begin", begin)


def write_no_outbox(patch: Patch) -> None:
    """Facts go to the relay's memory only, where a crash finds them."""

    async def write(_connection: Any, _messages: Sequence[Outgoing]) -> None:
        pass

    patch.setattr(outbox, "write", write)


def mark_before_the_stream_has_it(patch: Patch) -> None:
    """A publication that failed counts as published."""

    async def store(self: Relay, batch: Sequence[Outgoing]) -> Stored:
        try:
            return await real(self, batch)
        except Exception:  # noqa: BLE001 - the mistake itself
            return Stored(Standing(1, 0), batch, [1] * len(batch))

    real = Relay._store
    patch.setattr(Relay, "_store", store)


def apply_older_profiles(patch: Patch) -> None:
    """Whatever arrives last is what a contact is."""

    async def save(self: SqlLetters, newer: Sequence[Contact]) -> None:
        names = ("login", "email", "first_name", "version")
        insertion = sqlite.insert(contacts)
        changes = {name: insertion.excluded[name] for name in names}
        statement = insertion.on_conflict_do_update(index_elements=[contacts.c.user_id], set_=changes)
        rows = [{name: getattr(one, name) for name in ("user_id", *names)} for one in newer]
        await self._connection.execute(statement, rows)

    patch.setattr(SqlLetters, "save_contacts", save)


def check_no_balance(patch: Patch) -> None:
    """Billing takes what is not there."""
    patch.setattr(Journal, "_refused", lambda _self, _user_id, _amount: None)


def promise_what_is_not_so(patch: Patch) -> None:
    """An order that is pending when patience ends is answered as confirmed."""

    async def settled(order_id: UUID, edge: Any, *, look_first: bool) -> Order:
        order: Order = await real(order_id, edge, look_first=look_first)
        return replace(order, status=OrderStatus.CONFIRMED) if order.status is OrderStatus.PENDING else order

    real = orders.api._settled
    patch.setattr(orders.api, "_settled", settled)


def forget_idempotency_keys(patch: Patch) -> None:
    """No key is known again."""

    async def recorded(_self: Any, _unit: Any, _keys: Any) -> dict[bytes, Any]:
        return {}

    async def once(self: Any, commands: Sequence[Any], unit: Any, **how: Any) -> Any:
        return await real(self, [replace(command, key=None) for command in commands], unit, **how)

    real = _Line._once
    patch.setattr(_Line, "_recorded", recorded)
    patch.setattr(_Line, "_once", once)


def set_no_tombstone(patch: Patch) -> None:
    """A cancellation that overtakes its order leaves nothing behind that would keep the payment from happening."""

    async def add(self: SqlBooks, decided: Sequence[Payment]) -> None:
        await real(self, [payment for payment in decided if payment.reason != "order_cancelled"])

    real = SqlBooks.add_payments
    patch.setattr(SqlBooks, "add_payments", add)


def believe_the_stream(patch: Patch) -> None:
    """A stream of the right number counts as whole, whatever it has lost."""

    async def intact(_self: OwnStream, known: Any, state: Any) -> bool:
        return bool(state.incarnation == known.incarnation)

    async def publish(self: Any, messages: Any, *, above: int = 0) -> Any:
        return await real(self, messages, above=0 * above)

    real = SimulatedBus.publish
    patch.setattr(SimulatedBus, "publish", publish)
    patch.setattr(OwnStream, "_is_intact", intact)


def confirm_what_is_past(patch: Patch) -> None:
    """An answer moves an order, whatever has become of it meanwhile."""

    def confirm(order: Order) -> Order:
        return replace(order, status=OrderStatus.CONFIRMED)

    patch.setattr(orders_domain, "confirm", confirm)
    patch.setattr(orders_handlers, "confirm", confirm)


def never_sweep(patch: Patch) -> None:
    """What the fast path has missed stays where it is."""

    async def sweep(_self: Relay) -> bool:
        return False

    patch.setattr(Relay, "_sweep", sweep)


def give_up_at_the_first_failure(patch: Patch) -> None:
    """A batch that fails while the database is away is set aside."""

    async def process(self: Consumer[Any], batch: Sequence[Delivery], *_rest: Any) -> None:
        try:
            await self._handle(batch)
        except Exception as error:  # noqa: BLE001 - the mistake itself
            async with self._units.begin() as unit:
                for delivery in batch:
                    await dead_letters.set_aside(unit.connection, self._service, delivery, error, unit.now)
            for delivery in batch:
                await delivery.term()

    patch.setattr(Consumer, "process", process)


MUTATIONS: Final[Sequence[Callable[[Patch], None]]] = (
    deduplicate_nothing,
    acknowledge_before_the_commit,
    lose_the_refund,
    publish_before_the_commit,
    write_no_outbox,
    mark_before_the_stream_has_it,
    apply_older_profiles,
    check_no_balance,
    promise_what_is_not_so,
    forget_idempotency_keys,
    set_no_tombstone,
    believe_the_stream,
    confirm_what_is_past,
    never_sweep,
    give_up_at_the_first_failure,
)
