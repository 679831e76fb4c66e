"""The rights that containers and clusters give: what the tables say, read by a real server."""

import subprocess
import sys
from pathlib import Path

import pytest

from libs.local.supervisor import environment
from orderly.nats_access import FILES, access_file, variable
from orderly.newman import ROOT
from orderly.services import NAMES


@pytest.mark.parametrize("file", FILES, ids=str)
def test_the_committed_rights_are_what_the_tables_say(file: Path) -> None:
    assert (ROOT / file).read_text(encoding="utf-8") == access_file(), f"{file} is stale; run `just contracts`"


def test_the_server_reads_the_rights_and_takes_passwords_from_its_environment(tmp_path: Path) -> None:
    (tmp_path / "access.conf").write_text(access_file())
    (tmp_path / "nats.conf").write_text("jetstream {}\ninclude access.conf\n")
    names = [variable(name).removeprefix("$") for name in (*NAMES, "observer")]
    for passwords, code in (({name: f"p{name}" for name in names}, 0), ({}, 1)):
        given = [str(Path(sys.executable).parent / "nats-server"), "-t", "-c", str(tmp_path / "nats.conf")]
        done = subprocess.run(given, env=environment(**passwords), check=False, capture_output=True, text=True)
        assert done.returncode == code, done.stderr
