"""Routes: the table of what a service answers over HTTP, from which its OpenAPI description is made, too."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic
from uuid import UUID

from pydantic import BaseModel
from typing_extensions import TypeVar

from libs.errors import not_found, unavailable
from libs.messaging.relay import Relay
from libs.messaging.unit import Units
from libs.tracing import Trace
from libs.web.commands import Command, CommandHandler, Commands, Key
from libs.web.identity import Caller

InputT = TypeVar("InputT", default=None)
StoreT = TypeVar("StoreT")
ToolsT = TypeVar("ToolsT", default=None)
CommandT = TypeVar("CommandT")
ResultT = TypeVar("ResultT")
ValueT = TypeVar("ValueT")


@dataclass(slots=True)
class Call(Generic[InputT]):
    """One request: who asks, for what, and where in its trace it stands."""

    input: InputT
    path: Mapping[str, str]
    trace: Trace
    route: str
    key: str | None
    who: Caller | None = None
    replayed: bool = False

    @property
    def caller(self) -> Caller:
        """Who is asking. Only routes that are not public have one."""
        assert self.who is not None, "a public route has no caller"
        return self.who

    def id_in_path(self, name: str, what: str) -> UUID:
        """Read an id from the path. One that is no UUID names nothing: raises `Refusal` (not found)."""
        try:
            return UUID(self.path[name])
        except ValueError:
            raise not_found(what) from None


@dataclass(frozen=True, slots=True)
class Answer:
    """What a route answers with."""

    status: int
    body: BaseModel
    headers: Mapping[str, str] = field(default_factory=dict)


class Edge(Generic[StoreT, ToolsT]):
    """What routes work with: reading, commands, awaited answers, and the tools of this one service."""

    def __init__(
        self,
        units: Units[StoreT],
        commands: Commands[StoreT],
        relay: Relay,
        *,
        tools: ToolsT,
        patience_s: float,
        fingerprint_key: bytes,
    ) -> None:
        self.read = units.read
        self.tools = tools
        self._commands = commands
        self._awaited = units.awaited
        self._relay = relay
        self._patience_s = patience_s
        self._fingerprint_key = fingerprint_key

    @property
    def refusing(self) -> bool:
        """Whether commands are refused, since the facts of those before wait for too long."""
        return self._relay.stalled

    async def execute(
        self,
        handler: CommandHandler[CommandT, StoreT, ResultT],
        call: Call[Any],
        command: CommandT,
        *,
        returns: type[ResultT],
        subject: str | None = None,
    ) -> ResultT:
        """Carry out a command, once per idempotency key; return after its commit. Raises its `Refusal`.

        `subject` is who the key belongs to, for requests without a caller.
        """
        if self.refusing:
            raise unavailable("the message bus")
        key = None
        if call.key is not None:
            key = Key.of(
                self._fingerprint_key,
                subject=subject or str(call.caller.user_id),
                route=f"{call.route} {sorted(call.path.items())}",
                key=call.key,
                body=call.input.model_dump_json() if isinstance(call.input, BaseModel) else "",
            )
        outcome = await self._commands.execute(handler, Command(command, call.trace, key), returns)
        call.replayed = outcome.replayed
        return outcome.result

    async def outcome(self, key: UUID, kind: type[ValueT], *, look_first: bool) -> ValueT | None:
        """Await what the service awaits, within its patience; return the value as it then is, None when absent.

        `look_first` for what may be there already.
        """
        value = await self._awaited.outcome(key, patience_s=self._patience_s, look_first=look_first)
        assert value is None or isinstance(value, kind)
        return value


RouteHandler = Callable[[Call[Any], Edge[Any, Any]], Awaitable[Answer]]


@dataclass(frozen=True, slots=True)
class Route:
    """A line of a service's table: what a request to `path` may carry, and what it may be answered with."""

    method: str
    path: str
    handler: RouteHandler
    answers: Mapping[int, type[BaseModel]]
    body: type[BaseModel] | None = None
    query: type[BaseModel] | None = None
    public: bool = False
    refusals: tuple[str, ...] = ()
    headers: tuple[str, ...] = ()
    """What its answers carry besides; `libs.web.openapi.HEADERS` says what each of them means."""

    @property
    def name(self) -> str:
        """Method and path: the route's identity."""
        return f"{self.method} {self.path}"
