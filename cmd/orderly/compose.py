"""``compose-up`` and ``compose-down``: the system in containers, with secrets that are made once."""

import http.client
import json
import os
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from libs.files import write_whole
from libs.local.servers import CannotStart, require_free
from orderly.credentials import ensure_key_pair, new_password, read_variables
from orderly.engine import IMAGE, Engine, build_command
from orderly.nats_access import variable
from orderly.newman import ROOT
from orderly.services import NAMES
from orderly.settings import Settings

FOLDER: Final = ROOT / "docker"
FILE: Final = FOLDER / "compose.yaml"
HEALTHY_WITHIN_S: Final = 120.0


def secret_names() -> tuple[str, ...]:
    """Name the variables of the Compose file that nobody may know."""
    databases = [f"POSTGRES_PASSWORD_{name.upper()}" for name in NAMES]
    brokers = [variable(name).removeprefix("$") for name in (*NAMES, "observer")]
    return ("FINGERPRINT_KEY", "POSTGRES_PASSWORD", *databases, *brokers)


def ensure_secrets(folder: Path) -> None:
    """Make what is missing of the passwords (``.env``) and keys (``secrets/``) in `folder`; keep what is there.

    Containers read the keys as a user that this machine does not know. So the files may be read by everybody, but
    nobody else can reach them: the folder around them is closed to others.
    """
    file = folder / ".env"
    known = read_variables(file)
    made = {name: known.get(name) or new_password() for name in secret_names()}
    if missing := made.items() - known.items():
        lines = [f"{name}={value}\n" for name, value in {**known, **dict(sorted(missing))}.items()]
        write_whole(file, "".join(lines).encode())
    around = folder / "secrets"
    around.mkdir(mode=0o700, exist_ok=True)
    private = around / "jwt-signing-keys" / "jwt-private.pem"
    public = around / "jwt-validation-key" / "jwt-public.pem"
    for path in (public, private):
        path.parent.mkdir(exist_ok=True)
        path.parent.chmod(0o755)
    ensure_key_pair(private, public)
    for path in (public, private):
        path.chmod(0o644)


@dataclass(frozen=True, slots=True)
class Compose:
    """One system in containers. `folder` has its secrets; `images` are variables of the Compose file."""

    engine: Engine
    gateway_port: int
    nats_port: int
    project: str = "orderly"
    folder: Path = FOLDER
    images: dict[str, str] = field(default_factory=dict)

    @property
    def health_url(self) -> str:
        """Where the gateway says how all services are."""
        return f"http://127.0.0.1:{self.gateway_port}/client/health/"

    def told(self, *arguments: str) -> str:
        """Call ``docker compose`` and return what it printed. Raises `CannotStart`."""
        return self.engine.told(*self._command(), *arguments, **self._variables())

    def show(self, *arguments: str) -> None:
        """Call ``docker compose`` and let it print where we do. Raises `CannotStart`."""
        self.engine.show(*self._command(), *arguments, **self._variables())

    def volumes(self) -> list[str]:
        """Name the volumes with this system's data."""
        label = f"label=com.docker.compose.project={self.project}"
        return self.engine.told("volume", "ls", "--quiet", "--filter", label).split()

    def check(self) -> None:
        """Raise `CannotStart` when something is in the way of the start."""
        if not (self.folder / ".env").exists() and self.volumes():
            raise CannotStart(
                f"{self.folder / '.env'} is gone, and with it the passwords of the databases in "
                f"{', '.join(self.volumes())}; bring it back, or delete the data: ./just compose-down --data"
            )
        running = self.told("ps", "--services", "--status", "running").split() if self.volumes() else []
        for service, port, setting in (
            ("gateway", self.gateway_port, "GATEWAY_PORT"),
            ("nats", self.nats_port, "NATS_PORT"),
        ):
            if service not in running:
                require_free(port, setting)

    def await_health(self, say: Callable[[str], None], *, within_s: float = HEALTHY_WITHIN_S) -> None:
        """Wait until all services are ready, and say whenever others are awaited. Raises `CannotStart`."""
        deadline = time.monotonic() + within_s
        said = ""
        while awaited := _awaited(self.health_url):
            if awaited != said:
                say(f"waiting for {awaited}")
                said = awaited
            if time.monotonic() > deadline:
                states = self.told("ps", "--all")
                raise CannotStart(f"still waiting for {awaited} after {within_s:.0f} s:\n{states}")
            time.sleep(0.3)

    def _command(self) -> list[str]:
        env_file = ["--env-file", str(self.folder / ".env")] if (self.folder / ".env").exists() else []
        return ["compose", "--project-name", self.project, "--file", str(FILE), *env_file]

    def _variables(self) -> dict[str, str]:
        known = read_variables(self.folder / ".env")
        ports = {"GATEWAY_PORT": str(self.gateway_port), "NATS_PORT": str(self.nats_port)}
        # Compose wants every variable, even to stop what was started with passwords that are gone.
        lost = {name: "lost" for name in secret_names() if name not in known}
        return {**lost, **ports, **self.images, "SECRETS_DIR": str(self.folder / "secrets")}


def _awaited(url: str) -> str:
    """Name who is not ready; nothing when all are."""
    try:
        with urllib.request.urlopen(url, timeout=3) as response:  # noqa: S310 - http on loopback
            response.read()
            return ""
    except urllib.error.HTTPError as error:
        with error:
            return ", ".join(json.loads(error.read()).get("down", [])) or f"the gateway (HTTP {error.code})"
    except (OSError, ValueError, http.client.HTTPException):
        return "the gateway"


def compose_up(engine: Engine, settings: Settings) -> int:
    """Build, start, wait; return the exit code. What is up to date is left alone. Raises `CannotStart`."""
    compose = Compose(engine, settings.gateway_port, settings.nats_port)
    compose.check()
    ensure_secrets(FOLDER)
    if "ORDERLY_IMAGE" not in os.environ:
        print("building the image")
        engine.show(*build_command(IMAGE, base=os.environ.get("PYTHON_IMAGE")))
    print("starting the containers")
    try:
        compose.show("up", "--detach", "--no-build", "--remove-orphans")
    except CannotStart:
        raise CannotStart("not all started; `docker compose -f docker/compose.yaml logs` says more") from None
    compose.await_health(print)
    print(
        f"\nready {compose.health_url}\n\n"
        "  ./just newman                                     the Postman collection against it\n"
        "  ./just tail                                       events as they happen\n"
        "  docker compose -f docker/compose.yaml logs -f     what the services say\n"
        "  ./just compose-down                               stop it; --data deletes its data, too"
    )
    return 0


def compose_down(engine: Engine, settings: Settings, *, data: bool) -> int:
    """Stop and remove the containers; with `data`, what they kept and their secrets, too. Return the exit code."""
    compose = Compose(engine, settings.gateway_port, settings.nats_port)
    compose.show("down", "--remove-orphans", *(["--volumes"] if data else []))
    if data:
        (FOLDER / ".env").unlink(missing_ok=True)
        shutil.rmtree(FOLDER / "secrets", ignore_errors=True)
    return 0
