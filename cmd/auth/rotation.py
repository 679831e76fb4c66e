"""Rotation: a new pair of keys takes over from the old one, and no token is refused meanwhile.

The files are the state, and every step replaces one of them whole. So each step can be repeated, and whoever is
killed between two of them is continued by the next call:

====================  ===========  ============  ==========
after                 private key  next private  public keys
====================  ===========  ============  ==========
nothing, or `finish`  old          none          old
`publish`             old          new           old, new
`sign`                new          none          old, new
`finish`              new          none          new
====================  ===========  ============  ==========

When a step was taken is told by the time of the file that it wrote.
"""

import argparse
import fcntl
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Final

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from auth.settings import KeySettings
from libs.files import replace_durably, write_whole
from libs.web.keys import (
    load_public_keys,
    load_signing_key,
    new_key,
    private_pem,
    public_pem,
)

SETTLED_AFTER_S: Final = 10.0
"""How long to wait until everybody has read a replaced file: services notice within a second, and whoever asks for
``jwks.json`` may keep it for five."""

SAY_EVERY_S: Final = 15.0


class CannotRotate(Exception):
    """Why a step was not taken; nothing was changed by it."""


class Rotation:
    """The steps, each of which may be taken again. `say` gets a sentence for whatever is done or awaited."""

    def __init__(self, settings: KeySettings, *, settled_after_s: float, say: Callable[[str], None]) -> None:
        self._private = settings.jwt_private_key.resolve()
        self._public = settings.jwt_public_keys.resolve()
        self._next = self._private.with_suffix(f".next{self._private.suffix}")
        self._lifetime_s = settings.token_lifetime_s
        self._settled_after_s = settled_after_s
        self._say = say

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep other rotations of these files out. Raises `CannotRotate` while there is one."""
        folder = os.open(self._private.parent, os.O_RDONLY)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield
        except BlockingIOError:
            raise CannotRotate("another rotation of these keys is under way") from None
        finally:
            os.close(folder)

    def rotate(self) -> None:
        """Publish, wait, sign. What an earlier rotation has left is finished first, when its time has come."""
        if not self._next.exists() and len(self._verifying()) > 1:
            left_s = self._old_key_needed_s()
            if left_s > 0:
                self._say(_signs(self._signer(), left_s))
                return
            self.finish()
        self.publish()
        self.wait()
        self.sign()

    def publish(self) -> None:
        """Make the next pair, and put its public key beside the current one."""
        signer, verifying = self._signer(), self._verifying()
        if not self._next.exists():
            if len(verifying) > 1:
                raise CannotRotate("the rotation before is not finished: take its step --finish first")
            write_whole(self._next, private_pem(new_key()), like=self._private)
        following = load_signing_key(self._next)
        if following.kid not in verifying:
            if set(verifying) != {signer}:
                raise CannotRotate(f"{self._public} has keys that belong to no rotation: {', '.join(verifying)}")
            self._publish([verifying[signer], following.key.public_key()])
        self._say(f"key {following.kid} can be verified, beside {signer}")

    def wait(self) -> None:
        """Wait until everybody who verifies tokens has surely read what was published."""
        while (left_s := self._public.stat().st_mtime + self._settled_after_s - time.time()) > 0:
            left_s = min(left_s, self._settled_after_s)  # a clock that was set back must not make this endless
            self._say(f"{left_s:.0f} s until all have read it")
            time.sleep(min(left_s, SAY_EVERY_S))

    def sign(self) -> None:
        """Make the next private key the current one. Only for a key that was published, and long enough ago."""
        following = load_signing_key(self._next)
        if following.kid not in self._verifying():
            raise CannotRotate(f"key {following.kid} was not published")
        os.utime(self._next)  # from now on counts how long the old key is needed
        replace_durably(self._next, self._private)
        self._say(_signs(following.kid, self._old_key_needed_s()))

    def finish(self, *, force: bool = False) -> None:
        """Take the old public key away. Raises `CannotRotate` while tokens that it verifies may be good."""
        signer, verifying = self._signer(), self._verifying()
        if self._next.exists():
            raise CannotRotate("the rotation is under way: call it without --finish first")
        if set(verifying) == {signer}:
            self._say(f"key {signer} is the only one")
            return
        left_s = self._old_key_needed_s()
        if left_s > 0 and not force:
            raise CannotRotate(f"tokens of the old key may be good until {_at(left_s)}; --force takes it away now")
        self._publish([verifying[signer]])
        self._say(f"key {signer} is the only one now")

    def _signer(self) -> str:
        kid = load_signing_key(self._private).kid
        if kid not in self._verifying():
            raise CannotRotate(f"{self._public} lacks the public key of {self._private}: tokens cannot be verified")
        return kid

    def _verifying(self) -> dict[str, RSAPublicKey]:
        return load_public_keys(self._public)

    def _publish(self, keys: Sequence[RSAPublicKey]) -> None:
        write_whole(self._public, public_pem(keys), like=self._public)

    def _old_key_needed_s(self) -> float:
        """For how many seconds tokens may still be good that the key before the current one has signed."""
        return self._private.stat().st_mtime + self._settled_after_s + self._lifetime_s - time.time()


def add_options(parser: argparse.ArgumentParser) -> None:
    """Say how a rotation can be called."""
    parser.add_argument("--publish", action="store_true", help="only publish the next key, and go on another time")
    parser.add_argument("--finish", action="store_true", help="take the old public key away, once no token needs it")
    parser.add_argument("--force", action="store_true", help="with --finish: even if tokens may still need it")
    parser.add_argument(
        "--wait",
        type=float,
        default=SETTLED_AFTER_S,
        metavar="S",
        help="how long a replaced file takes to reach every process (%(default)g s; in Kubernetes, 180)",
    )


def perform(given: argparse.Namespace, settings: KeySettings) -> int:
    """Take the steps that were asked for; return the exit code."""
    rotation = Rotation(settings, settled_after_s=given.wait, say=_say)
    try:
        with rotation.alone():
            if given.finish:
                rotation.finish(force=given.force)
            elif given.publish:
                rotation.publish()
            else:
                rotation.rotate()
    except (CannotRotate, OSError, TypeError, ValueError) as error:
        sys.stderr.write(f"cannot rotate the keys: {error}\n")
        return 1
    return 0


def main(arguments: Sequence[str]) -> None:
    """Run ``auth rotate-keys``."""
    parser = argparse.ArgumentParser(prog="auth rotate-keys", description="Replace the keys that sign tokens.")
    add_options(parser)
    given = parser.parse_args(arguments)
    raise SystemExit(perform(given, KeySettings.from_environment()))


def _say(sentence: str) -> None:
    sys.stdout.write(f"{sentence}\n")
    sys.stdout.flush()


def _signs(kid: str, left_s: float) -> str:
    return f"key {kid} signs; the old public key may be needed until {_at(left_s)}: then call --finish"


def _at(left_s: float) -> str:
    return datetime.fromtimestamp(time.time() + left_s, UTC).isoformat(timespec="seconds")
