"""The profiles in SQL, on both databases: what the port promises, and what the database itself refuses."""

from collections.abc import AsyncIterator
from dataclasses import asdict, replace

import pytest
from sqlalchemy import insert
from sqlalchemy.exc import IntegrityError

from libs.ids import uuid7
from libs.tests.units import Workbench, shared_database, workbench
from profiles.app import service
from profiles.domain import Profile
from profiles.ports import Profiles
from profiles.tables import profiles

database_url = shared_database()


@pytest.fixture
async def bench(database_url: str) -> AsyncIterator[Workbench[Profiles]]:
    async with workbench(database_url, service) as opened:
        yield opened


def profile_called(login: str) -> Profile:
    return Profile(uuid7(), login, f"{login}@example.org", "Jörg 🙂", None, "+49 1")


async def test_a_profile_is_read_as_saved(bench: Workbench[Profiles]) -> None:
    ann, bob = profile_called("ann"), profile_called("bob")
    async with bench.units.begin() as unit:
        await unit.store.add([bob, ann])
    async with bench.units.begin() as unit:
        ids = [ann.user_id, bob.user_id, uuid7()]
        assert await unit.store.find_all(ids) == {ann.user_id: ann, bob.user_id: bob}
        assert await unit.store.lock(ids) == {ann.user_id: ann, bob.user_id: bob}


async def test_who_has_a_profile_keeps_it(bench: Workbench[Profiles]) -> None:
    ann, bob = profile_called("ann"), profile_called("bob")
    async with bench.units.begin() as unit:
        await unit.store.add([ann])
        await unit.store.add([replace(ann, email="old@example.org"), bob])
        assert await unit.store.find_all([ann.user_id, bob.user_id]) == {ann.user_id: ann, bob.user_id: bob}


async def test_every_field_that_changes_is_saved_and_for_its_owner_only(bench: Workbench[Profiles]) -> None:
    ann, bob = profile_called("ann"), profile_called("bob")
    async with bench.units.begin() as unit:
        await unit.store.add([ann, bob])
    changed = replace(ann, email="new@example.org", first_name=None, last_name="Smith", phone=None, version=7)
    async with bench.units.begin() as unit:
        await unit.store.save([changed])
        await unit.store.save([])
    async with bench.units.read() as store:
        assert await store.find_all([ann.user_id, bob.user_id]) == {ann.user_id: changed, bob.user_id: bob}


async def test_the_database_refuses_a_second_profile_of_a_user(bench: Workbench[Profiles]) -> None:
    row = asdict(profile_called("ann"))
    with pytest.raises(IntegrityError):
        await bench.execute(insert(profiles), [row, row | {"login": "bob"}])
    assert await bench.rows() == {"profiles": []}
