"""Keys and passwords of a system on one machine: made once, kept in its data folder, readable by its owner only."""

import json
import os
import secrets
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from orderly.services import NAMES


@dataclass(frozen=True, slots=True)
class Credentials:
    """What the processes need to know, and nobody else."""

    private_key: Path
    public_keys: Path
    fingerprint_key: str
    nats: dict[str, str]
    postgres: dict[str, str]
    postgres_admin: str


def ensure_credentials(folder: Path) -> Credentials:
    """Read the credentials in `folder`; make those that are not there."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    private, public, rest = folder / "jwt-private.pem", folder / "jwt-public.pem", folder / "passwords.json"
    if not private.exists():
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        write_private(private, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        write_private(public, key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    known = json.loads(rest.read_text()) if rest.exists() else {}
    made = {
        "fingerprint_key": known.get("fingerprint_key") or secrets.token_hex(32),
        "postgres_admin": known.get("postgres_admin") or secrets.token_hex(16),
        "nats": {name: secrets.token_hex(16) for name in NAMES} | known.get("nats", {}),
        "postgres": {name: secrets.token_hex(16) for name in NAMES} | known.get("postgres", {}),
    }
    if made != known:
        write_private(rest, json.dumps(made, indent=2).encode())
    return Credentials(private_key=private, public_keys=public, **made)


def write_private(path: Path, content: bytes) -> None:
    """Write a file that only its owner can ever read, whole or not at all."""
    new = path.with_suffix(".new")
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)
