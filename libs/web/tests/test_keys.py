"""Key files: what is in them counts as soon as it is there, and they are never there in part."""

from pathlib import Path

import pytest

from libs.files import write_whole
from libs.tests.eventually import eventually
from libs.web import keys
from libs.web.keys import Watched, jwk_of, load_public_keys, load_signing_key, new_key, public_pem


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "key"
    file.write_text("one")
    return file


@pytest.fixture
def looks_always(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys, "LOOK_EVERY_S", -1)


class Reader:
    """Reads, and notes what."""

    def __init__(self) -> None:
        self.read: list[str] = []

    def __call__(self, path: Path) -> str:
        self.read.append(path.read_text())
        if self.read[-1] == "broken":
            raise ValueError("broken")
        return self.read[-1]


@pytest.mark.usefixtures("looks_always")
def test_a_file_is_read_when_it_was_replaced_and_not_otherwise(file: Path) -> None:
    reader = Reader()
    watched = Watched(file, reader)
    assert reader.read == []
    assert [watched.value() for _ in range(3)] == ["one"] * 3
    write_whole(file, b"two")
    assert [watched.value() for _ in range(3)] == ["two"] * 3
    assert reader.read == ["one", "two"]


async def test_a_replaced_file_is_noticed_within_two_seconds(file: Path) -> None:
    watched = Watched(file, Path.read_text)
    assert watched.value() == "one"
    write_whole(file, b"two")
    assert watched.value() == "one"  # it has just looked
    await eventually(lambda: watched.value() == "two", within_s=2)


@pytest.mark.usefixtures("looks_always")
def test_a_link_that_is_turned_to_another_folder_is_noticed(tmp_path: Path) -> None:
    # This is how a Kubernetes volume brings a changed secret.
    for name, content in (("first", "one"), ("second", "two")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "key").write_text(content)
    (tmp_path / "data").symlink_to("first")
    watched = Watched(tmp_path / "data" / "key", Path.read_text)
    assert watched.value() == "one"
    (tmp_path / "turned").symlink_to("second")
    (tmp_path / "turned").replace(tmp_path / "data")
    assert watched.value() == "two"


@pytest.mark.usefixtures("looks_always")
def test_a_file_is_read_again_after_a_minute_whatever_it_looks_like(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = Reader()
    watched = Watched(file, reader)
    watched.value()
    monkeypatch.setattr(keys, "READ_EVERY_S", -1)
    watched.value()
    assert reader.read == ["one", "one"]


@pytest.mark.usefixtures("looks_always")
@pytest.mark.parametrize("content", [None, b"broken"])
def test_what_was_known_stays_known_while_the_file_cannot_be_read(file: Path, content: bytes | None) -> None:
    watched = Watched(file, Reader())
    assert (watched.value(), watched.readable) == ("one", True)
    file.unlink() if content is None else write_whole(file, content)
    for _ in range(2):
        assert (watched.value(), watched.readable) == ("one", False)
    write_whole(file, b"two")
    assert (watched.value(), watched.readable) == ("two", True)


def test_a_file_that_was_never_there_says_nothing(tmp_path: Path) -> None:
    watched = Watched(tmp_path / "nothing", Path.read_text)
    assert (watched.value(), watched.readable) == (None, False)


def test_keys_are_read_as_they_were_written(tmp_path: Path) -> None:
    private, public = tmp_path / "private.pem", tmp_path / "public.pem"
    first, second = new_key(), new_key()
    write_whole(private, keys.private_pem(first))
    write_whole(public, public_pem([second.public_key(), first.public_key()]))
    signer = load_signing_key(private)
    assert list(load_public_keys(public)) == [jwk_of(second.public_key())["kid"], signer.kid]
    assert signer.key.private_numbers() == first.private_numbers()
