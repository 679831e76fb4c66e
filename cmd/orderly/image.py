"""``test-image``: the image built, examined, and run as strictly as a cluster would; then the whole system from it."""

import asyncio
import contextlib
import gzip
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from libs.local.servers import CannotStart, free_port
from orderly.compose import Compose, ensure_secrets
from orderly.contracts import current_version
from orderly.engine import Engine, build_command
from orderly.newman import ROOT, newman
from orderly.own_engine import engine_here
from orderly.services import NAMES
from orderly.stand_ins import images
from orderly.tail import Seen, watching

TAG: Final = "orderly:test"
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

USER: Final = {"login": "stays", "password": "a password"}


class Wrong(Exception):
    """What a check found."""


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
    with engine_here(_say) as engine, tempfile.TemporaryDirectory(prefix="orderly-image-") as folder:
        given = images(engine, _say)
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
        failed += not _passes("the Dockerfiles are clean", _hadolint)
        if not _passes(f"the image builds on {base}", lambda: _build(engine, base)):
            return 1
        for name, check in (*_image_checks(tried), *((f"{name} runs alone", _alone(tried, name)) for name in _all())):
            failed += not _passes(name, check)
        with _removed(compose):
            for name, check in _system_checks(compose):
                failed += not _passes(name, check)
        failed += not _passes("nothing is left", lambda: _nothing_left(compose, volumes))
    print(f"{failed} failed" if failed else "all passed")
    return int(failed > 0)


def _all() -> tuple[str, ...]:
    return (*NAMES, "gateway")


def _say(sentence: str) -> None:
    print(f"  {sentence}", flush=True)


def _passes(name: str, check: Callable[[], str]) -> bool:
    """Make a check and print a line about it."""
    began = time.monotonic()
    try:
        mark, detail = "✓", check()
    except (Wrong, CannotStart) as error:
        mark, detail = "✗", str(error)
    print(f"{mark} {name:<45} {time.monotonic() - began:5.1f} s  {detail}".rstrip(), flush=True)
    return mark == "✓"


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


def _image_checks(tried: Tried) -> list[tuple[str, Callable[[], str]]]:
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


def _alone(tried: Tried, name: str) -> Callable[[], str]:
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


def _answers(url: str, logs: Callable[[], str]) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=2):  # noqa: S310 - http on loopback
            return
        time.sleep(0.1)
    raise Wrong(f"{url} does not answer:\n{logs()}")


@contextmanager
def _removed(compose: Compose) -> Iterator[None]:
    """Remove the system at the end of the block, with its data."""
    try:
        yield
    finally:
        compose.told("down", "--volumes", "--timeout", "30")


def _system_checks(compose: Compose) -> list[tuple[str, Callable[[], str]]]:
    return [
        ("Compose brings the system up", lambda: _up(compose)),
        ("the Postman collection passes against it", lambda: _newman(compose)),
        ("a database opens for its own service only", lambda: _own_databases(compose)),
        ("the gateway reaches neither data nor broker", lambda: _gateway_is_alone(compose)),
        ("no container may more than it must", lambda: _hardened(compose)),
        ("whoever is on this machine may watch", lambda: _watched(compose)),
        ("a second compose-up changes nothing", lambda: _up_again(compose)),
        ("it comes back with its data", lambda: _back(compose)),
    ]


def _up(compose: Compose) -> str:
    ensure_secrets(compose.folder)
    compose.told("up", "--detach", "--no-build")
    compose.await_health(_say)
    return compose.health_url


def _newman(compose: Compose) -> str:
    report = compose.folder / "newman.json"
    code = newman(compose.health_url.partition("/client")[0], *("--silent", "-r", "json"), *_export(report))
    run = json.loads(report.read_text())["run"]
    failures = [f"{one['source']['name']}: {one['error']['message']}" for one in run["failures"]]
    if code != 0 or failures:
        raise Wrong("\n".join([f"newman ended with {code}", *failures]))
    return f"{run['stats']['requests']['total']} requests, {run['stats']['assertions']['total']} assertions"


def _export(report: Path) -> tuple[str, str]:
    return "--reporter-json-export", str(report)


def _own_databases(compose: Compose) -> str:
    program = (
        "import asyncio, asyncpg, os, sys\n"
        "url = os.environ['DATABASE_URL'].rpartition('/')[0]\n"
        "async def opens(name):\n"
        "    try: await (await asyncpg.connect(f'{url}/{name}')).close()\n"
        "    except asyncpg.InsufficientPrivilegeError: return False\n"
        "    return True\n"
        "print(*[name for name in sys.argv[1:] if asyncio.run(opens(name))])"
    )
    for name in NAMES:
        opened = compose.told("exec", "-T", name, "python3", "-c", program, *NAMES, "postgres", "template1")
        if opened != name:
            raise Wrong(f"{name} opens {opened}")
    return f"{len(NAMES)} services, {len(NAMES) + 2} databases"


def _gateway_is_alone(compose: Compose) -> str:
    program = (
        "import socket, sys\n"
        "def reached(host, port):\n"
        "    try: socket.create_connection((host, int(port)), 2).close()\n"
        "    except OSError: return False\n"
        "    return True\n"
        "print(*[place for place in sys.argv[1:] if reached(*place.split(':'))])"
    )
    places = ("postgres:5432", "nats:4222", "auth:8000")
    reached = compose.told("exec", "-T", "gateway", "python3", "-c", program, *places)
    if reached != "auth:8000":
        raise Wrong(f"it reaches {reached}")
    return "it reaches the services"


def _hardened(compose: Compose) -> str:
    containers = compose.told("ps", "--all", "--quiet").split()
    for one in json.loads(compose.engine.told("inspect", *containers)):
        host, name = one["HostConfig"], one["Name"]
        published = {bind["HostIp"] for binds in (host["PortBindings"] or {}).values() for bind in binds}
        strict = (
            host["ReadonlyRootfs"]
            and host["CapDrop"] == ["ALL"]
            and not host["CapAdd"]
            and host["Memory"] > 0
            and any(option.startswith("no-new-privileges") for option in host["SecurityOpt"])
            and published <= {"127.0.0.1"}
        )
        if not strict:
            raise Wrong(f"{name}: {host}")
    return f"{len(containers)} containers"


def _started(compose: Compose) -> dict[str, str]:
    containers = compose.told("ps", "--quiet").split()
    lines = compose.engine.told("inspect", "--format", "{{.Name}} {{.Id}} {{.State.StartedAt}}", *containers)
    return dict(line.split(" ", 1) for line in lines.splitlines())


def _up_again(compose: Compose) -> str:
    before, secrets = _started(compose), (compose.folder / ".env").read_text()
    _up(compose)
    if _started(compose) != before or (compose.folder / ".env").read_text() != secrets:
        raise Wrong(f"{before} became {_started(compose)}")
    return f"{len(before)} containers as they were"


def _watched(compose: Compose) -> str:
    """Hear of a registration over the published port, without a password."""

    async def hear() -> str:
        heard: asyncio.Future[str] = asyncio.get_running_loop().create_future()

        def note(event: Seen) -> None:
            if not heard.done():
                heard.set_result(event.type)

        async with watching(f"nats://127.0.0.1:{compose.nats_port}", "auth.>", note):
            await asyncio.to_thread(_post, compose, "users", {**USER, "email": "stays@example.org"})
            async with asyncio.timeout(20):
                return await heard

    try:
        return asyncio.run(hear())
    except TimeoutError:
        raise Wrong("nothing is heard") from None


def _back(compose: Compose) -> str:
    compose.told("down", "--timeout", "45")
    _up(compose)
    _post(compose, "login", USER)
    return "a user from before can log in"


def _post(compose: Compose, path: str, body: Mapping[str, str]) -> None:
    url = compose.health_url.replace("health/", path)
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)  # noqa: S310 - http on loopback
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310 - as above
            answer.read()
    except urllib.error.HTTPError as error:
        with error:
            raise Wrong(f"POST {url}: {error.code} {error.read()!r}") from None


def _nothing_left(compose: Compose, volumes: str) -> str:
    label = f"label=com.docker.compose.project={compose.project}"
    left = [
        *compose.engine.told("ps", "--all", "--quiet", "--filter", label).split(),
        *compose.engine.told("network", "ls", "--quiet", "--filter", label).split(),
        *(set(compose.engine.told("volume", "ls", "--quiet").split()) - set(volumes.split())),
    ]
    if left:
        raise Wrong(" ".join(left))
    return "no container, network or volume"
