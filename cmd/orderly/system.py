"""The whole system on one machine: servers, services, gateway; started in order, stopped in order."""

import asyncio
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final, Literal

import aiohttp

from libs.local.servers import (
    ALWAYS,
    CannotStart,
    Postgres,
    free_port,
    listening,
    nats_nodes,
    nats_program,
    require_free,
)
from libs.local.supervisor import Program, Supervisor, environment
from libs.storage import Database
from libs.storage.migrations import migrate
from orderly import databases
from orderly.credentials import Credentials, ensure_credentials
from orderly.nats_access import access
from orderly.services import NAMES, SERVICES
from orderly.settings import Settings

DatabaseKind = Literal["sqlite", "postgres"]

NODES: Final = 3
HEALTHY_WITHIN_S: Final = 60.0
"""How long all of it may take to start, on a machine that has other things to do; nodes elect who leads, too."""

"""NATS servers of a cluster: one may be away, and the others are still most of them."""

_GIVEN: Final = {"HOST", "PORT", "DATABASE_URL", "NATS_URL", "NATS_USER", "NATS_PASSWORD", "FINGERPRINT_KEY"} | {
    "JWT_PUBLIC_KEYS",
    "JWT_PRIVATE_KEY",
    "STREAM_REPLICAS",
    "OTEL_SERVICE_NAME",  # one name for all of them
}
"""Settings of services that a system on one machine decides itself."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to run, and where."""

    data_dir: Path
    gateway_port: int
    nats_port: int
    database: DatabaseKind = "sqlite"
    replicas: int = 1
    database_urls: dict[str, str] = field(default_factory=dict)
    extra: dict[str, str] = field(default_factory=dict)
    cluster: bool = False
    """Three NATS servers that keep every stream together, instead of one."""
    sync_interval: str = ALWAYS
    """How soon NATS flushes what it has acknowledged. No command sets it: the benchmark measures what it costs."""
    nats_url: str = ""
    """A NATS server that runs already, with the user's name and password, if it asks for them; none is started."""

    @classmethod
    def of(cls, settings: Settings, *, database: DatabaseKind, replicas: int = 1, cluster: bool = False) -> "Plan":
        """Follow the environment."""
        return cls(
            data_dir=settings.data_dir.resolve(),
            gateway_port=settings.gateway_port,
            nats_port=settings.nats_port,
            database=database,
            replicas=replicas,
            database_urls={name: url for name in NAMES if (url := settings.database_url(name))},
            extra=inherited(),
            cluster=cluster,
        )


def inherited() -> dict[str, str]:
    """The settings of services that the environment overrides, like ``PATIENCE_S`` or ``LOG_LEVEL``."""
    known = {name.upper() for service in SERVICES for name in service.settings.model_fields} - _GIVEN
    return {name: os.environ[name] for name in sorted(known) if name in os.environ}


class System:
    """A running system. `say` gets a sentence whenever something happens."""

    def __init__(self, plan: Plan, say: Callable[[str], None]) -> None:
        self.plan = plan
        self.supervisor = Supervisor(say)
        self._say = say
        self._logs = plan.data_dir / "logs"
        self._credentials = ensure_credentials(plan.data_dir / "keys")
        others = NODES - 1 if plan.cluster else 0
        self._nats_ports = [] if plan.nats_url else [plan.nats_port, *(free_port() for _ in range(others))]
        self._ports: dict[str, list[int]] = {}
        self._urls: dict[str, str] = {}
        self._postgres: Postgres | None = None

    @property
    def url(self) -> str:
        """Where the gateway listens."""
        return f"http://127.0.0.1:{self.plan.gateway_port}"

    @property
    def nats_url(self) -> str:
        """Where NATS listens: one server, or several with commas in between."""
        return self.plan.nats_url or ",".join(f"nats://127.0.0.1:{port}" for port in self._nats_ports)

    @property
    def services(self) -> list[str]:
        """The labels of the processes that are services, the gateway among them, and no servers."""
        return [label for label in self.supervisor.labels if label.partition("#")[0] in (*NAMES, "gateway")]

    def reached_at(self, url: str) -> str:
        """Say under which address services reach a server that listens at `url`."""
        return url

    @property
    def logs(self) -> Path:
        """The folder with a log file for each process."""
        return self._logs

    def database_url(self, service: str) -> str:
        """Where a service keeps its data."""
        return self._urls[service]

    def service_urls(self, service: str) -> list[str]:
        """Where the replicas of a service listen."""
        return [f"http://127.0.0.1:{port}" for port in self._ports[service]]

    async def start(self) -> None:
        """Start everything and wait until all of it is ready. Raises `CannotStart`; stops what it had started."""
        self._check_ports()
        try:
            await asyncio.gather(self.start_nats(), self.migrate())
            databases.announce(self.plan.data_dir, self._urls, self.nats_url)
            for name in NAMES:
                self._ports[name] = [free_port() for _ in range(self.plan.replicas)]
            await asyncio.gather(*(self.supervisor.start(program) for program in self._programs()))
            await self.healthy(within_s=HEALTHY_WITHIN_S)
        except BaseException:
            await self.stop()
            raise

    async def migrate(self) -> None:
        """Start the databases and bring them up to date."""
        await self._start_databases()
        await self._migrate()

    async def stop(self) -> None:
        """Stop the gateway and the services first, so that what they have to say still finds a broker."""
        await self.supervisor.stop([label for label in self.services if label.startswith("gateway")])
        await self.supervisor.stop(self.services)
        await self.supervisor.stop([label for label in self.supervisor.labels if label != "postgres"])
        await self.supervisor.stop(["postgres"])
        databases.withdraw(self.plan.data_dir)

    async def healthy(self, *, within_s: float) -> None:
        """Wait until ``/client/health/`` is OK and every process of every service is ready.

        The gateway calls a service ready when one of its processes is, but sends requests to all of them in turn.
        Raises `CannotStart` with the names of those that are not.
        """
        deadline = time.monotonic() + within_s
        last = "no answer"
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=3)) as session:
            while time.monotonic() < deadline:
                try:
                    async with session.get(f"{self.url}/client/health/") as response:
                        health = await response.json()
                    down = health.get("down") or await self._not_ready(session)
                    if not down:
                        return
                    last = "down: " + ", ".join(down)
                except (aiohttp.ClientError, TimeoutError, OSError):
                    pass
                await asyncio.sleep(0.05)
        raise CannotStart(f"the system is not healthy after {within_s:.0f} s ({last}); see {self._logs}")

    async def _not_ready(self, session: aiohttp.ClientSession) -> list[str]:
        """Ask the services themselves; name those of which a process is not ready."""
        return [
            name for name in NAMES for url in self.service_urls(name) if not await _is_ready(session, f"{url}/readyz")
        ]

    def _check_ports(self) -> None:
        require_free(self.plan.gateway_port, "GATEWAY_PORT")
        if not self.plan.nats_url:
            require_free(self.plan.nats_port, "NATS_PORT")

    async def start_nats(self) -> None:
        """Start the NATS servers that do not run, and wait until all listen."""
        for program in self._nats:
            if program.label not in self.supervisor.labels:
                await self.supervisor.start(program)
        for program, port in zip(self._nats, self._nats_ports, strict=True):
            await listening(port, within_s=HEALTHY_WITHIN_S, what="nats-server", log=program.log)

    @cached_property
    def _nats(self) -> list[Program]:
        # Each kind has stores of its own: what one server has kept, three would throw away.
        folder, access = self.plan.data_dir, nats_access(self._credentials)
        if self.plan.nats_url:
            return []
        if self.plan.cluster:
            known = self._credentials.nats_nodes
            return nats_nodes(folder / "nats-nodes", self._nats_ports, known, self._logs, access=access)
        port, interval = self.plan.nats_port, self.plan.sync_interval
        return [nats_program(folder / "nats", port, self._logs, access=access, sync_interval=interval)]

    async def start_postgres(self) -> None:
        """Start the system's own PostgreSQL server and wait until it answers."""
        assert self._postgres is not None, "this system has no PostgreSQL server of its own"
        await self.supervisor.start(await asyncio.to_thread(self._postgres.prepare))
        await self._postgres.ready()

    async def start_again(self, service: str) -> None:
        """Stop a service, and start it with the settings as the plan has them now."""
        programs = [program for program in self._programs() if program.name == service]
        await self.supervisor.stop([program.label for program in programs])
        await asyncio.gather(*(self.supervisor.start(program) for program in programs))

    async def _start_databases(self) -> None:
        plan = self.plan
        missing = [name for name in NAMES if name not in plan.database_urls]
        self._urls = dict(plan.database_urls)
        if plan.database == "sqlite":
            self._urls |= {name: f"sqlite:///{databases.sqlite_file(plan.data_dir, name)}" for name in missing}
        elif missing:
            await self._start_postgres(missing)

    async def _start_postgres(self, names: list[str]) -> None:
        folder, known = self.plan.data_dir / "postgres", self._credentials
        self._postgres = Postgres(folder, free_port(), known.postgres_admin, self._logs, self._say)
        await self.start_postgres()
        for name in names:
            self._urls[name] = await self._postgres.create_database(name, known.postgres[name])

    async def _migrate(self) -> None:
        for service in SERVICES:
            database = Database(self._urls[service.name], name="orderly migrate")
            try:
                applied = await migrate(database, service.migrations)
            finally:
                await database.close()
            if applied:
                self._say(f"{service.name}: database brought up to date ({', '.join(applied)})")

    def _programs(self) -> list[Program]:
        bin_folder = Path(sys.executable).parent
        common = {
            "JWT_PUBLIC_KEYS": str(self._credentials.public_keys),
            "PYTHONUNBUFFERED": "1",
            "STREAM_REPLICAS": str(max(1, len(self._nats))),
            **self.plan.extra,
        }
        programs = []
        for name in NAMES:
            env = {
                **common,
                "NATS_URL": self.reached_at(self.nats_url),
                **({} if self.plan.nats_url else {"NATS_USER": name, "NATS_PASSWORD": self._credentials.nats[name]}),
                "DATABASE_URL": self.reached_at(self._urls[name]),
                "FINGERPRINT_KEY": self._credentials.fingerprint_key,
            }
            if name == "auth":
                env["JWT_PRIVATE_KEY"] = str(self._credentials.private_key)
            for replica, port in enumerate(self._ports[name], 1):
                suffix = "" if replica == 1 else f"-{replica}"
                program = Program(
                    name,
                    [str(bin_folder / name)],
                    environment(**env, PORT=str(port)),
                    self._logs / f"{name}{suffix}.log",
                    replica=replica,
                )
                programs.append(program)
        urls = {f"{name.upper()}_URL": ",".join(self.service_urls(name)) for name in NAMES}
        env = environment(**common, **urls, PORT=str(self.plan.gateway_port))
        programs.append(Program("gateway", [str(bin_folder / "gateway")], env, self._logs / "gateway.log"))
        return programs


async def _is_ready(session: aiohttp.ClientSession, url: str) -> bool:
    try:
        async with session.get(url) as response:
            return response.status == HTTPStatus.OK
    except (aiohttp.ClientError, TimeoutError):
        return False


async def migrate_all(plan: Plan) -> int:
    """Bring the databases of a system that is not running up to date; return the exit code."""
    system = System(plan, print)
    try:
        await system.migrate()
    finally:
        await system.stop()
    return 0


def nats_access(credentials: Credentials) -> dict[str, Any]:
    """Say who may do what on this machine's NATS server."""
    # Whoever can reach loopback may watch, and nothing else.
    return {**access(credentials.nats, "observer"), "no_auth_user": "observer"}
