"""Processes: started, watched, started again when they die, stopped in good order."""

import asyncio
import contextlib
import ctypes
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

FIRST_BACKOFF_S: Final = 0.2
LONGEST_BACKOFF_S: Final = 5.0
HEALTHY_AFTER_S: Final = 10.0
KILL_AFTER_S: Final = 20.0
LOG_AT_MOST: Final = 64 << 20
_PR_SET_PDEATHSIG: Final = 1


@dataclass(frozen=True, slots=True)
class Program:
    """A process to keep running. `replica` tells apart several of one kind; `log` gets what it prints."""

    name: str
    argv: Sequence[str]
    env: Mapping[str, str]
    log: Path
    user: str | None = None
    stop_signal: signal.Signals = signal.SIGTERM
    replica: int = 1

    @property
    def label(self) -> str:
        """What to call it."""
        return self.name if self.replica == 1 else f"{self.name}#{self.replica}"


class Process(Protocol):
    """A process that was started: what asyncio says of it."""

    @property
    def pid(self) -> int:
        """Its process id."""

    @property
    def returncode(self) -> int | None:
        """How it ended: its exit code, or a signal's number below zero; nothing while it runs."""

    async def wait(self) -> int:
        """Wait until it ends; return how."""

    def send_signal(self, signal: int, /) -> None:
        """Send it a signal. Raises `ProcessLookupError` when it has ended."""


@dataclass(slots=True)
class _Kept:
    program: Program
    process: Process | None = None
    watching: "asyncio.Task[None] | None" = None
    stopping: bool = False
    changed: asyncio.Event = field(default_factory=asyncio.Event)


class Supervisor:
    """Keeps programs running until they are stopped. `say` gets one sentence whenever something happens.

    `spawn` starts a process.
    """

    def __init__(
        self, say: Callable[[str], None], spawn: "Callable[[Program], Awaitable[Process]] | None" = None
    ) -> None:
        self._say = say
        self._start_process = spawn or execute
        self._kept: dict[str, _Kept] = {}

    async def start(self, program: Program) -> None:
        """Start a program and keep it running."""
        kept = self._kept[program.label] = _Kept(program)
        await self._spawn(kept)
        kept.watching = asyncio.create_task(self._watch(kept), name=f"watch {program.label}")

    async def stop(self, labels: Sequence[str] | None = None, *, number: signal.Signals | None = None) -> None:
        """Stop programs (all of them, unless named) at once and wait for them to end; kill what takes too long.

        Each is told with the signal that it is stopped with, unless another `number` is given.
        """
        stopping = [kept for label, kept in self._kept.items() if labels is None or label in labels]
        for kept in stopping:
            kept.stopping = True
            kept.changed.set()
        await asyncio.gather(*(self._end(kept, number or kept.program.stop_signal) for kept in stopping))
        for kept in stopping:
            self._kept.pop(kept.program.label, None)

    async def restart(self, label: str, *, number: signal.Signals = signal.SIGTERM) -> None:
        """End a program with a signal and wait until it runs again, as another process."""
        kept = self._kept[label]
        old = kept.process
        assert old is not None
        old.send_signal(number)
        while kept.process is old or kept.process is None:
            kept.changed.clear()
            await kept.changed.wait()

    def pid(self, label: str) -> int | None:
        """The process id of a program that runs."""
        process = self._kept[label].process
        return process.pid if process and process.returncode is None else None

    @property
    def labels(self) -> tuple[str, ...]:
        """What is kept running."""
        return tuple(self._kept)

    async def _spawn(self, kept: _Kept) -> None:
        program = kept.program
        program.log.parent.mkdir(parents=True, exist_ok=True)
        if program.log.exists() and program.log.stat().st_size > LOG_AT_MOST:
            program.log.replace(program.log.with_suffix(".old.log"))
        kept.process = await self._start_process(program)
        kept.changed.set()

    async def _watch(self, kept: _Kept) -> None:
        backoff_s = FIRST_BACKOFF_S
        while True:
            assert kept.process is not None
            started = time.monotonic()
            code = await kept.process.wait()
            if kept.stopping:
                return
            if time.monotonic() - started > HEALTHY_AFTER_S:
                backoff_s = FIRST_BACKOFF_S
            why = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"exited with code {code}"
            self._say(f"{kept.program.label} {why}; starting it again in {backoff_s:.1f} s (see {kept.program.log})")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(backoff_s):
                    while not kept.stopping:
                        kept.changed.clear()
                        await kept.changed.wait()
            if kept.stopping:
                return
            backoff_s = min(backoff_s * 2, LONGEST_BACKOFF_S)
            await self._spawn(kept)

    async def _end(self, kept: _Kept, number: signal.Signals) -> None:
        process = kept.process
        if process is not None and process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(number)
            try:
                await asyncio.wait_for(process.wait(), KILL_AFTER_S)
            except TimeoutError:
                self._say(f"{kept.program.label} did not stop within {KILL_AFTER_S:.0f} s; killing it")
                with contextlib.suppress(ProcessLookupError):
                    process.send_signal(signal.SIGKILL)
                await process.wait()
        if kept.watching:
            await asyncio.gather(kept.watching, return_exceptions=True)


async def execute(program: Program) -> Process:
    """Start a process of a program."""
    with program.log.open("ab") as log:
        return await asyncio.create_subprocess_exec(
            *program.argv,
            env=dict(program.env),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,  # Ctrl-C is for the supervisor, which stops everybody in order
            user=program.user,
            extra_groups=[] if program.user else None,
            preexec_fn=die_with_parent if sys.platform == "linux" else None,
        )


def interrupt_nobody() -> None:
    """Have the processes that this one starts from now on let each other finish, as far as the system can.

    Services, servers and clients on one machine wake each other for every message, and Linux lets whoever is woken
    interrupt whoever is at work; then work is done in small pieces, with cold caches. As "batch" processes (sched(7))
    they take their turn. Their share of the machine stays the same; beside others that keep it busy they answer later.
    """
    if sys.platform == "linux":
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


def die_with_parent() -> None:
    """Ask Linux to end this process when its supervisor dies, however it dies."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def environment(**extra: str) -> dict[str, str]:
    """The environment of a child: what programs need to run here, and `extra`; nothing else leaks in."""
    kept = (
        "PATH",
        "HOME",
        "LANG",
        "LC_ALL",
        "TMPDIR",
        "TZ",
        "LD_LIBRARY_PATH",
        "SYSTEMROOT",
        "COVERAGE_PROCESS_START",
    )
    return {name: os.environ[name] for name in kept if name in os.environ} | extra
