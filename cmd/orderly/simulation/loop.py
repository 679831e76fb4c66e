"""An event loop whose time is imagined and whose order is drawn: the same seed, the same interleaving.

asyncio promises that callbacks run in the order in which they were registered, and its own machinery relies on that.
Which of several *tasks* goes on first is promised by nobody, so that is what is drawn: other callbacks run in order
and before any task, then one of the tasks that can go on is chosen. When none can, time jumps to the next timer.
"""

import asyncio
import heapq
from collections.abc import Callable, Coroutine
from contextvars import Context, ContextVar, copy_context
from random import Random
from typing import Any, Final, Protocol, Self, TypeVar, TypeVarTuple

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

STEP_S: Final = 20e-6
"""What a step takes, at most: code is not infinitely fast, and moments tell what came first."""


class Owner(Protocol):
    """Whose steps a task takes: a process."""

    tasks: "list[asyncio.Task[Any]]"

    def about_to_step(self) -> None:
        """Take note before each step; it may be killed here."""
        ...

    def at_boundary(self) -> None:
        """Take note of what is about to become true, or just has; it may be killed here."""
        ...


OWNER: Final[ContextVar[Owner | None]] = ContextVar("owner", default=None)
"""Whose task this is. What a task begins belongs to the same owner."""


class Loop(asyncio.AbstractEventLoop):
    """Runs tasks one step at a time, in an order drawn from `chance`. Has no files, sockets, signals or threads."""

    def __init__(self, chance: Random) -> None:
        self._chance = chance
        self._now = 0.0
        self._callbacks: list[asyncio.Handle] = []
        self._tasks: list[asyncio.Handle] = []
        self._timers: list[tuple[float, int, asyncio.TimerHandle]] = []
        self._count = 0
        self.steps = 0
        self.complaints: list[str] = []
        """What tasks and futures failed with that nobody asked them about."""

    @classmethod
    def of(cls, chance: Random) -> Self:
        """Make one; mypy takes a class that leaves out parts of asyncio's interface for an abstract one."""
        return cls(chance)

    def time(self) -> float:
        """Seconds since the story began."""
        return self._now

    def call_soon(
        self, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        """See asyncio."""
        handle = asyncio.Handle(callback, args, self, context)
        self._enqueue(handle, callback)
        return handle

    def call_at(
        self, when: float, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.TimerHandle:
        """See asyncio."""
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        self._count += 1
        heapq.heappush(self._timers, (when, self._count, handle))
        return handle

    def call_later(
        self, delay: float, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.TimerHandle:
        """See asyncio."""
        return self.call_at(self._now + delay, callback, *args, context=context)

    def create_future(self) -> "asyncio.Future[Any]":
        """See asyncio."""
        return asyncio.Future(loop=self)

    def create_task(  # type: ignore[override] # typeshed's signature differs between Python versions
        self, coro: Coroutine[Any, Any, T], *, name: object = None, context: Context | None = None
    ) -> "asyncio.Task[T]":
        """See asyncio."""
        context = context or copy_context()
        task = asyncio.Task(coro, loop=self, name=str(name) if name else None, context=context)
        owner = context.get(OWNER)
        if owner is not None:
            owner.tasks.append(task)
        return task

    def run_in_executor(self, executor: Any, func: Callable[..., T], *args: Any) -> "asyncio.Future[T]":  # type: ignore[override] # typeshed has its own type variables
        """Run it here and now: a thread would not be the same twice."""
        del executor
        future = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:  # noqa: BLE001 - as an executor does
            future.set_exception(error)
        return future

    def run_until_complete(self, future: Coroutine[Any, Any, T]) -> T:  # type: ignore[override] # coroutines are all it is given
        """Run until the coroutine has ended; return its result. Raises RuntimeError when nothing can go on."""
        asyncio._set_running_loop(self)  # noqa: SLF001 - asyncio's own documented way for those who implement loops
        try:
            task = self.create_task(future)
            while not task.done():
                self._step()
            return task.result()
        finally:
            asyncio._set_running_loop(None)  # noqa: SLF001 - as above

    def finish(self, patience: int = 20_000) -> None:
        """Let what was cancelled unwind: run what can run now, and no timer."""
        asyncio._set_running_loop(self)  # noqa: SLF001 - as above
        try:
            while (self._callbacks or self._tasks) and patience:
                patience -= 1
                self._run_one()
        finally:
            asyncio._set_running_loop(None)  # noqa: SLF001 - as above
            self._timers.clear()

    def _step(self) -> None:
        if not self._callbacks and not self._tasks:
            if not self._timers:
                raise RuntimeError("nothing is left that could go on")
            self._now = max(self._now, self._timers[0][0])
        while self._timers and self._timers[0][0] <= self._now:
            _, _, handle = heapq.heappop(self._timers)
            if not handle.cancelled():
                self._callbacks.append(handle)
        self._run_one()

    def _run_one(self) -> None:
        if self._callbacks:
            handle = self._callbacks.pop(0)
            if not handle.cancelled():
                handle._run()  # noqa: SLF001 - what event loops do with handles
        elif self._tasks:
            # The last takes the place of the one that is drawn: which is where does not matter.
            place = int(self._chance.random() * len(self._tasks))
            self._tasks[place], handle = self._tasks[-1], self._tasks[place]
            self._tasks.pop()
            self.steps += 1
            self._now += self._chance.random() * STEP_S
            owner = handle._context.get(OWNER)  # type: ignore[attr-defined] # noqa: SLF001 - as above
            if owner is not None:
                owner.about_to_step()
            if not handle.cancelled():
                handle._run()  # noqa: SLF001 - as above

    def _enqueue(self, handle: asyncio.Handle, callback: object) -> None:
        of_a_task = isinstance(getattr(callback, "__self__", None), asyncio.Task)
        (self._tasks if of_a_task else self._callbacks).append(handle)

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """Be told by a timer that is cancelled: it stays in the heap until its time has come."""

    def call_soon_threadsafe(
        self, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        """See asyncio; nobody here has threads."""
        return self.call_soon(callback, *args, context=context)

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Keep what nobody asked about."""
        self.complaints.append(f"{context.get('message')}: {context.get('exception')!r}")

    def get_debug(self) -> bool:
        """Never: asyncio's own checks look at the clock."""
        return False

    def is_running(self) -> bool:
        """Whether it runs."""
        return asyncio._get_running_loop() is self  # noqa: SLF001 - as above

    def is_closed(self) -> bool:
        """It has nothing that would have to be closed."""
        return False

    async def shutdown_asyncgens(self) -> None:
        """See asyncio."""

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:  # noqa: ASYNC109 - asyncio's signature
        """See asyncio."""
        del timeout
