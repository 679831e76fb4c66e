"""Who is asking: bearer tokens (RS256 JWT), verified by every service itself."""

import base64
import hashlib
import json
import time
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import jwt
import structlog
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from libs.errors import Kind, Refusal

ALGORITHM: Final = "RS256"
CACHE_AT_MOST: Final = 10_000
CACHE_S: Final = 60.0
RELOAD_EVERY_S: Final = 1.0
KEYS_GOOD_FOR_S: Final = 60.0
_END: Final = b"-----END PUBLIC KEY-----"

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Caller:
    """Who a verified token was issued to."""

    user_id: UUID
    login: str


def jwk_of(key: RSAPublicKey) -> dict[str, str]:
    """Write a public key as a JWK. Its `kid` is the RFC 7638 thumbprint, so nobody needs to agree on names."""
    numbers = key.public_numbers()
    required = {"e": _base64url_int(numbers.e), "kty": "RSA", "n": _base64url_int(numbers.n)}
    canonical = json.dumps(required, separators=(",", ":"), sort_keys=True).encode()
    kid = _base64url(hashlib.sha256(canonical).digest())
    return {**required, "kid": kid, "use": "sig", "alg": ALGORITHM}


def load_public_keys(path: Path) -> dict[str, RSAPublicKey]:
    """Read the public keys of a PEM file by `kid`: the current one, and the next during a rotation."""
    keys = {}
    for part in path.read_bytes().split(_END)[:-1]:
        key = load_pem_public_key(part.lstrip() + _END)
        if not isinstance(key, RSAPublicKey):
            raise TypeError(f"{path}: only RSA keys can verify {ALGORITHM} tokens")
        keys[jwk_of(key)["kid"]] = key
    return keys


class Verifier:
    """Verifies tokens against the keys of a file, which is read again when a token names an unknown key."""

    def __init__(self, keys_file: Path, *, issuer: str, audience: str) -> None:
        self._file = keys_file
        self._issuer = issuer
        self._audience = audience
        self._keys: dict[str, RSAPublicKey] = {}
        self._loaded_at = float("-inf")
        self._readable = True
        self._verified: OrderedDict[str, tuple[Caller, float]] = OrderedDict()

    def caller_of(self, authorization: str | None) -> Caller:
        """Verify an ``Authorization`` header. Raises `Refusal` (unauthenticated)."""
        scheme, _, token = (authorization or "").partition(" ")
        token = token.strip()
        if scheme.lower() != "bearer" or not token:
            raise unauthenticated("send the header Authorization: Bearer <access_token>")
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

    def _key(self, kid: str) -> RSAPublicKey:
        # An unknown key may be a new one; a known one may have been taken away.
        reload_after_s = KEYS_GOOD_FOR_S if kid in self._keys else RELOAD_EVERY_S
        if time.monotonic() - self._loaded_at > reload_after_s:
            self._loaded_at = time.monotonic()
            self._readable = False
            try:
                self._keys = load_public_keys(self._file)
            except (OSError, TypeError, ValueError):
                log.exception("cannot read the keys that verify tokens", file=str(self._file))
            else:
                self._readable = True
        if kid not in self._keys and not self._readable:
            raise Refusal("unavailable", "tokens cannot be verified right now", Kind.UNAVAILABLE)
        return self._keys[kid]


def unauthenticated(detail: str) -> Refusal:
    """Make the refusal of a request whose sender is not known."""
    return Refusal("unauthenticated", detail, Kind.UNAUTHENTICATED)


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _base64url_int(number: int) -> str:
    return _base64url(number.to_bytes((number.bit_length() + 7) // 8, "big"))
