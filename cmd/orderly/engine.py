"""The container engine of this machine: found, or what is missing of it said; and the one image that it builds."""

import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from libs.local.servers import CannotStart
from orderly.contracts import current_version
from orderly.newman import ROOT

IMAGE: Final = "orderly:local"
DOCKERFILE: Final = "docker/Dockerfile"

_NO_DOCKER: Final = "docker is not installed: https://docs.docker.com/engine/install says how"
_NO_ENGINE: Final = "no container engine answers docker ({reason}); is it started, and may this user ask it?"
_NO_COMPOSE: Final = (
    "docker has no compose: install its plugin, as https://docs.docker.com/compose/install says"
    " (docker-compose-plugin, docker-compose-v2 or, from Debian 13 on, docker-compose)"
)


@dataclass(frozen=True, slots=True)
class Engine:
    """Docker's command, and the environment that it is called in."""

    program: str = "docker"
    variables: Mapping[str, str] = field(default_factory=dict)

    def ask(self, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        """Call docker and return what came of it, said and returned; `more` are variables of its environment."""
        return subprocess.run(
            [self.program, *arguments],
            cwd=ROOT,
            env=self._environment(more),
            check=False,
            capture_output=True,
            text=True,
        )

    def told(self, *arguments: str, **more: str) -> str:
        """Call docker and return what it printed. Raises `CannotStart` with the end of its complaint."""
        done = self.ask(*arguments, **more)
        if done.returncode != 0:
            complaint = "\n".join((done.stderr.strip() or done.stdout.strip()).splitlines()[-20:])
            raise CannotStart(f"docker {' '.join(arguments[:2])} failed:\n{complaint}")
        return done.stdout.strip()

    def show(self, *arguments: str, **more: str) -> None:
        """Call docker and let it print where we do. Raises `CannotStart`."""
        done = subprocess.run([self.program, *arguments], cwd=ROOT, env=self._environment(more), check=False)
        if done.returncode != 0:
            raise CannotStart(f"docker {arguments[0]} failed; its message stands above")

    def _environment(self, more: Mapping[str, str]) -> dict[str, str]:
        return {**os.environ, "DOCKER_BUILDKIT": "1", **self.variables, **more}

    def complaint(self) -> str | None:
        """Say what is missing for containers and Compose, in one sentence; None when nothing is."""
        if shutil.which(self.program) is None:
            return _NO_DOCKER
        server = self.ask("version", "--format", "{{.Server.Version}}")
        if server.returncode != 0:
            reason = (server.stderr.strip() or "no reason given").splitlines()[-1]
            return _NO_ENGINE.format(reason=reason)
        if self.ask("compose", "version").returncode != 0:
            return _NO_COMPOSE
        return None


def find_engine() -> Engine:
    """Find the engine of this machine. Raises `CannotStart` with what is missing."""
    engine = Engine()
    if complaint := engine.complaint():
        raise CannotStart(complaint)
    return engine


def build_command(tag: str, *, base: str | None = None) -> list[str]:
    """Write the arguments of docker that build the image; `base` is another base image than the Dockerfile's.

    Whoever names certificate authorities in ``SSL_CERT_FILE`` has the build trust them, too; they stay out of the
    image.
    """
    arguments = ["build", "--file", DOCKERFILE, "--tag", tag]
    given = {"VERSION": current_version(), **_commit(), **({"BASE_IMAGE": base} if base else {})}
    for name, value in given.items():
        arguments += ["--build-arg", f"{name}={value}"]
    authorities = os.environ.get("SSL_CERT_FILE")
    if authorities and os.path.isfile(authorities):  # noqa: PTH113 - a text from the environment
        arguments += ["--secret", f"id=ca,src={authorities}"]
    return [*arguments, "."]


def _commit() -> dict[str, str]:
    """Name the commit that is built, and when it was made; nothing in a copy without its history."""
    command = ["git", "-C", str(ROOT), "log", "-1", "--format=%H %cI"]
    try:
        said = subprocess.run(command, check=False, capture_output=True, text=True).stdout.split()
    except OSError:
        return {}
    return dict(zip(("REVISION", "CREATED"), said, strict=False))
