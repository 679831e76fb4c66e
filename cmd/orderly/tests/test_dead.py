"""``orderly dead``: what was set aside is found, shown, replayed and given up, in a terminal's words."""

import asyncio
import io
import json
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import text

import billing.app
import notifications.app
from libs.contracts.orders import OrderPlaced
from libs.ids import uuid7
from libs.local.supervisor import environment
from libs.messaging import dead_letters
from libs.messaging.consumer import MAX_ATTEMPTS, durables
from libs.messaging.jetstream import JetStream, JetStreamSettings
from libs.messaging.tests.test_dead_letters import Given
from libs.service import Service
from libs.storage import Database
from libs.storage.migrations import migrate
from libs.tests.eventually import eventually
from orderly.__main__ import main
from orderly.credentials import ensure_credentials
from orderly.databases import ANNOUNCED, sqlite_file
from orderly.dead_view import ago, legible, payload_text
from orderly.faults.broker import connected
from orderly.services import NAMES
from orderly.system import System
from orderly.tail import Seen, watching
from orderly.tests.systems import customers, running_system
from orderly.tests.test_run import PROGRAM

NOW = datetime.now(UTC)


# On databases of services that do not run


@pytest.fixture
def given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Set messages aside for a service, in the data folder that the program looks into."""
    monkeypatch.setenv("DATA_DIR", str(tmp_path))

    async def set_aside(service: Service[Any, Any], letters: Sequence[Given], error: str, age: timedelta) -> None:
        database = Database(f"sqlite:///{sqlite_file(tmp_path, service.name)}", name="test")
        await migrate(database, service.migrations)
        async with database.writing() as connection:
            for letter in letters:
                await dead_letters.set_aside(connection, service.name, letter, ValueError(error), NOW - age)
        await database.close()

    def give(service: Any, *letters: Given, error: str = "no", age: timedelta = timedelta()) -> None:
        asyncio.run(set_aside(service, letters, error, age))

    return give


class Asked:
    """The program, asked in this process."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *arguments: str) -> tuple[int, str, str]:
        """Run it; return its exit code, what it printed, and what it complained of."""
        with pytest.raises(SystemExit) as ended:
            main(["dead", *arguments])
        said = self._capsys.readouterr()
        assert isinstance(ended.value.code, int)
        return ended.value.code, said.out, said.err

    def listed(self, *arguments: str) -> list[dict[str, Any]]:
        code, out, _ = self("list", "--json", *arguments)
        assert code == 0
        found: list[dict[str, Any]] = json.loads(out)
        return found


@pytest.fixture
def ask(capsys: pytest.CaptureFixture[str]) -> Asked:
    return Asked(capsys)


def order() -> Given:
    fact = OrderPlaced(order_id=uuid7(), user_id=uuid7(), price=100)
    return Given(fact.subject, fact.model_dump_json().encode(), {"ce-id": str(uuid7())})


def test_list_shows_what_nobody_has_attended_to_by_every_filter(given: Callable[..., None], ask: Asked) -> None:
    old, new = order(), Given("orders.order.cancelled.1", b"{}")
    given(billing.app.service, old, error="deep\nwrong", age=timedelta(hours=3))
    given(notifications.app.service, new, error="shallow")
    scope = ("--service", "billing")

    for service, subject in (("billing", old.subject), ("notifications", new.subject)):
        code, out, _ = ask("list", "--service", service)
        assert code == 0
        assert subject in out
    (letter,) = ask.listed(*scope)
    assert (letter["service"], letter["subject"], letter["attempts"]) == ("billing", old.subject, 1)
    assert ask.listed(*scope, "--subject", "orders.order.placed.*", "--error", "WRONG", "--since", "4h") == [letter]
    assert ask.listed(*scope, "--since", "2h") == []
    assert ask.listed(*scope, "--error", "shallow") == []
    assert ask.listed(*scope, "--subject", "orders.order.cancelled.*") == []

    ask("discard", *scope, letter["id"], "--reason", "a test")
    assert ask.listed(*scope) == []
    assert ask("list", *scope)[1] == "no dead letters\n"
    assert [one["id"] for one in ask.listed(*scope, "--all")] == [letter["id"]]
    assert "attended" in ask("list", *scope, "--all")[1]


def test_what_cannot_be_reached_is_named_and_hides_nothing_else(
    given: Callable[..., None], ask: Asked, tmp_path: Path
) -> None:
    code, _, err = ask("list")
    assert code == 1
    assert f"no database of {', '.join(NAMES)} in" in err

    letter = order()
    given(billing.app.service, letter)
    code, out, err = ask("list")
    assert code == 1
    assert letter.subject in out
    assert f"no database of {', '.join(name for name in NAMES if name != 'billing')} in" in err
    code, _, err = ask("replay", "--all", "--yes")
    assert code == 1
    assert "--service" in err
    assert len(ask.listed("--service", "billing")) == 1


def test_show_shows_everything_however_it_is_named(given: Callable[..., None], ask: Asked) -> None:
    evil = Given(payload=b"\xff\x1b[31m", headers={"ce-id": "the event", "x": "\x1b]0;x"})
    given(billing.app.service, evil, error="it is\x1b[31m wrong")
    (letter,) = ask.listed("--service", "billing")

    for name in (letter["id"], letter["id"][:6], "the event"):
        code, out, _ = ask("show", name, "--service", "billing")
        assert code == 0
        assert "\x1b" not in out
        for shown in (letter["id"], "the event", letter["trace_id"], r"\x1b]0;x", "it is", "ff 1b 5b", "none yet"):
            assert shown in out
    code, out, _ = ask("show", letter["id"], "--json", "--service", "billing")
    assert json.loads(out)["payload_base64"] == "/xtbMzFt"


def test_a_name_that_means_none_or_several_is_refused(given: Callable[..., None], ask: Asked) -> None:
    given(billing.app.service, *(order() for _ in range(17)))
    service = ("--service", "billing")
    ids = [one["id"] for one in ask.listed(*service)]
    (digit, *_) = [name[0] for name in ids if sum(other[0] == name[0] for other in ids) > 1]

    for act in (("show",), ("replay",), ("discard", "--reason", "x")):
        code, _, err = ask(*act, "zz", *service)
        assert (code, "no dead letter has the id 'zz'" in err) == (1, True)
        code, _, err = ask(*act, digit, *service)
        assert (code, f"'{digit}' may mean" in err) == (1, True)
        assert all(name in err for name in ids if name.startswith(digit))
    assert len(ask.listed(*service)) == 17


def test_a_replay_takes_the_money_through_the_services_own_handler(given: Callable[..., None], ask: Asked) -> None:
    letter = order()
    given(billing.app.service, letter)
    service = ("--service", "billing")
    (known,) = ask.listed(*service)

    code, out, _ = ask("replay", known["id"][:7], *service, "--by", "ann")
    assert (code, "replayed" in out) == (0, True)
    assert ask.listed(*service) == []
    code, out, _ = ask("replay", known["id"][:7], *service)
    assert (code, "attended to it at" in out) == (1, True)
    assert ask("replay", known["id"][:7], *service, "--again")[0] == 0
    shown = json.loads(ask("show", known["id"], *service, "--json")[1])
    first, second = shown["acts"]
    assert (first["by"], first["what"], second["what"]) == ("ann", "replayed", "replayed")
    assert second["by"] not in ("", "ann")
    assert shown["payload"] == json.loads(letter.payload)


def test_what_fails_again_stays_and_does_not_keep_the_others(given: Callable[..., None], ask: Asked) -> None:
    bad = Given(f"orders.order.placed.{uuid7()}", b"[]")
    given(billing.app.service, order(), bad, order())

    code, out, _ = ask("replay", "--all", "--yes", "--service", "billing")

    assert code == 1
    assert "2 replayed, 1 failed" in out
    (left,) = ask.listed("--service", "billing")
    assert left["subject"] == bad.subject
    acts = json.loads(ask("show", left["id"], "--json", "--service", "billing")[1])["acts"]
    assert [act["what"] for act in acts] == ["replay_failed"]
    assert "unreadable_message" in acts[0]["note"]


def test_attending_to_several_asks_first(
    given: Callable[..., None], ask: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    given(billing.app.service, order(), order())
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))  # no terminal: nobody can be asked

    code, _, err = ask("discard", "--subject", "orders.>", "--reason", "x", "--service", "billing")
    assert code == 2
    assert "this would discard 2 dead letters (2 of billing)" in err
    ids = [one["id"] for one in ask.listed("--service", "billing")]
    assert ask("discard", *ids, "--reason", "x", "--service", "billing")[0] == 2
    assert ask("discard", *ids, "--reason", "x", "--service", "billing", "--yes")[0] == 0
    assert ask.listed("--service", "billing") == []
    code, out, _ = ask("discard", "--all", "--reason", "x", "--service", "billing", "--yes")
    assert (code, out) == (0, "no dead letter matches\n")


@pytest.mark.parametrize(
    "arguments",
    [
        ("replay",),
        ("replay", "--yes", "--service", "billing"),
        ("replay", "abc", "--all"),
        ("replay", "--all", "--error", "x"),
        ("discard", "--all"),
        ("discard", "--all", "--reason", " "),
        ("list", "--since", "yesterday"),
        ("list", "--service", "gateway"),
        ("show",),
    ],
)
def test_what_does_not_say_enough_does_nothing(ask: Asked, arguments: tuple[str, ...]) -> None:
    code, _, err = ask(*arguments)
    assert code == 2
    assert err


def test_payloads_are_written_to_be_read() -> None:
    assert payload_text(b'{"b":1,"a":"\xc3\xa9"}') == '{\n  "b": 1,\n  "a": "é"\n}'
    assert payload_text(b"plain\x1b\nlines\r") == "plain\\x1b\nlines\\r"
    assert payload_text(b"[" * 100_000).startswith("[[[")
    assert payload_text(b"\xff" * 17).splitlines()[1].startswith("000010  ff ")
    assert legible("\u202e\u200b") == "\\u202e\\u200b"  # turns text around; takes no place


def test_ages_are_said_in_their_largest_unit() -> None:
    ages = (timedelta(0), timedelta(seconds=59), timedelta(minutes=60), timedelta(days=2), -timedelta(seconds=3))
    assert [ago(NOW, NOW - age) for age in ages] == ["0s", "59s", "1h", "2d", "0s"]


# On a whole system


async def orderly_dead(system: System, *arguments: str) -> tuple[int, str]:
    """Run ``orderly dead`` as a person would; return its exit code and what it said."""
    process = await asyncio.create_subprocess_exec(
        PROGRAM,
        "dead",
        *arguments,
        env=environment(DATA_DIR=str(system.plan.data_dir), USER="ann"),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, said.decode()


WRONG_RULE = {
    "sqlite": "create trigger wrong before insert on payments begin select raise(abort, 'a wrong rule'); end",
    "postgresql": "alter table payments add constraint a_wrong_rule check (amount_minor < 0) not valid",
}
NO_WRONG_RULE = {
    "sqlite": "drop trigger wrong",
    "postgresql": "alter table payments drop constraint a_wrong_rule",
}


async def execute(system: System, statements: dict[str, str]) -> None:
    """Have billing's database changed behind its back."""
    url = system.database_url("billing")
    database = Database(url, name="test")
    async with database.writing() as connection:
        await connection.execute(text(statements[url.split(":")[0]]))
    await database.close()


async def spend_deliveries(system: System, times: int) -> None:
    """Take, and give back, what waits for billing; billing must not run meanwhile."""
    password = ensure_credentials(system.plan.data_dir / "keys").nats["billing"]
    bus = await JetStream.connect(JetStreamSettings(system.nats_url, "billing", "billing", password))
    table = billing.app.service.listens
    (durable,) = [one for one in durables("billing", table) if one.stream == "ORDERS"]
    subscription = await bus.subscribe(durable)
    for left in reversed(range(times)):
        (delivery,) = await subscription.next_batch(1)
        await delivery.nak(0 if left else 1)  # the last time it is for whoever comes next
    await subscription.close()
    await bus.close()


async def dead_subjects(system: System) -> set[str]:
    database = Database(system.database_url("billing"), name="test")
    async with database.reading() as connection:
        found = await dead_letters.find(connection, dead_letters.Wanted())
    await database.close()
    return {letter.subject for letter in found}


@pytest.mark.prove  # twenty deliveries take their time
@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
async def test_what_was_set_aside_is_attended_to_while_the_system_runs(kind: Any) -> None:
    seen: list[Seen] = []
    async with (
        running_system(kind) as system,
        customers(system) as customer,
        watching(system.nats_url, "billing.>", seen.append),
        connected(system, "orders") as orders,
    ):
        ann = await customer().arrive("200")
        (opened, *_) = [one for one in seen if one.type == "billing.account.opened"]
        user_id = UUID(json.loads(opened.payload)["user_id"])

        # One that a wrong rule of the database refuses twenty times, and one that nobody will ever read.
        wanted = OrderPlaced(order_id=uuid7(), user_id=user_id, price=150_00)
        (program,) = [one for one in system._programs() if one.name == "billing"]
        await system.supervisor.stop(["billing"])
        await execute(system, WRONG_RULE)
        await orders.jetstream().publish(wanted.subject, wanted.model_dump_json().encode(), headers={"ce-id": "wanted"})
        await spend_deliveries(system, MAX_ATTEMPTS - 1)
        garbage = f"orders.order.placed.{uuid7()}"
        await orders.jetstream().publish(
            garbage, b'{"price": "lots"}', headers={"ce-id": "garbage", "traceparent": "?"}
        )
        await system.supervisor.start(program)

        async def both_dead() -> bool:
            return await dead_subjects(system) == {wanted.subject, garbage}

        await eventually(both_dead, within_s=30)
        code, said = await orderly_dead(system, "list")
        assert (code, wanted.subject in said, garbage in said) == (0, True, True), said
        code, said = await orderly_dead(system, "show", "garbage")
        assert (code, '"price": "lots"' in said, "order_id: Field required" in said) == (0, True, True), said

        code, said = await orderly_dead(system, "replay", "wanted")
        assert (code, "IntegrityError" in said) == (1, True), said
        assert await ann.balance() == Decimal(200)
        await execute(system, NO_WRONG_RULE)
        code, said = await orderly_dead(system, "replay", "--error", "wrong", "--yes")
        assert (code, "replayed" in said) == (0, True), said
        assert await ann.balance() == Decimal(50)
        paid = f"billing.payment.accepted.{wanted.order_id}"
        await eventually(lambda: paid in [one.subject for one in seen], within_s=10)

        code, said = await orderly_dead(system, "replay", "wanted", "--again")
        assert code == 0, said
        assert await ann.balance() == Decimal(50)
        code, said = await orderly_dead(system, "discard", "--all", "--reason", "nobody can read it", "--yes")
        assert (code, "discarded" in said) == (0, True), said
        assert await orderly_dead(system, "list") == (0, "no dead letters\n")
        code, said = await orderly_dead(system, "show", "wanted", "--json")
        acts = [(act["what"], act["by"]) for act in json.loads(said)["acts"]]
        by = acts[0][1]
        assert by
        assert acts == [("replay_failed", by), ("replayed", by), ("replayed", by)]
        announced = {one.subject for one in seen if one.subject.startswith("billing.dead.order.")}
        assert announced == {
            f"billing.dead.order.{subject.rsplit('.', 1)[-1]}" for subject in (wanted.subject, garbage)
        }
    assert not (system.plan.data_dir / ANNOUNCED).exists()
