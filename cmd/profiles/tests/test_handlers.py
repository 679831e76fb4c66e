"""Profiles' handlers over the real store, on both databases: versions grow, old facts overwrite nothing."""

from collections.abc import AsyncIterator
from dataclasses import asdict, replace
from uuid import UUID

import pytest

from libs.contracts.auth import UserRegistered
from libs.contracts.profiles import ProfileChanged
from libs.errors import Refusal
from libs.ids import uuid7
from libs.tests.units import Workbench, asked, heard, shared_database, workbench
from profiles import handlers
from profiles.app import service
from profiles.domain import Profile
from profiles.handlers import Change
from profiles.ports import Profiles, ProfilesUnit

database_url = shared_database()


@pytest.fixture
async def bench(database_url: str) -> AsyncIterator[Workbench[Profiles]]:
    async with workbench(database_url, service) as opened:
        yield opened


def registered(user: UUID | None = None) -> UserRegistered:
    return UserRegistered(
        user_id=user or uuid7(), login="ann", email="ann@example.org", first_name="Ann", last_name="Lee", phone="+49 1"
    )


async def start(bench: Workbench[Profiles]) -> Profile:
    """Start a profile."""
    fact = registered()
    await bench.hear(handlers.on_users_registered, fact)
    return await read(bench, fact.user_id)


async def read(bench: Workbench[Profiles], user: UUID) -> Profile:
    async with bench.units.read() as store:
        return (await store.find_all([user]))[user]


def stated(profile: Profile) -> ProfileChanged:
    return ProfileChanged(**asdict(profile))


async def test_a_registration_starts_a_profile_and_states_nothing(bench: Workbench[Profiles]) -> None:
    fact = registered()
    assert await bench.hear(handlers.on_users_registered, fact) == []
    profile = await read(bench, fact.user_id)
    assert profile == Profile(fact.user_id, "ann", "ann@example.org", "Ann", "Lee", "+49 1", version=0)


async def test_a_registration_that_is_delivered_again_changes_nothing(bench: Workbench[Profiles]) -> None:
    fact = registered()
    assert await bench.hear(handlers.on_users_registered, fact, fact) == []
    before = await bench.rows()
    assert len(before["profiles"]) == 1
    assert await bench.hear(handlers.on_users_registered, fact) == []
    assert await bench.hear(handlers.on_users_registered, heard(fact, restated=True), fact) == []
    assert await bench.rows() == before


async def test_a_late_registration_does_not_overwrite_a_change(bench: Workbench[Profiles]) -> None:
    profile = await start(bench)
    await bench.carry_out(handlers.change_profiles, Change(profile.user_id, {"email": "new@example.org"}))
    before = await bench.rows()
    await bench.hear(handlers.on_users_registered, registered(profile.user_id))
    assert await bench.rows() == before


async def test_versions_grow_with_every_change(bench: Workbench[Profiles]) -> None:
    profile = await start(bench)
    for version in (1, 2, 3):
        (after,) = await bench.carry_out(
            handlers.change_profiles, Change(profile.user_id, {"phone": f"+49 {version * 10}"})
        )
        assert after == replace(profile, phone=f"+49 {version * 10}", version=version)
        assert [event.fact for event in bench.stated] == [stated(after)]
        assert await read(bench, profile.user_id) == after


async def test_a_change_that_changes_nothing_states_nothing(bench: Workbench[Profiles]) -> None:
    profile = await start(bench)
    before = await bench.rows()
    for changes in ({}, {"first_name": "Ann"}, {"email": "ann@example.org", "phone": "+49 1"}):
        assert await bench.carry_out(handlers.change_profiles, Change(profile.user_id, changes)) == [profile]
        assert bench.stated == []
    assert await bench.rows() == before


async def test_changes_in_one_batch_build_on_each_other(bench: Workbench[Profiles]) -> None:
    ann, bob = await start(bench), await start(bench)
    answers = await bench.carry_out(
        handlers.change_profiles,
        Change(ann.user_id, {"first_name": "Anna"}),
        Change(bob.user_id, {"last_name": None}),
        Change(ann.user_id, {"first_name": "Anna"}),
        Change(ann.user_id, {"last_name": "Li"}),
    )
    first = replace(ann, first_name="Anna", version=1)
    last = replace(first, last_name="Li", version=2)
    other = replace(bob, last_name=None, version=1)
    assert answers == [first, other, first, last]
    assert [event.fact for event in bench.stated] == [stated(first), stated(other), stated(last)]
    assert (await read(bench, ann.user_id), await read(bench, bob.user_id)) == (last, other)


async def test_a_profile_that_is_not_there_yet_can_be_changed_later(bench: Workbench[Profiles]) -> None:
    ann = await start(bench)
    refusal, changed = await bench.carry_out(
        handlers.change_profiles, Change(uuid7(), {"phone": None}), Change(ann.user_id, {"phone": None})
    )
    assert isinstance(refusal, Refusal)
    assert refusal.transient
    assert isinstance(changed, Profile)
    assert len(bench.stated) == 1


async def test_changes_at_once_get_different_versions(bench: Workbench[Profiles]) -> None:
    ann = await start(bench)

    def changing(name: str) -> Change:
        return Change(ann.user_id, {name: "new"})

    async def first(unit: ProfilesUnit) -> None:
        await handlers.change_profiles([asked(changing("first_name"))], unit)

    async def second(unit: ProfilesUnit) -> None:
        await handlers.change_profiles([asked(changing("last_name"))], unit)

    assert await bench.overlap(first, second) is None
    both = replace(ann, first_name="new", last_name="new", version=2)
    assert await read(bench, ann.user_id) == both
    assert [event.fact for event in bench.stated] == [stated(both)]


async def test_whoever_waits_for_a_profile_is_woken(bench: Workbench[Profiles]) -> None:
    fact = registered()
    async with bench.units.begin() as unit:
        await handlers.on_users_registered([heard(fact)], unit)
    assert unit.woken == [fact.user_id]
