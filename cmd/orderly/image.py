"""``test-image``: the image built, examined, and run as strictly as a cluster would; then the whole system from it."""

import contextlib
import gzip
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from libs.local.servers import free_port
from orderly.checks import TAG, Check, Wrong, passes, say
from orderly.compose import Compose
from orderly.compose_checks import nothing_left, removed, system_checks
from orderly.contracts import current_version
from orderly.engine import Engine, build_command
from orderly.newman import ROOT
from orderly.own_engine import engine_here
from orderly.services import NAMES
from orderly.stand_ins import images

COMPRESSED_AT_MOST: Final = 160_000_000
HARDENED: Final = (
    *("--read-only", "--user", "10001:10001", "--cap-drop=ALL"),
    *("--security-opt", "no-new-privileges", "--memory", "256m"),
)
ABSENT: Final = ("gcc", "cc", "c++", "clang", "ld", "make", "pip", "pip3", "uv", "git", "curl", "wget")
ALONE: Final = {
    "DATABASE_URL": "postgresql://nobody:nothing@127.0.0.1:9/nowhere",
    "FINGERPRINT_KEY": "a key for a service that is alone",
}
"""Settings of a service that finds neither its database nor a broker: it waits for them, and lives."""


@dataclass(frozen=True, slots=True)
class Tried:
    """What the checks look at."""

    engine: Engine
    compose: Compose

    def run(self, *arguments: str, options: tuple[str, ...] = ()) -> str:
        """Run something in a container of the image and return what it printed. Raises `CannotStart`."""
        return self.engine.told("run", "--rm", *HARDENED, *options, TAG, *arguments)


def test_image() -> int:
    """Make every check, print a line for each; return the exit code. Raises `CannotStart` without an engine."""
    failed = 0
    with engine_here(say) as engine, tempfile.TemporaryDirectory(prefix="orderly-image-") as folder:
        given = images(engine, say)
        base = given.pop("PYTHON_IMAGE")
        compose = Compose(
            engine,
            free_port(),
            free_port(),
            project=f"orderly-test-{os.getpid()}",
            folder=Path(folder),
            images={**given, "ORDERLY_IMAGE": TAG},
        )
        tried, volumes = Tried(engine, compose), engine.told("volume", "ls", "--quiet")
        failed += not passes("the Dockerfiles are clean", _hadolint)
        if not passes(f"the image builds on {base}", lambda: _build(engine, base)):
            return 1
        for name, check in (*_image_checks(tried), *((f"{name} runs alone", _alone(tried, name)) for name in _all())):
            failed += not passes(name, check)
        with removed(compose):
            for name, check in system_checks(compose):
                failed += not passes(name, check)
        failed += not passes("nothing is left", lambda: nothing_left(compose, volumes))
    print(f"{failed} failed" if failed else "all passed")
    return int(failed > 0)


def _all() -> tuple[str, ...]:
    return (*NAMES, "gateway")


def _hadolint() -> str:
    files = [str(file) for file in sorted((ROOT / "docker").rglob("*Dockerfile"))]
    done = subprocess.run(
        [Path(sys.executable).with_name("hadolint"), *files], check=False, capture_output=True, text=True
    )
    if done.returncode != 0:
        raise Wrong(done.stdout)
    return f"hadolint: {len(files)} files"


def _build(engine: Engine, base: str) -> str:
    engine.told(*build_command(TAG, base=base))
    return engine.told("image", "inspect", "--format", "{{.Id}}", TAG)[:19]


def _image_checks(tried: Tried) -> list[tuple[str, Check]]:
    return [
        ("it is small", lambda: _size(tried.engine)),
        ("its user is a number", lambda: _user(tried)),
        ("its labels say what it is", lambda: _labels(tried.engine)),
        ("nothing to build or install with is in it", lambda: _absent(tried)),
        ("no file can be written, no test is in it", lambda: _files(tried)),
        ("a name that it does not know is answered", lambda: _unknown(tried)),
    ]


def _size(engine: Engine) -> str:
    """Compress the layers as a registry keeps them, and count."""
    arguments = [engine.program, "save", TAG]
    size = 0

    class Counter:
        def write(self, data: bytes) -> int:
            nonlocal size
            size += len(data)
            return len(data)

    with subprocess.Popen(arguments, env={**os.environ, **engine.variables}, stdout=subprocess.PIPE) as saving:
        assert saving.stdout is not None
        with gzip.GzipFile(fileobj=Counter(), mode="wb", compresslevel=6) as compressed:  # type: ignore[call-overload] # all that it needs of a file
            while data := saving.stdout.read(1 << 20):
                compressed.write(data)
    if saving.returncode != 0 or size > COMPRESSED_AT_MOST:
        raise Wrong(f"{size / 1e6:.0f} MB compressed; docker save ended with {saving.returncode}")
    return f"{size / 1e6:.0f} MB compressed, of {COMPRESSED_AT_MOST / 1e6:.0f}"


def _user(tried: Tried) -> str:
    user = tried.engine.told("image", "inspect", "--format", "{{.Config.User}}", TAG)
    if user != "10001:10001":
        raise Wrong(f"it is {user!r}")
    return user


def _labels(engine: Engine) -> str:
    labels = json.loads(engine.told("image", "inspect", "--format", "{{json .Config.Labels}}", TAG))
    said = {name.removeprefix("org.opencontainers.image."): value for name, value in labels.items()}
    missing = {"title", "description", "licenses", "version", "revision", "created"} - set(said)
    if missing or said["version"] != current_version():
        raise Wrong(f"{said}; missing: {missing}")
    return f"version {said['version']}, revision {said['revision'][:12]}"


def _absent(tried: Tried) -> str:
    found = tried.run("sh", "-c", f"for name in {' '.join(ABSENT)}; do command -v $name; done; true")
    importable = tried.run("python3", "-c", "from importlib.util import find_spec; print(find_spec('pip') or '')")
    if found or importable:
        raise Wrong(f"found {found.split()} {importable}")
    return ", ".join(ABSENT)


def _files(tried: Tried) -> str:
    program = (
        "import importlib.util as util, pathlib, sys\n"
        "files = [*pathlib.Path(sys.prefix).rglob('site-packages/**/*.py')]\n"
        "assert files\n"
        "print(*[file for file in files if not pathlib.Path(util.cache_from_source(str(file))).exists()])\n"
        "print(*[name for name in sys.argv[1:] if util.find_spec(f'{name}.tests')])"
    )
    found = tried.run("python3", "-c", program, "libs", *_all()).strip()
    writable = tried.run("sh", "-c", "touch /app/x /tmp/x 2>&1; find /app -writable ! -type l")
    if found or writable.count("Read-only file system") != 2 or "\n/app" in writable:
        raise Wrong(f"not compiled, or tests: {found}; {writable}")
    return "all bytecode is compiled"


def _unknown(tried: Tried) -> str:
    said = ""
    for given in ([], ["biling"]):
        done = tried.engine.ask("run", "--rm", *HARDENED, TAG, *given)
        said = done.stderr.strip()
        if done.returncode == 0 or not all(name in said for name in _all()):
            raise Wrong(f"{given}: {done.returncode} {said}")
    return said.partition(":")[0]


def _alone(tried: Tried, name: str) -> Check:
    def check() -> str:
        variables = [part for item in ALONE.items() for part in ("--env", "=".join(item))]
        options = ["--publish", "127.0.0.1::8000", *HARDENED, *variables]
        container = tried.engine.told("run", "--detach", *options, TAG, name)
        try:
            port = tried.engine.told("port", container, "8000").splitlines()[0].rpartition(":")[2]
            _answers(f"http://127.0.0.1:{port}/livez", lambda: tried.engine.told("logs", container))
            tried.engine.told("stop", "--time", "30", container)
            code = tried.engine.told("inspect", "--format", "{{.State.ExitCode}}", container)
            if code != "0":
                raise Wrong(f"it ended with {code} when it was told to stop")
        finally:
            tried.engine.ask("rm", "--force", container)
        return "/livez answers, SIGTERM ends it"

    return check


def _answers(url: str, logs: Check) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=2):  # noqa: S310 - http on loopback
            return
        time.sleep(0.1)
    raise Wrong(f"{url} does not answer:\n{logs()}")
