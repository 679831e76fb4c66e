"""What ``test-image`` asks of the whole system, brought up from the image by Compose."""

import asyncio
import json
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from orderly.checks import Check, Wrong, say
from orderly.compose import Compose, ensure_secrets
from orderly.newman import newman
from orderly.services import NAMES
from orderly.tail import Seen, watching

USER: Final = {"login": "stays", "password": "a password"}


@contextmanager
def removed(compose: Compose) -> Iterator[None]:
    """Remove the system at the end of the block, with its data."""
    try:
        yield
    finally:
        compose.told("down", "--volumes", "--timeout", "30")


def system_checks(compose: Compose) -> list[tuple[str, Check]]:
    """List the checks of a system, in their order."""
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
    compose.await_health(say)
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


def nothing_left(compose: Compose, volumes: str) -> str:
    """Look for what the system has left behind; `volumes` are those that were there before it."""
    label = f"label=com.docker.compose.project={compose.project}"
    left = [
        *compose.engine.told("ps", "--all", "--quiet", "--filter", label).split(),
        *compose.engine.told("network", "ls", "--quiet", "--filter", label).split(),
        *(set(compose.engine.told("volume", "ls", "--quiet").split()) - set(volumes.split())),
    ]
    if left:
        raise Wrong(" ".join(left))
    return "no container, network or volume"
