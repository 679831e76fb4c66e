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
from argon2 import PasswordHasher, Type
from argon2.exceptions import InvalidHashError, VerificationError
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from auth.settings import Settings
from libs.errors import overloaded
from libs.ids import uuid7
from libs.web.identity import ALGORITHM, jwk_of, load_public_keys

WAITING_AT_MOST: Final = 1_024

T = TypeVar("T")


class Passwords:
    """Argon2id with OWASP's parameters (19 MiB, 2 passes), in threads: the event loop goes on meanwhile."""

    def __init__(self) -> None:
        self._hasher = PasswordHasher(time_cost=2, memory_cost=19_456, parallelism=1, type=Type.ID)
        self._threads = ThreadPoolExecutor(max_workers=os.cpu_count(), thread_name_prefix="argon2")
        self._waiting = 0

    @cached_property
    def _nobodys(self) -> str:
        return self._hasher.hash(os.urandom(16).hex())

    async def hash(self, password: str) -> str:
        """Hash a new password."""
        return await self._in_thread(lambda: self._hasher.hash(password))

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
    """Signs tokens with the private key, and shows the public keys that verify them."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        key = load_pem_private_key(settings.jwt_private_key.read_bytes(), password=None)
        if not isinstance(key, RSAPrivateKey):
            raise TypeError(f"{settings.jwt_private_key}: an RSA key is needed to sign {ALGORITHM} tokens")
        self._key = key
        self._kid = jwk_of(key.public_key())["kid"]

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
        return jwt.encode(claims, self._key, algorithm=ALGORITHM, headers={"kid": self._kid})

    def public_keys(self) -> list[dict[str, str]]:
        """Show the keys that verify tokens, as JWKs."""
        return [jwk_of(key) for key in load_public_keys(self._settings.jwt_public_keys).values()]
