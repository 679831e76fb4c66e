"""Who is asking: bearer tokens (RS256 JWT), verified by every service itself."""

import time
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import jwt
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from libs.errors import Kind, Refusal
from libs.web.keys import ALGORITHM, Watched, load_public_keys

CACHE_AT_MOST: Final = 10_000
CACHE_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Caller:
    """Who a verified token was issued to."""

    user_id: UUID
    login: str


class Verifier:
    """Verifies tokens against the keys of a file as it is now: a key that is added or taken away counts at once."""

    def __init__(self, keys_file: Path, *, issuer: str, audience: str) -> None:
        self._keys = Watched(keys_file, load_public_keys)
        self._issuer = issuer
        self._audience = audience
        self._kids: frozenset[str] = frozenset()
        self._verified: OrderedDict[str, tuple[Caller, float]] = OrderedDict()

    def caller_of(self, authorization: str | None) -> Caller:
        """Verify an ``Authorization`` header. Raises `Refusal` (unauthenticated)."""
        scheme, _, token = (authorization or "").partition(" ")
        token = token.strip()
        if scheme.lower() != "bearer" or not token:
            raise unauthenticated("send the header Authorization: Bearer <access_token>")
        self._forget_what_other_keys_verified()
        known = self._verified.get(token)
        if known is not None and known[1] > time.time():
            return known[0]
        caller, expires_at = self._verify(token)
        self._verified[token] = caller, min(expires_at, time.time() + CACHE_S)
        while len(self._verified) > CACHE_AT_MOST:
            self._verified.popitem(last=False)
        return caller

    def _verify(self, token: str) -> tuple[Caller, float]:
        try:
            key = self._key(str(jwt.get_unverified_header(token).get("kid")))
            claims: dict[str, Any] = jwt.decode(
                token,
                key,
                algorithms=[ALGORITHM],
                issuer=self._issuer,
                audience=self._audience,
                options={"require": ["exp", "iat", "iss", "aud", "sub"]},
            )
            return Caller(UUID(claims["sub"]), str(claims["login"])), float(claims["exp"])
        except jwt.ExpiredSignatureError:
            raise unauthenticated("the token has expired; log in again") from None
        except (jwt.InvalidTokenError, KeyError, ValueError):
            raise unauthenticated("the token is not valid") from None

    def _forget_what_other_keys_verified(self) -> None:
        kids = frozenset(self._keys.value() or ())
        if kids != self._kids:
            self._kids = kids
            self._verified.clear()

    def _key(self, kid: str) -> RSAPublicKey:
        keys = self._keys.value() or {}
        if kid not in keys and not self._keys.readable:
            raise Refusal("unavailable", "tokens cannot be verified right now", Kind.UNAVAILABLE)
        return keys[kid]


def unauthenticated(detail: str) -> Refusal:
    """Make the refusal of a request whose sender is not known."""
    return Refusal("unauthenticated", detail, Kind.UNAUTHENTICATED)
