"""What auth does about facts and commands: load, decide, save, publish."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from auth.domain import User
from auth.ports import AuthUnit
from libs.contracts.auth import UserRegistered
from libs.contracts.billing import AccountOpened
from libs.errors import Kind, Refusal
from libs.messaging.envelope import Event
from libs.messaging.restating import AT_ONCE, Origin, due_again, overdue_by
from libs.web.commands import Command


@dataclass(frozen=True, slots=True)
class Registration:
    """Somebody who wants to register; `fact.user_id` will be their id."""

    fact: UserRegistered
    password_hash: str


@dataclass(frozen=True, slots=True)
class Registered:
    """Somebody who registered. Whether the account is open is read after billing's answer."""

    user_id: UUID
    login: str


async def register(commands: Sequence[Command[Registration]], unit: AuthUnit) -> Sequence[Registered | Refusal]:
    """Save who registers under a login that is free, and state it."""
    users = [
        User(
            id=command.body.fact.user_id,
            login=command.body.fact.login,
            password_hash=command.body.password_hash,
            registration=command.body.fact.model_dump_json(),
            traceparent=command.trace.header,
        )
        for command in commands
    ]
    new = await unit.store.add(users, due_at=due_again(0, unit.now))
    results: list[Registered | Refusal] = []
    for user, command in zip(users, commands, strict=True):
        if user.id not in new:
            results.append(Refusal("login_taken", "somebody else has this login", Kind.CONFLICT))
            continue
        unit.publish(command.body.fact, cause=command)
        results.append(Registered(user.id, user.login))
    return results


async def on_accounts_opened(events: Sequence[Event[AccountOpened]], unit: AuthUnit) -> None:
    """Note that the accounts are open, and let the registrations that wait for it go on."""
    await unit.store.open_accounts({event.fact.user_id: event.fact.account_id for event in events})
    for event in events:
        unit.wake(event.fact.user_id)


async def restate_overdue(unit: AuthUnit, handled_until: datetime) -> None:
    """State registrations again whose account is overdue; billing answers from what it has.

    A bounded number at a time; the rest waits for the next tick.
    """
    for user in await unit.store.overdue(overdue_by(unit.now, handled_until), limit=AT_ONCE):
        if user.registration is not None:
            fact = UserRegistered.model_validate_json(user.registration)
            unit.publish(fact, cause=Origin.of(user.traceparent), restated=True)
        await unit.store.put_off(user.id, due_at=due_again(user.restated + 1, unit.now))
