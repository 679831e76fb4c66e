"""Fixtures for every test: real servers from wheels, fresh databases. Loaded by pytest's configuration.

That is before coverage begins to measure, so what these fixtures need is imported by them, and not before.
"""

import asyncio
import os
import secrets
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from libs.local.servers import Postgres


@pytest.hookimpl(optionalhook=True, tryfirst=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """Give the long proofs half as many workers more than there are cores: half of their time is waiting."""
    if config.option.markexpr != "prove":
        return None
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return cores + -(-cores // 2)


def pytest_asyncio_loop_factories(
    config: pytest.Config,
    item: pytest.Item,
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Run tests marked so on the loop that services run on; the others on the one that can start servers."""
    if item.get_closest_marker("uvloop") is None:
        return {"asyncio": asyncio.new_event_loop}
    import uvloop  # noqa: PLC0415 - not on Windows

    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture
def quiet() -> list[str]:
    """A place for the supervisor's sentences."""
    return []


@pytest.fixture
async def nats_url(tmp_path: Path, quiet: list[str]) -> AsyncIterator[str]:
    """A nats-server of the test's own, where everybody may do everything."""
    from libs.local.servers import free_port, listening, nats_program  # noqa: PLC0415 - measured only then
    from libs.local.supervisor import Supervisor  # noqa: PLC0415 - measured only then

    port = free_port()
    supervisor = Supervisor(quiet.append)
    program = nats_program(tmp_path / "nats", port, tmp_path / "logs")
    await supervisor.start(program)
    await listening(port, within_s=60, what="nats-server", log=program.log)
    yield f"nats://127.0.0.1:{port}"
    await supervisor.stop()


@pytest.fixture(scope="session")
def postgres() -> "Iterator[Postgres]":
    """A PostgreSQL server for all tests of this worker. Without fsync: no test here pulls the plug."""
    from libs.local.servers import Postgres, free_port  # noqa: PLC0415 - measured only then
    from libs.local.supervisor import Supervisor  # noqa: PLC0415 - measured only then

    folder = Path(tempfile.mkdtemp(prefix="orderly-postgres-"))
    folder.chmod(0o711)
    loop = asyncio.new_event_loop()
    supervisor = Supervisor(lambda _sentence: None)
    server = Postgres(folder / "data", free_port(), secrets.token_hex(8), folder / "logs")
    loop.run_until_complete(supervisor.start(server.prepare("fsync=off")))
    loop.run_until_complete(server.ready())
    yield server
    loop.run_until_complete(supervisor.stop())
    loop.close()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(params=["sqlite", "postgres"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A fresh, empty database; the test runs once on SQLite and once on PostgreSQL."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'test.db'}"
    server: Postgres = request.getfixturevalue("postgres")
    # Not async: the server, when this is the first to ask for it, starts on a loop of its own.
    return asyncio.run(server.create_database(f"t{secrets.token_hex(6)}", secrets.token_hex(8)))
