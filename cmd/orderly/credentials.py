"""Keys and passwords of a system on one machine: made once, kept in its data folder, readable by its owner only."""

import json
import secrets
from dataclasses import dataclass
from pathlib import Path

from libs.files import write_whole
from libs.web.keys import load_signing_key, new_key, private_pem, public_pem
from orderly.services import NAMES


@dataclass(frozen=True, slots=True)
class Credentials:
    """What the processes need to know, and nobody else."""

    private_key: Path
    public_keys: Path
    fingerprint_key: str
    nats: dict[str, str]
    nats_nodes: str
    """What several NATS servers know each other by."""
    postgres: dict[str, str]
    postgres_admin: str


def key_files(folder: Path) -> tuple[Path, Path]:
    """Say where the private and the public keys are, or will be."""
    return folder / "jwt-private.pem", folder / "jwt-public.pem"


def ensure_key_pair(private: Path, public: Path) -> None:
    """Make the keys that sign and verify tokens, or what is missing of them; for their owner only."""
    if not private.exists():
        key = new_key()
        # The private one last: it is there only when the other is.
        write_whole(public, public_pem([key.public_key()]))
        write_whole(private, private_pem(key))
    elif not public.exists():
        write_whole(public, public_pem([load_signing_key(private).key.public_key()]))


def new_password() -> str:
    """Make a password. It begins with a letter: nats-server takes what begins like a number for one."""
    return f"p{secrets.token_hex(16)}"


def read_variables(file: Path) -> dict[str, str]:
    """Read a file of ``NAME=value`` lines; nothing when it is not there."""
    if not file.exists():
        return {}
    lines = [line for line in file.read_text().splitlines() if line and not line.startswith("#")]
    return dict(line.split("=", 1) for line in lines)


def ensure_credentials(folder: Path) -> Credentials:
    """Read the credentials in `folder`; make those that are not there."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    private, public = key_files(folder)
    rest = folder / "passwords.json"
    ensure_key_pair(private, public)
    known = json.loads(rest.read_text()) if rest.exists() else {}
    made = {
        "fingerprint_key": known.get("fingerprint_key") or secrets.token_hex(32),
        "postgres_admin": known.get("postgres_admin") or secrets.token_hex(16),
        "nats_nodes": known.get("nats_nodes") or secrets.token_hex(16),
        "nats": {name: secrets.token_hex(16) for name in NAMES} | known.get("nats", {}),
        "postgres": {name: secrets.token_hex(16) for name in NAMES} | known.get("postgres", {}),
    }
    if made != known:
        write_whole(rest, json.dumps(made, indent=2).encode())
    return Credentials(private_key=private, public_keys=public, **made)
