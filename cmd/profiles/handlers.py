"""What profiles does about facts and commands: load, decide, save, publish."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from uuid import UUID

from libs.contracts.auth import UserRegistered
from libs.contracts.profiles import ProfileChanged
from libs.errors import Refusal, unavailable
from libs.messaging.envelope import Event
from libs.web.commands import Command
from profiles.domain import Profile, change
from profiles.ports import ProfilesUnit


@dataclass(frozen=True, slots=True)
class Change:
    """What somebody wants to be different in their own profile; a field that is not named stays."""

    user_id: UUID
    changes: Mapping[str, str | None] = field(default_factory=dict)


async def on_users_registered(events: Sequence[Event[UserRegistered]], unit: ProfilesUnit) -> None:
    """Start the profiles of those who registered."""
    await unit.store.add([_first(event.fact) for event in events])
    for event in events:
        unit.wake(event.fact.user_id)


async def change_profiles(commands: Sequence[Command[Change]], unit: ProfilesUnit) -> Sequence[Profile | Refusal]:
    """Apply changes one after the other, and state what each left."""
    known = dict(await unit.store.lock({command.body.user_id for command in commands}))
    changed: dict[UUID, Profile] = {}
    results: list[Profile | Refusal] = []
    for command in commands:
        profile = known.get(command.body.user_id)
        if profile is None:
            results.append(unavailable("this profile"))
            continue
        after = change(profile, dict(command.body.changes))
        if after is not None:
            known[profile.user_id] = changed[profile.user_id] = after
            unit.publish(_stated(after), cause=command)
        results.append(after or profile)
    await unit.store.save(list(changed.values()))
    return results


def _first(fact: UserRegistered) -> Profile:
    return Profile(
        user_id=fact.user_id,
        login=fact.login,
        email=fact.email,
        first_name=fact.first_name,
        last_name=fact.last_name,
        phone=fact.phone,
    )


def _stated(profile: Profile) -> ProfileChanged:
    return ProfileChanged(
        user_id=profile.user_id,
        login=profile.login,
        email=profile.email,
        first_name=profile.first_name,
        last_name=profile.last_name,
        phone=profile.phone,
        version=profile.version,
    )
