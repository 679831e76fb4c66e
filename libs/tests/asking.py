"""Routes of one service, asked over HTTP in tests: its real table, store and errors; whoever asks is believed."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeAlias
from uuid import UUID

from aiohttp.test_utils import TestClient, TestServer

from libs.messaging.memory import MemoryBroker, MemoryBus
from libs.messaging.relay import Relay
from libs.service import Service
from libs.telemetry import Telemetry
from libs.tests.units import Workbench
from libs.web.app import make_app
from libs.web.commands import Commands
from libs.web.identity import Caller, Verifier, unauthenticated
from libs.web.routes import Edge

Ask: TypeAlias = Callable[..., Awaitable[tuple[int, Any]]]
"""`await ask(method, path, body, caller=…)` returns status and JSON."""


class _Ready:
    """A process that misses nothing."""

    def __init__(self, edge: Edge[Any, Any]) -> None:
        self._edge = edge

    def awaits(self) -> Sequence[str]:
        return ()

    def answers(self) -> bool:
        return True

    def edge(self) -> Edge[Any, Any]:
        return self._edge


class _Believing(Verifier):
    """Takes an id for a token."""

    def __init__(self) -> None:
        """Nothing to verify with."""

    def caller_of(self, authorization: str | None) -> Caller:
        """Believe it."""
        if authorization is None:
            raise unauthenticated("say who you are")
        return Caller(UUID(authorization), "somebody")


@asynccontextmanager
async def asking(service: Service[Any, Any], bench: Workbench[Any]) -> AsyncIterator[Ask]:
    """Serve the routes of a service, with what is in the database of its workbench, until the end of the block."""
    relay = Relay(bench.database, MemoryBus(MemoryBroker()), service.name)
    edge: Edge[Any, Any] = Edge(
        bench.units,
        Commands(bench.units, batch_limit=16),
        relay,
        tools=None,
        patience_s=0.1,
        fingerprint_key=b"0123456789abcdef",
    )
    app = make_app(service.routes, _Ready(edge), _Believing(), Telemetry(), requests_at_most=100)

    async def ask(method: str, path: str, body: Any = None, *, caller: UUID | None = None) -> tuple[int, Any]:
        headers = {"Authorization": str(caller)} if caller else {}
        async with client.request(method, path, json=body, headers=headers) as response:
            return response.status, await response.json(content_type=None)

    async with TestClient(TestServer(app)) as client:
        yield ask
