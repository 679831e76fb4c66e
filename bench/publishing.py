"""Publishing: from how many messages on an atomic batch costs less than the same messages one by one."""

import argparse
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Final

from rich.console import Console
from rich.table import Table

from bench import figures, parts
from bench.figures import Figure, as_json
from bench.folders import fresh_folder
from bench.processes import cpu_s, snapshot
from libs.contracts.orders import OrderPlaced
from libs.ids import uuid7
from libs.local.servers import free_port, listening, nats_program
from libs.local.supervisor import Supervisor
from libs.messaging.envelope import Origin, Outgoing, seal
from libs.messaging.jetstream import JetStream, JetStreamSettings

SIZES: Final = (1, 4, 8, 16, 24, 32, 64, 256)
MESSAGES: Final = 1_024
"""Of each round, in batches of each size."""

Publish = Callable[[Sequence[Outgoing]], Awaitable[object]]


@dataclass(frozen=True, slots=True)
class Cost:
    """What a batch cost: milliseconds until it was acknowledged, microseconds of CPU here and in the server."""

    lasted_ms: float
    client_us: float
    server_us: float


def options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this part."""
    parts.common(parser)


async def run(given: argparse.Namespace, out: Console) -> int:
    """Publish singly and in batches, in turn, to a server of its own."""
    costs: dict[tuple[int, str], list[Cost]] = {}
    with fresh_folder() as folder:
        supervisor, port = Supervisor(lambda _sentence: None), free_port()
        try:
            await supervisor.start(nats_program(folder / "nats", port, folder / "logs"))
            await listening(port, within_s=20, what="nats-server", log=folder / "logs" / "nats.log")
            bus = await JetStream.connect(JetStreamSettings(f"nats://127.0.0.1:{port}", "orders"))
            await bus.ensure_stream("orders")
            server = supervisor.pid("nats")
            assert server is not None
            ways: dict[str, Publish] = {
                "singly": lambda some: bus._publish_singly(some, 0),  # noqa: SLF001 - which of the two is the question
                "atomic": lambda some: bus._publish_batch(some, 0),  # noqa: SLF001
            }
            for _ in range(given.rounds):
                for size in SIZES:
                    for way, publish in ways.items():
                        if size > 1 or way == "singly":
                            costs.setdefault((size, way), []).append(await _cost(publish, size, server))
            await bus.close()
        finally:
            await supervisor.stop()
    _show(costs, out)
    found = [{"size": size, "way": way, "rounds": [asdict(one) for one in some]} for (size, way), some in costs.items()]
    sums = [
        {"size": size, "way": way, "us_a_message": as_json(_each(some, size))} for (size, way), some in costs.items()
    ]
    written = figures.write(
        given.out, "publishing.json", figures.document(parts.settings(given), costs=found, sums=sums)
    )
    out.print(f"written: {written}")
    return 0


async def _cost(publish: Publish, size: int, server: int) -> Cost:
    batches = [_messages(size) for _ in range(max(4, min(64, MESSAGES // size)))]
    began, here, there = time.perf_counter(), time.process_time(), cpu_s(server, snapshot())
    for batch in batches:
        await publish(batch)
    lasted, client = time.perf_counter() - began, time.process_time() - here
    each = 1e6 / len(batches)
    return Cost(1e-3 * each * lasted, each * client, each * (cpu_s(server, snapshot()) - there))


def _messages(number: int) -> list[Outgoing]:
    now, user = datetime.now(UTC), uuid7()
    facts = [OrderPlaced(order_id=uuid7(), user_id=user, price=100) for _ in range(number)]
    return [seal(fact, cause=Origin(), now=now) for fact in facts]


def _each(rounds: Sequence[Cost], size: int) -> Figure:
    """Microseconds of CPU for a message, of both sides."""
    return Figure.of([(one.client_us + one.server_us) / size for one in rounds])


def _show(costs: dict[tuple[int, str], list[Cost]], out: Console) -> None:
    table = Table(title="Publishing under sync_interval: always; median (least to most)")
    for heading in ("messages", "how", "ms a batch", "CPU µs a batch, client", "server", "CPU µs a message"):
        table.add_column(heading, justify="right")
    for (size, way), some in costs.items():
        cells = [Figure.of([getattr(one, name) for one in some]) for name in ("lasted_ms", "client_us", "server_us")]
        table.add_row(f"{size}", way, *map(str, cells), str(_each(some, size)))
    out.print(table)


PART: Final = parts.Part("publishing", "Messages stored singly, or as an atomic batch.", options, run)
