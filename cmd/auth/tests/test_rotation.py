"""A rotation can be cut off anywhere and goes on, and at no time are there tokens that nobody can verify."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import libs.files
from auth import rotation
from auth.api import KEYS_KEPT_S
from auth.rotation import SETTLED_AFTER_S, CannotRotate, Rotation
from auth.settings import KeySettings
from libs.files import write_whole
from libs.web.keys import LOOK_EVERY_S, jwk_of, load_public_keys, load_signing_key, new_key, private_pem, public_pem


class Files:
    """The files of a rotation, in a folder of the test's own."""

    def __init__(self, folder: Path) -> None:
        self.private, self.public = folder / "jwt-private.pem", folder / "jwt-public.pem"
        self.next = folder / "jwt-private.next.pem"
        self.said: list[str] = []
        key = new_key()
        write_whole(self.private, private_pem(key))
        write_whole(self.public, public_pem([key.public_key()]))

    @property
    def settings(self) -> KeySettings:
        return KeySettings(jwt_private_key=self.private, jwt_public_keys=self.public, token_lifetime_s=3600)

    @property
    def signer(self) -> str:
        return load_signing_key(self.private).kid

    @property
    def verifying(self) -> list[str]:
        return list(load_public_keys(self.public))

    def rotation(self, *, settled_after_s: float = 0) -> Rotation:
        return Rotation(self.settings, settled_after_s=settled_after_s, say=self.said.append)

    def later(self, seconds: float) -> None:
        """Make everything that was done seem to have been done longer ago."""
        for file in (self.private, self.public, self.next):
            if file.exists():
                then = file.stat().st_mtime - seconds
                os.utime(file, (then, then))


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def test_the_new_key_is_published_before_it_signs_and_the_old_one_goes_last(files: Files) -> None:
    old = files.signer
    files.rotation().publish()
    assert files.signer == old
    assert files.verifying == [old, load_signing_key(files.next).kid]
    files.rotation().sign()
    new = files.signer
    assert files.verifying == [old, new]
    assert not files.next.exists()
    files.later(3600)
    files.rotation().finish()
    assert (files.signer, files.verifying) == (new, [new])
    assert new != old


def test_one_call_publishes_and_signs(files: Files) -> None:
    old = files.signer
    files.rotation().rotate()
    assert old != files.signer
    assert files.verifying == [old, files.signer]


def test_keys_are_for_their_owner_only(files: Files) -> None:
    files.public.chmod(0o644)
    files.rotation().publish()
    for file, mode in ((files.next, 0o600), (files.public, 0o644)):
        assert file.stat().st_mode & 0o777 == mode
    files.rotation().sign()
    assert files.private.stat().st_mode & 0o777 == 0o600


class Killed(BaseException):
    """The process is gone."""


def kill_at(monkeypatch: pytest.MonkeyPatch, number: int, *, after: bool) -> list[int]:
    """Let the process die just before, or just after, it replaces a file for the `number`-th time."""
    replaced: list[int] = []
    replace = libs.files.replace_durably

    def replace_or_die(new: Path, path: Path) -> None:
        replaced.append(len(replaced))
        if len(replaced) == number and not after:
            raise Killed
        replace(new, path)
        if len(replaced) == number:
            raise Killed

    for module in (libs.files, rotation):
        monkeypatch.setattr(module, "replace_durably", replace_or_die)
    return replaced


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("number", [1, 2, 3])
def test_whoever_is_killed_is_continued_by_the_next_call(
    files: Files, monkeypatch: pytest.MonkeyPatch, number: int, after: bool
) -> None:
    old = files.signer
    with monkeypatch.context() as patches:
        kill_at(patches, number, after=after)
        with pytest.raises(Killed):
            files.rotation().rotate()
    assert files.signer in files.verifying
    assert old in files.verifying
    begun = load_signing_key(files.next).kid if files.next.exists() else None
    files.rotation().rotate()
    new = files.signer
    assert (files.verifying, new != old) == ([old, new], True)
    assert begun in (new, None), "a key that was begun is not made again"
    with pytest.raises(CannotRotate):
        files.rotation().finish()


@pytest.mark.parametrize("after", [False, True])
def test_a_finish_that_is_killed_can_be_called_again(
    files: Files, monkeypatch: pytest.MonkeyPatch, after: bool
) -> None:
    files.rotation().rotate()
    files.later(3600)
    with monkeypatch.context() as patches:
        assert kill_at(patches, 1, after=after) == []
        with pytest.raises(Killed):
            files.rotation().finish()
    for _ in range(2):
        files.rotation().finish()
        assert files.verifying == [files.signer]


def test_steps_that_were_taken_change_nothing(files: Files) -> None:
    for step in (Rotation.publish, Rotation.rotate):
        step(files.rotation())
        known = files.signer, files.verifying, files.next.exists()
        step(files.rotation())
        assert (files.signer, files.verifying, files.next.exists()) == known


def test_the_old_key_stays_while_tokens_may_need_it(files: Files) -> None:
    files.rotation(settled_after_s=10).publish()
    files.later(10)
    files.rotation(settled_after_s=10).sign()
    files.later(3605)
    with pytest.raises(CannotRotate, match="may be good until"):
        files.rotation(settled_after_s=10).finish()
    assert len(files.verifying) == 2
    files.later(5)
    files.rotation(settled_after_s=10).finish()
    assert files.verifying == [files.signer]


def test_the_time_counts_from_the_last_signature_not_from_the_making_of_the_key(files: Files) -> None:
    files.rotation().publish()
    files.later(5000)
    files.rotation().sign()
    with pytest.raises(CannotRotate, match="may be good until"):
        files.rotation().finish()


def test_force_takes_the_old_key_away_at_once(files: Files) -> None:
    files.rotation().rotate()
    files.rotation().finish(force=True)
    assert files.verifying == [files.signer]


def test_nothing_is_finished_that_is_under_way(files: Files) -> None:
    files.rotation().publish()
    with pytest.raises(CannotRotate, match="under way"):
        files.rotation().finish(force=True)
    assert len(files.verifying) == 2


def test_the_next_rotation_waits_for_the_end_of_this_one_and_brings_it(files: Files) -> None:
    files.rotation().rotate()
    first = files.signer
    files.rotation().rotate()
    assert files.signer == first
    with pytest.raises(CannotRotate, match="not finished"):
        files.rotation().publish()
    files.later(3600)
    files.rotation().rotate()
    assert files.verifying == [first, files.signer]
    assert files.signer != first


def test_nobody_signs_before_everybody_has_read_the_key(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    old, slept = files.signer, []

    def sleep(seconds: float) -> None:
        assert files.signer == old
        slept.append(seconds)
        files.later(seconds)

    monkeypatch.setattr("auth.rotation.time.sleep", sleep)
    files.rotation(settled_after_s=100).rotate()
    assert sum(slept) == pytest.approx(100, abs=2)
    assert files.signer != old
    assert max(slept) <= 15
    assert max(LOOK_EVERY_S, KEYS_KEPT_S) < SETTLED_AFTER_S


def test_a_clock_that_was_set_back_does_not_make_the_wait_endless(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        files.later(200_000)

    monkeypatch.setattr("auth.rotation.time.sleep", sleep)
    files.later(-100_000)
    files.rotation(settled_after_s=10).wait()
    assert slept == [10]


def test_two_rotations_at_a_time_are_one_too_many(files: Files) -> None:
    with files.rotation().alone(), pytest.raises(CannotRotate, match="another rotation"), files.rotation().alone():
        pass
    with files.rotation().alone():
        files.rotation().rotate()


def lose_the_public_key(files: Files) -> None:
    write_whole(files.public, public_pem([new_key().public_key()]))


def add_a_stranger(files: Files) -> None:
    files.rotation().publish()
    known = [*load_public_keys(files.public).values()]
    write_whole(files.public, public_pem([known[0], new_key().public_key()]))


@pytest.mark.parametrize("spoil", [lose_the_public_key, add_a_stranger, lambda files: files.private.unlink()])
def test_what_is_not_as_it_must_be_is_said_and_left_alone(
    files: Files, spoil: Callable[[Files], Any], capsys: pytest.CaptureFixture[str]
) -> None:
    spoil(files)
    before = {file: file.read_bytes() for file in files.public.parent.iterdir()}
    assert command(files) == 1
    assert capsys.readouterr().err.startswith("cannot rotate the keys: ")
    assert {file: file.read_bytes() for file in files.public.parent.iterdir()} == before


def command(files: Files, *arguments: str) -> int:
    """Call ``auth rotate-keys`` in this process."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("JWT_PRIVATE_KEY", str(files.private))
        environment.setenv("JWT_PUBLIC_KEYS", str(files.public))
        with pytest.raises(SystemExit) as ended:
            rotation.main(["--wait", "0", *arguments])
    return int(str(ended.value.code))


def test_the_command_has_the_steps(files: Files, capsys: pytest.CaptureFixture[str]) -> None:
    old = files.signer
    assert (command(files, "--publish"), files.signer, len(files.verifying)) == (0, old, 2)
    assert (command(files), files.signer != old, len(files.verifying)) == (0, True, 2)
    assert (command(files, "--finish"), len(files.verifying)) == (1, 2)
    assert "--force" in capsys.readouterr().err
    assert (command(files, "--finish", "--force"), len(files.verifying)) == (0, 1)


def test_the_program_can_be_killed_while_it_waits(files: Files) -> None:
    environment = {"JWT_PRIVATE_KEY": str(files.private), "JWT_PUBLIC_KEYS": str(files.public)}
    program = [str(Path(sys.executable).with_name("auth")), "rotate-keys", "--wait"]
    old = files.signer
    waiting = subprocess.Popen([*program, "600"], env=environment, stdout=subprocess.PIPE, text=True)
    assert waiting.stdout is not None
    assert "can be verified" in waiting.stdout.readline()
    assert " s until " in waiting.stdout.readline()
    twice = subprocess.run([*program, "0"], env=environment, capture_output=True, text=True, check=False)
    assert (twice.returncode, files.signer) == (1, old)
    waiting.kill()
    waiting.communicate()
    following = load_signing_key(files.next).kid
    started = time.monotonic()
    subprocess.run([*program, "0.2"], env=environment, check=True, stdout=subprocess.DEVNULL)
    assert time.monotonic() - started < 30
    assert files.signer == following
    assert jwk_of(load_public_keys(files.public)[old])["kid"] == old
