"""Passwords and tokens: the two places where auth does cryptography."""

import asyncio
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import Final, TypeVar
from uuid import UUID

import jwt
import structlog
from argon2 import PasswordHasher, Type
from argon2.exceptions import InvalidHashError, VerificationError

from auth.settings import Settings
from libs.errors import overloaded, unavailable
from libs.ids import uuid7
from libs.web.keys import ALGORITHM, SigningKey, Watched, jwk_of, load_public_keys, load_signing_key

WAITING_AT_MOST: Final = 1_024

T = TypeVar("T")

log = structlog.get_logger()


class Passwords:
    """Argon2id with OWASP's parameters (19 MiB, 2 passes), in threads: the event loop goes on meanwhile."""

    def __init__(self) -> None:
        self._hasher = PasswordHasher(time_cost=2, memory_cost=19_456, parallelism=1, type=Type.ID)
        self._threads = ThreadPoolExecutor(max_workers=os.cpu_count(), thread_name_prefix="argon2")
        self._waiting = 0
        self._hashing: dict[tuple[str, str], asyncio.Task[str]] = {}

    @cached_property
    def _nobodys(self) -> str:
        return self._hasher.hash(os.urandom(16).hex())

    async def hash(self, login: str, password: str) -> str:
        """Hash the new password of a login. One request that is sent many times at once is hashed once."""
        asked = (login, password)
        hashing = self._hashing.get(asked)
        if hashing is None:
            hashing = asyncio.create_task(self._in_thread(lambda: self._hasher.hash(password)))
            self._hashing[asked] = hashing
            hashing.add_done_callback(lambda _: self._hashing.pop(asked))
        return await asyncio.shield(hashing)

    async def matches(self, password_hash: str | None, password: str) -> bool:
        """Check a password. Without a hash it takes as long, so that nobody can tell which logins exist."""
        return await self._in_thread(lambda: self._verify(password_hash, password))

    def _verify(self, password_hash: str | None, password: str) -> bool:
        try:
            self._hasher.verify(password_hash or self._nobodys, password)
        except (VerificationError, InvalidHashError):
            return False
        return password_hash is not None

    async def _in_thread(self, work: Callable[[], T]) -> T:
        if self._waiting >= WAITING_AT_MOST:
            raise overloaded()
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)
        finally:
            self._waiting -= 1


class Tokens:
    """Signs tokens with the private key as it is now, and shows the public keys that verify them."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._current = load_signing_key(settings.jwt_private_key)
        self._wanted = self._current
        self._signing = Watched(settings.jwt_private_key, load_signing_key)
        self._verifying = Watched(settings.jwt_public_keys, load_public_keys)

    @property
    def lifetime_s(self) -> int:
        """How long a token is good for, in seconds."""
        return self._settings.token_lifetime_s

    def issue(self, user_id: UUID, login: str) -> str:
        """Sign a token for somebody who has proved who they are."""
        now = int(time.time())
        claims = {
            "iss": self._settings.jwt_issuer,
            "aud": self._settings.jwt_audience,
            "sub": str(user_id),
            "login": login,
            "iat": now,
            "exp": now + self.lifetime_s,
            "jti": str(uuid7()),
        }
        signer = self._signer()
        return jwt.encode(claims, signer.key, algorithm=ALGORITHM, headers={"kid": signer.kid})

    def public_keys(self) -> list[dict[str, str]]:
        """Show the keys that verify tokens, as JWKs. Raises `Refusal` (unavailable)."""
        keys = self._verifying.value()
        if keys is None:
            raise unavailable("the file with the public keys")
        return [jwk_of(key) for key in keys.values()]

    def _signer(self) -> SigningKey:
        """Take up a replaced private key, but not one whose tokens nobody could verify."""
        wanted = self._signing.value() or self._current
        if wanted.kid == self._current.kid:
            return self._current
        if wanted.kid in (self._verifying.value() or {}):
            log.info("signs with another key", kid=wanted.kid, before=self._current.kid)
            self._current = wanted
        elif wanted is not self._wanted:
            log.error("the private key is not among the public ones; goes on with the one before", kid=wanted.kid)
        self._wanted = wanted
        return self._current
