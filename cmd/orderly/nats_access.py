"""Who may do what on the NATS servers, from the services' tables: here, in compose and in a cluster."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from libs.messaging.consumer import durables
from libs.messaging.rights import observer_permissions, permissions_of
from orderly.services import NAMES, SERVICES

FILES: Final = (Path("docker/nats/access.conf"), Path("manifests/base/nats/access.conf"))
"""The same text twice: Kustomize reads nothing outside its own folder."""

_VARIABLE: Final = re.compile(r'"\$([A-Z_]+)"')


def access(passwords: Mapping[str, str], observer_password: str) -> dict[str, Any]:
    """One user a service, who may do what its table needs, and an observer who sees every fact and changes nothing."""
    users: list[dict[str, Any]] = [
        {
            "user": service.name,
            "password": passwords[service.name],
            "permissions": permissions_of(service.name, durables(service.name, service.listens), service.hears),
        }
        for service in SERVICES
    ]
    users.append({"user": "observer", "password": observer_password, "permissions": observer_permissions(NAMES)})
    return {"accounts": {"APP": {"jetstream": "enabled", "users": users}}}


def access_file() -> str:
    """Write the access as a file that a server's configuration includes.

    The server reads passwords from its environment, `NATS_PASSWORD_<USER>`. They must begin with a letter: what
    begins like a number is taken for one.
    """
    text = json.dumps(access({name: variable(name) for name in NAMES}, variable("observer")), indent=2)
    body = _VARIABLE.sub(r"$\1", text).removeprefix("{").removesuffix("}").strip("\n")
    return f"# Made by `just contracts` from the tables in cmd/*/app.py. Passwords come from the environment.\n{body}\n"


def variable(user: str) -> str:
    """Name the variable that a user's password is read from, as the configuration refers to it."""
    return f"$NATS_PASSWORD_{user.upper()}"
