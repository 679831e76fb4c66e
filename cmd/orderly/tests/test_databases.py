"""Where the databases are: what the environment, a running system, and the folder of a stopped one say."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import billing.app
from libs.storage import Database
from libs.storage.migrations import migrate
from orderly.databases import ANNOUNCED, announce, nats_url, opened, sqlite_file, urls, withdraw
from orderly.settings import Settings

BILLING = billing.app.service


def test_the_environment_goes_before_the_running_system_and_that_before_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(data_dir=tmp_path)
    assert urls(settings, ["billing"]) == {}

    file = sqlite_file(tmp_path, "billing")
    file.parent.mkdir()
    file.touch()
    assert urls(settings, ["billing", "orders"]) == {"billing": f"sqlite:///{file}"}

    announce(tmp_path, {"billing": "postgresql://running"})
    assert urls(settings, ["billing"]) == {"billing": "postgresql://running"}

    monkeypatch.setenv("BILLING_DATABASE_URL", "postgresql://told")
    assert urls(settings, ["billing"]) == {"billing": "postgresql://told"}
    monkeypatch.delenv("BILLING_DATABASE_URL")

    withdraw(tmp_path)
    assert urls(settings, ["billing"]) == {"billing": f"sqlite:///{file}"}


def test_the_nats_servers_are_those_that_share_streams_with_the_one_at_the_port(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, nats_port=4333)
    assert nats_url(settings) == "nats://127.0.0.1:4333"

    three = "nats://127.0.0.1:4333,nats://127.0.0.1:50001,nats://127.0.0.1:50002"
    announce(tmp_path, {}, three)
    assert nats_url(settings) == three
    assert nats_url(Settings(data_dir=tmp_path, nats_port=433)) == "nats://127.0.0.1:433"

    withdraw(tmp_path)
    assert nats_url(settings) == "nats://127.0.0.1:4333"


def test_only_its_owner_can_read_what_a_system_announces(tmp_path: Path) -> None:
    announce(tmp_path, {"billing": "postgresql://billing:secret@127.0.0.1/billing"})
    assert (tmp_path / ANNOUNCED).stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("content", [b"", b"[]", b'{"pid": "x", "urls": {"billing": "postgresql://x"}}'])
def test_an_announcement_that_makes_no_sense_is_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / ANNOUNCED).write_bytes(content)
    assert urls(Settings(data_dir=tmp_path), ["billing"]) == {}
    withdraw(tmp_path)


def test_a_system_that_was_killed_announces_nothing_and_takes_nothing_of_another_back(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    (tmp_path / ANNOUNCED).write_text(json.dumps({"pid": process.pid, "urls": {"billing": "postgresql://gone"}}))
    assert urls(Settings(data_dir=tmp_path), ["billing"]) == {}

    (tmp_path / ANNOUNCED).write_text(json.dumps({"pid": os.getppid(), "urls": {"billing": "postgresql://other"}}))
    withdraw(tmp_path)
    assert urls(Settings(data_dir=tmp_path), ["billing"]) == {"billing": "postgresql://other"}


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("", "there is no database of billing in"),
        ("nonsense", "the database of billing: must be sqlite:///path or postgresql://"),
        ("sqlite:////nowhere/billing.db", "the database of billing is not there: /nowhere/billing.db"),
        ("postgresql://billing:secret@127.0.0.1:1/billing", "the database of billing cannot be reached"),
    ],
)
async def test_a_database_that_cannot_be_reached_is_named_without_its_password(
    tmp_path: Path, url: str, complaint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BILLING_DATABASE_URL", url)
    async with opened(Settings(data_dir=tmp_path), [BILLING]) as (reached, complaints):
        assert reached == []
        (said,) = complaints
    assert said.startswith(complaint)
    assert "secret" not in said
    assert not Path("/nowhere").exists()


async def test_a_database_that_lacks_a_migration_is_not_touched(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{sqlite_file(tmp_path, 'billing')}", name="test")
    await database.ping()
    settings = Settings(data_dir=tmp_path)
    async with opened(settings, [BILLING]) as (reached, complaints):
        assert reached == []
        assert complaints[0].startswith("the database of billing lacks billing_0001, messaging_0003; run ")

    await migrate(database, BILLING.migrations)
    async with opened(settings, [BILLING]) as (reached, complaints):
        assert (len(reached), complaints) == (1, [])
        assert reached[0][0] is BILLING
    await database.close()
