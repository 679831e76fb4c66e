"""The secrets of a cluster: which there are, and their keys and passwords, made once and kept in a folder.

The folder has a file for each secret, so that no command that hands them to a cluster shows what is in them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from libs.files import write_whole
from orderly.credentials import ensure_key_pair, new_password, read_variables
from orderly.nats_access import variable
from orderly.services import NAMES

_NAMESPACES: Final = {
    "profiles": "profile",
    "orders": "order",
    "notifications": "notification",
    "gateway": "client",
}
_DATABASE_SECRETS: Final = {"profiles": "users-db-secret"}

FOLDER: Final = Path("etc/keys")
NATS: Final = "nats"
NATS_USERS: Final = (*NAMES, "observer")


@dataclass(frozen=True, slots=True)
class Secret:
    """A secret in its namespace. `keys` are the names in it; `keep` says that one in the cluster is not replaced."""

    namespace: str
    name: str
    keys: tuple[str, ...]
    keep: bool = False

    @property
    def is_keys(self) -> bool:
        """Whether its content is a PEM file, which all namespaces share."""
        return self.name.startswith("jwt-")

    @property
    def source(self) -> str:
        """The argument of ``kubectl create secret generic`` that says what is in it."""
        if self.is_keys:
            return f"--from-file={self.keys[0]}={FOLDER / self.keys[0]}"
        return f"--from-env-file={FOLDER / self.file}"

    @property
    def file(self) -> Path:
        """Where its content is, in the folder."""
        return Path(self.keys[0]) if self.is_keys else Path(self.namespace) / f"{self.name}.env"


def namespace_of(service: str) -> str:
    """Name the namespace of a service, or of the gateway."""
    return _NAMESPACES.get(service, service)


def database_secret_of(service: str) -> str:
    """Name the secret that has the way to a service's database."""
    return _DATABASE_SECRETS.get(service, f"{service}-db-secret")


def all_secrets() -> tuple[Secret, ...]:
    """List the secrets that a cluster needs, by namespace."""
    found = [Secret(NATS, "nats-passwords", tuple(variable(user).removeprefix("$") for user in NATS_USERS))]
    for service in NAMES:
        namespace = namespace_of(service)
        if service == "auth":
            found.append(Secret(namespace, "jwt-signing-keys", ("jwt-private.pem",)))
        # A database keeps the passwords that it was made with.
        database = ("username", "password", "admin-password", "uri")
        found += [
            Secret(namespace, "jwt-validation-key", ("jwt-public.pem",)),
            Secret(namespace, database_secret_of(service), database, keep=True),
            Secret(namespace, "nats-credentials", ("username", "password")),
            Secret(namespace, "fingerprint-key", ("fingerprint-key",)),
        ]
    return (*found, Secret(namespace_of("gateway"), "jwt-validation-key", ("jwt-public.pem",)))


def ensure_secrets(folder: Path) -> None:
    """Make the keys and passwords that `folder` lacks; leave those that are there as they are."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    ensure_key_pair(folder / "jwt-private.pem", folder / "jwt-public.pem")
    passwords: Mapping[str, str] = {}
    for secret in all_secrets():
        if secret.is_keys:
            continue
        file = folder / secret.file
        known = read_variables(file)
        if secret.namespace == NATS:
            passwords = wanted = {key: known.get(key) or new_password() for key in secret.keys}
        else:
            (service,) = (name for name in NAMES if namespace_of(name) == secret.namespace)
            wanted = _filled(secret, service, known, passwords)
        if wanted != known:
            file.parent.mkdir(exist_ok=True, mode=0o700)
            write_whole(file, "".join(f"{key}={value}\n" for key, value in wanted.items()).encode())


def _filled(secret: Secret, service: str, known: Mapping[str, str], passwords: Mapping[str, str]) -> dict[str, str]:
    """Say what is in a secret of a service: what was there, and what is missing."""
    if secret.name == "nats-credentials":
        return {"username": service, "password": passwords[variable(service).removeprefix("$")]}
    made = {key: known.get(key) or new_password() for key in secret.keys}
    if secret.keep:
        made |= {"username": service}
        made |= {"uri": f"postgresql://{service}:{made['password']}@postgres:5432/{service}"}
    return made
