"""Servers as they are described: here those that keep streams together."""

import asyncio
import json
from pathlib import Path

from libs.local.servers import free_port, listening, nats_nodes, nats_program
from libs.local.supervisor import Supervisor


def test_nodes_have_names_folders_and_logs_of_their_own(tmp_path: Path) -> None:
    nodes = nats_nodes(tmp_path, [free_port() for _ in range(3)], "secret", tmp_path / "logs")
    assert [node.label for node in nodes] == ["nats", "nats-2", "nats-3"]
    assert [node.log.name for node in nodes] == ["nats.log", "nats-2.log", "nats-3.log"]
    configs = [json.loads(Path(node.argv[-1]).read_text()) for node in nodes]
    assert [config["server_name"] for config in configs] == ["nats", "nats-2", "nats-3"]
    assert len({config["jetstream"]["store_dir"] for config in configs}) == 3
    assert {config["jetstream"]["sync_interval"] for config in configs} == {"always"}
    assert len({config["port"] for config in configs} | {config["cluster"]["listen"] for config in configs}) == 6


def test_only_who_asks_for_it_has_less_than_everything_on_the_disk(tmp_path: Path) -> None:
    usual = nats_program(tmp_path, free_port(), tmp_path / "logs")
    assert json.loads(Path(usual.argv[-1]).read_text())["jetstream"]["sync_interval"] == "always"
    less = nats_program(tmp_path, free_port(), tmp_path / "logs", sync_interval="2m")
    assert json.loads(Path(less.argv[-1]).read_text())["jetstream"]["sync_interval"] == "2m"


async def test_who_does_not_know_the_password_is_no_node(tmp_path: Path) -> None:
    port = free_port()
    (node,) = nats_nodes(tmp_path, [port], "secret", tmp_path / "logs")
    route = json.loads(Path(node.argv[-1]).read_text())["cluster"]["listen"].rpartition(":")[2]
    supervisor = Supervisor(lambda _sentence: None)
    await supervisor.start(node)
    try:
        for open_now in (port, int(route)):  # the second a moment after the first
            await listening(open_now, within_s=20, what="nats-server", log=node.log)
        assert await answer(int(route), "a guess") == "-ERR 'Authorization Violation'"
        assert await answer(int(route), "secret") != "-ERR 'Authorization Violation'"
    finally:
        await supervisor.stop()


async def answer(route: int, password: str) -> str:
    """What a node says to another that introduces itself."""
    reader, writer = await asyncio.open_connection("127.0.0.1", route)
    assert (await reader.readline()).startswith(b"INFO ")
    known = {"user": "node", "pass": password, "name": "stranger", "protocol": 1, "headers": True}
    writer.write(f"CONNECT {json.dumps(known)}\r\nPING\r\n".encode())
    async with asyncio.timeout(20):
        said = (await reader.readline()).decode().strip()
    writer.close()
    await writer.wait_closed()
    return said
