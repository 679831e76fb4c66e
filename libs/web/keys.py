"""Keys that sign and verify tokens: PEM files, read again whenever they are replaced."""

import base64
import hashlib
import json
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Generic, TypeVar

import structlog
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

ALGORITHM: Final = "RS256"
LOOK_EVERY_S: Final = 1.0
"""How soon a process notices that a key file was replaced, at the latest."""

READ_EVERY_S: Final = 60.0
_END: Final = b"-----END PUBLIC KEY-----"

T = TypeVar("T")

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A private key, and the name of the public key that verifies what it signs."""

    kid: str
    key: RSAPrivateKey


class Watched(Generic[T]):
    """What is in a file, as it is now. Looks at the file when asked, and reads it when it was replaced."""

    def __init__(self, path: Path, read: Callable[[Path], T]) -> None:
        self._path = path
        self._read = read
        self._known: T | None = None
        self._state: tuple[int, ...] = ()
        self._looked_at = self._read_at = float("-inf")
        self.readable = False

    def value(self) -> T | None:
        """Return what the file said when it could last be read; None when it never could."""
        now = time.monotonic()
        if now - self._looked_at > LOOK_EVERY_S:
            self._looked_at = now
            self._look(now)
        return self._known

    def _look(self, now: float) -> None:
        try:
            found = self._path.stat()  # before reading: what is replaced in between is read at the next look
            state = (found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size)
            if state != self._state or not self.readable or now - self._read_at > READ_EVERY_S:
                self._known, self._state, self._read_at = self._read(self._path), state, now
            self.readable = True
        except (OSError, TypeError, ValueError):
            self.readable = False
            log.exception("cannot read keys", file=str(self._path))


def new_key() -> RSAPrivateKey:
    """Make a key that can sign tokens."""
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def jwk_of(key: RSAPublicKey) -> dict[str, str]:
    """Write a public key as a JWK. Its `kid` is the RFC 7638 thumbprint, so nobody needs to agree on names."""
    numbers = key.public_numbers()
    required = {"e": _base64url_int(numbers.e), "kty": "RSA", "n": _base64url_int(numbers.n)}
    canonical = json.dumps(required, separators=(",", ":"), sort_keys=True).encode()
    kid = _base64url(hashlib.sha256(canonical).digest())
    return {**required, "kid": kid, "use": "sig", "alg": ALGORITHM}


def load_signing_key(path: Path) -> SigningKey:
    """Read the private key of a PEM file. Raises TypeError or ValueError when it cannot sign tokens."""
    key = load_pem_private_key(path.read_bytes(), password=None)
    if not isinstance(key, RSAPrivateKey):
        raise TypeError(f"{path}: an RSA key is needed to sign {ALGORITHM} tokens")
    return SigningKey(jwk_of(key.public_key())["kid"], key)


def load_public_keys(path: Path) -> dict[str, RSAPublicKey]:
    """Read the public keys of a PEM file by `kid`: the current one, and a second one during a rotation."""
    keys = {}
    for part in path.read_bytes().split(_END)[:-1]:
        key = load_pem_public_key(part.lstrip() + _END)
        if not isinstance(key, RSAPublicKey):
            raise TypeError(f"{path}: only RSA keys can verify {ALGORITHM} tokens")
        keys[jwk_of(key)["kid"]] = key
    return keys


def private_pem(key: RSAPrivateKey) -> bytes:
    """Write a private key as PEM."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def public_pem(keys: Iterable[RSAPublicKey]) -> bytes:
    """Write public keys as PEM, one after another."""
    return b"".join(key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo) for key in keys)


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _base64url_int(number: int) -> str:
    return _base64url(number.to_bytes((number.bit_length() + 7) // 8, "big"))
