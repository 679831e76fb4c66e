"""Letters and contacts in SQL, on both databases: what the port promises, and what the database itself refuses."""

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import insert
from sqlalchemy.exc import IntegrityError

from libs.ids import uuid7
from libs.tests.units import Workbench, shared_database, workbench
from notifications import tables
from notifications.app import service
from notifications.domain import Contact, Letter, LetterKind
from notifications.ports import Letters

database_url = shared_database()
NOW = datetime(2026, 1, 1, 12, 30, 15, 123456, tzinfo=UTC)


@pytest.fixture
async def bench(database_url: str) -> AsyncIterator[Workbench[Letters]]:
    async with workbench(database_url, service) as opened:
        yield opened


def letter_to(user: UUID, **changes: Any) -> Letter:
    letter_id = uuid7()
    letter = Letter(
        id=letter_id,
        user_id=user,
        kind=LetterKind.JOY,
        cause=f"order:{letter_id}:joy",
        order_id=uuid7(),
        recipient="ann@example.org",
        subject="Grüße",
        body="Hello,\n\nit is done.",
        created_at=NOW,
    )
    return replace(letter, **changes)


def contact_of(user: UUID, version: int = 0, email: str = "ann@example.org") -> Contact:
    return Contact(user, "ann", email, "Ann", version)


async def add(bench: Workbench[Letters], *letters: Letter) -> None:
    async with bench.units.begin() as unit:
        assert set(await unit.store.add(letters)) == {letter.id for letter in letters}


async def test_a_letter_is_read_as_saved_and_by_its_owner_only(bench: Workbench[Letters]) -> None:
    ann, bob = uuid7(), uuid7()
    letter = letter_to(ann)
    bare = letter_to(bob, order_id=None, recipient=None, kind=LetterKind.NOTE)
    await add(bench, letter, bare)
    async with bench.units.read() as store:
        assert await store.page(ann, order_id=None, before=None, limit=10) == [letter]
        assert await store.page(bob, order_id=None, before=None, limit=10) == [bare]


async def test_there_is_one_letter_for_each_cause(bench: Workbench[Letters]) -> None:
    ann = uuid7()
    first = letter_to(ann)
    await add(bench, first)
    second = letter_to(ann)
    again = [replace(first, id=uuid7()), second, replace(second, id=uuid7(), body="other")]
    async with bench.units.begin() as unit:
        assert set(await unit.store.add(again)) == {second.id}
        assert set(await unit.store.add([])) == set()
    async with bench.units.read() as store:
        assert await store.page(ann, order_id=None, before=None, limit=10) == [second, first]


async def test_letters_are_listed_page_by_page_newest_first(bench: Workbench[Letters]) -> None:
    ann = uuid7()
    letters = [letter_to(ann) for _ in range(5)]
    await add(bench, *letters, letter_to(uuid7()))
    pages, before = [], None
    async with bench.units.read() as store:
        while page := await store.page(ann, order_id=None, before=before, limit=2):
            pages.append(list(page))
            before = page[-1].id
    newest_first = letters[::-1]
    assert pages == [newest_first[:2], newest_first[2:4], newest_first[4:]]


async def test_letters_about_one_order_can_be_listed(bench: Workbench[Letters]) -> None:
    ann, order = uuid7(), uuid7()
    mine = [letter_to(ann, order_id=order) for _ in range(2)]
    await add(bench, *mine, letter_to(ann), letter_to(uuid7(), order_id=order))
    async with bench.units.read() as store:
        assert await store.page(ann, order_id=order, before=None, limit=10) == mine[::-1]
        assert await store.page(ann, order_id=order, before=mine[1].id, limit=10) == mine[:1]


async def test_only_a_newer_contact_replaces_one(bench: Workbench[Letters]) -> None:
    ann, bob = uuid7(), uuid7()
    for version, email, kept in (
        (1, "one@example.org", "one@example.org"),
        (0, "zero@example.org", "one@example.org"),
        (1, "other@example.org", "one@example.org"),
        (3, "three@example.org", "three@example.org"),
        (2, "two@example.org", "three@example.org"),
    ):
        async with bench.units.begin() as unit:
            await unit.store.save_contacts([contact_of(ann, version, email), contact_of(bob)])
            known = await unit.store.contacts([ann, bob, uuid7()])
        assert known[ann].email == kept
        assert known[bob] == contact_of(bob)
        assert set(known) == {ann, bob}


async def test_every_field_of_a_newer_contact_is_saved(bench: Workbench[Letters]) -> None:
    newer = Contact(uuid7(), "annie", "annie@example.org", None, 1)
    async with bench.units.begin() as unit:
        await unit.store.save_contacts([contact_of(newer.user_id)])
        await unit.store.save_contacts([newer])
        assert await unit.store.contacts([newer.user_id]) == {newer.user_id: newer}


async def test_a_contact_somebody_waits_for_is_no_contact_yet(bench: Workbench[Letters]) -> None:
    known, awaited = contact_of(uuid7()), uuid7()
    async with bench.units.begin() as unit:
        await unit.store.save_contacts([known])
        for _ in range(2):
            found = await unit.store.contacts_to_write_to([known.user_id, awaited])
            assert found == {known.user_id: known}
        assert await unit.store.contacts([awaited]) == {}
        assert await unit.store.contacts_to_write_to([]) == {}
        arrived = contact_of(awaited)
        await unit.store.save_contacts([arrived])
        assert await unit.store.contacts_to_write_to([awaited]) == {awaited: arrived}


async def test_letters_without_recipient_are_found_and_completed(bench: Workbench[Letters]) -> None:
    ann, bob = uuid7(), uuid7()
    sent = letter_to(ann, recipient="old@example.org")
    first, second = letter_to(ann, recipient=None), letter_to(ann, recipient=None)
    waits = letter_to(bob, recipient=None)
    await add(bench, sent, second, waits, first)
    async with bench.units.begin() as unit:
        assert await unit.store.unaddressed([ann, uuid7()]) == [first, second]
        assert await unit.store.unaddressed([]) == []
        completed = [replace(letter, recipient="ann@example.org", body="Dear Ann") for letter in (first, second)]
        await unit.store.address(completed)
        await unit.store.address([])
    async with bench.units.begin() as unit:
        assert await unit.store.unaddressed([ann, bob]) == [waits]
        assert await unit.store.page(ann, order_id=None, before=None, limit=10) == [*completed[::-1], sent]


async def test_the_database_refuses_half_a_contact(bench: Workbench[Letters]) -> None:
    row = {"user_id": uuid7(), "login": "ann", "email": None, "version": 0}
    with pytest.raises(IntegrityError, match="known_contact_is_whole"):
        await bench.execute(insert(tables.contacts), [row])


@pytest.mark.parametrize(
    ("changes", "rule"),
    [({}, "cause"), ({"cause": "another", "kind": "threat"}, "letter_kind")],
    ids=["a second letter for a cause", "an unknown kind"],
)
async def test_the_database_refuses_what_breaks_the_rules(
    bench: Workbench[Letters], changes: dict[str, Any], rule: str
) -> None:
    row = {
        "id": uuid7(),
        "user_id": uuid7(),
        "kind": "joy",
        "cause": "order:1:joy",
        "order_id": None,
        "recipient": None,
        "subject": "s",
        "body": "b",
        "created_at": NOW,
    }
    with pytest.raises(IntegrityError, match=rule):
        await bench.execute(insert(tables.letters), [row, row | {"id": uuid7()} | changes])
    assert (await bench.rows())["letters"] == []
