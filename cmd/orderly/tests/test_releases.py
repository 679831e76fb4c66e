"""What was released is kept: today's contracts break nobody, and today's code reads every message of every release."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from libs.contracts import Fact
from libs.contracts.dead_letters import DeadLetter
from libs.messaging.envelope import open_envelope
from orderly import __main__ as program
from orderly.contracts import current_version, from_yaml, yaml_of
from orderly.newman import ROOT
from orderly.releases import RELEASED, CannotRelease, breaks, release, releases
from orderly.services import SERVICES

FACTS: dict[str, type[Fact]] = {
    fact.type: fact for service in SERVICES for fact in (*service.publishes, *(line.fact for line in service.listens))
}
KEPT = sorted((ROOT / RELEASED).glob("*/messages/*.json"))


def test_the_contracts_break_nobody_who_knows_the_newest_release() -> None:
    found = breaks(ROOT)
    meant = "where that is meant, raise the version and run `just contracts release --breaking`"
    assert not found, "\n".join(["this breaks who knows the newest release:", *found, meant])


def test_there_is_a_release_and_the_project_is_not_older() -> None:
    assert releases(ROOT)
    newest, current = (
        [int(part) for part in version.split(".")] for version in (releases(ROOT)[-1], current_version())
    )
    assert newest <= current


@pytest.mark.parametrize("path", KEPT, ids=[f"{path.parts[-3]}-{path.stem}" for path in KEPT])
def test_a_message_of_any_release_is_still_understood(path: Path) -> None:
    message = json.loads(path.read_text(encoding="utf-8"))
    payload = json.dumps(message["payload"]).encode()
    kind = message["headers"]["ce-type"]
    assert kind == path.stem
    if ".dead." in kind:
        DeadLetter.model_validate_json(payload)
        return
    if kind not in FACTS:
        pytest.skip("nobody states it or listens to it any more; that this broke something was said at its release")
    event = open_envelope(FACTS[kind], payload, message["headers"])
    assert event.id == message["headers"]["ce-id"]
    assert event.fact.subject == f"{kind}.{event.fact.key}"


def test_a_release_has_a_message_of_every_type() -> None:
    newest = ROOT / RELEASED / releases(ROOT)[-1]
    kinds = {path.stem for path in (newest / "messages").iterdir()}
    stated = {
        message["name"]
        for path in newest.glob("*.yaml")
        for message in from_yaml(path.read_text(encoding="utf-8"))["components"]["messages"].values()
    }
    assert {kind if ".dead." not in kind else kind.rpartition(".")[0] for kind in kinds} == stated


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A checkout with one release, which promises a field that there is no more."""
    release(tmp_path, "1.2.3")
    path = tmp_path / RELEASED / "1.2.3" / "orders.yaml"
    document: dict[str, Any] = from_yaml(path.read_text(encoding="utf-8"))
    document["components"]["schemas"]["OrderPlaced"]["properties"]["colour"] = {"type": "string"}
    path.write_text(yaml_of(document), encoding="utf-8")
    return tmp_path


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_release_is_the_same_however_often_it_is_made(tmp_path: Path) -> None:
    paths = release(tmp_path, "1.2.3")
    first = files(tmp_path)
    assert {str(path.relative_to(tmp_path)) for path in paths} == set(first)
    assert release(tmp_path, "1.2.3") == paths
    assert files(tmp_path) == first


def test_a_release_carries_its_version(tmp_path: Path) -> None:
    release(tmp_path, "1.2.3")
    folder = tmp_path / RELEASED / "1.2.3"
    assert json.loads((folder / "openapi.json").read_text(encoding="utf-8"))["info"]["version"] == "1.2.3"
    assert from_yaml((folder / "auth.yaml").read_text(encoding="utf-8"))["info"]["version"] == "1.2.3"


@pytest.mark.parametrize("version", ["1.2.3", "1.10.0"])
def test_a_breaking_change_is_refused_and_nothing_is_written(root: Path, version: str) -> None:
    before = files(root)
    with pytest.raises(CannotRelease, match=r"(?s)who knows 1\.2\.3.*placed payload\.colour is gone.*--breaking"):
        release(root, version)
    assert files(root) == before


def test_a_breaking_change_that_is_meant_is_released(root: Path) -> None:
    release(root, "1.10.0", breaking=True)
    assert releases(root) == ["1.2.3", "1.10.0"]
    assert breaks(root) == []


def test_a_service_that_is_gone_breaks_who_listens_to_it(root: Path) -> None:
    folder = root / RELEASED / "1.2.3"
    shutil.copy(folder / "auth.yaml", folder / "bikes.yaml")
    assert "bikes is gone" in breaks(root)


@pytest.mark.parametrize(("version", "why"), [("1.2.2", "older than 1.2.3"), ("1.2", "no version"), ("", "no version")])
def test_an_older_version_and_what_is_none_are_refused(root: Path, version: str, why: str) -> None:
    with pytest.raises(CannotRelease, match=why):
        release(root, version, breaking=True)


def test_the_command_releases_and_says_why_it_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(program, "ROOT", tmp_path)
    for arguments, code in (([], 0), (["2.0.0"], 0), (["1.0.0"], 1)):
        with pytest.raises(SystemExit) as ended:
            program.main(["contracts", "release", *arguments])
        assert ended.value.code == code
    assert releases(tmp_path) == sorted({current_version(), "2.0.0"})
    said = capsys.readouterr()
    assert "asyncapi/released/2.0.0/messages/orders.order.placed.json" in said.out
    assert said.err == "1.0.0 is older than 2.0.0, which is released\n"


def test_without_a_release_nothing_is_broken(tmp_path: Path) -> None:
    assert (releases(tmp_path), breaks(tmp_path)) == ([], [])
