"""Files are written whole or not at all."""

import os
from pathlib import Path

import pytest

from libs.files import write_whole


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_text("one")
    return path


def test_what_is_written_is_for_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "key"
    (tmp_path / "key.new").write_text("left by a crash")
    (tmp_path / "key.new").chmod(0o666)
    write_whole(path, b"secret")
    assert path.read_bytes() == b"secret"
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_whoever_could_read_a_file_can_read_what_takes_its_place(file: Path) -> None:
    file.chmod(0o644)
    if os.geteuid() == 0:
        os.chown(file, 10_001, 10_002)
    before = file.stat()
    write_whole(file, b"two", like=file)
    after = file.stat()
    assert (after.st_mode, after.st_uid, after.st_gid) == (before.st_mode, before.st_uid, before.st_gid)


def test_a_write_that_fails_leaves_what_was_there(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_descriptor: int) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="no space"):
        write_whole(file, b"two")
    assert file.read_text() == "one"
