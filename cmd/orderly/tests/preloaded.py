"""Services that start in no time: forked from a process that has imported everything, instead of importing it again.

What is forked is a process like any other, to be killed, stopped and starved like any other; only its command line is
that of the process it came from. A service's imports take two seconds, and tests start services by the hundred.
"""

import asyncio
import contextlib
import multiprocessing
import os
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Final

from libs.local.supervisor import Process, Program, die_with_parent, execute
from orderly.services import NAMES

_SERVICES: Final = (*NAMES, "gateway")
_nursery: Final = multiprocessing.get_context("forkserver")
_nursery.set_forkserver_preload([f"{name}.__main__" for name in _SERVICES])


async def spawn(program: Program) -> Process:
    """Start a process of a program; fork it where it is one of ours."""
    module = _module_of(program.argv)
    if module is None or sys.platform != "linux" or "COVERAGE_PROCESS_START" in os.environ:
        return await execute(program)
    arguments = (module, _arguments_of(program.argv), dict(program.env), program.log)
    process = _nursery.Process(target=_become, args=arguments, name=program.label, daemon=True)
    await asyncio.to_thread(process.start)  # the first one waits for the imports
    return _Forked(process)


class _Forked:
    """A forked process, as the supervisor sees a process."""

    def __init__(self, process: ForkServerProcess) -> None:
        self._process = process
        self._ended = asyncio.Event()
        asyncio.get_running_loop().add_reader(process.sentinel, self._end)

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self._process.pid is not None
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """How it ended."""
        return self._process.exitcode if self._ended.is_set() else None

    async def wait(self) -> int:
        """Wait until it ends; return how."""
        await self._ended.wait()
        assert self._process.exitcode is not None
        return self._process.exitcode

    def send_signal(self, signal: int, /) -> None:
        """Send it a signal."""
        os.kill(self.pid, signal)

    def _end(self) -> None:
        asyncio.get_running_loop().remove_reader(self._process.sentinel)
        self._ended.set()


def _module_of(argv: Sequence[str]) -> str | None:
    """The module whose ``main`` a command line runs; nothing if it is not one of our programs."""
    if Path(argv[0]).name in _SERVICES:
        return f"{Path(argv[0]).name}.__main__"
    return argv[2] if list(argv[:2]) == [sys.executable, "-m"] else None


def _arguments_of(argv: Sequence[str]) -> list[str]:
    return list(argv[3:] if argv[0] == sys.executable else argv[1:])


def _become(module: str, arguments: list[str], env: Mapping[str, str], log: Path) -> None:
    """Turn this process into what an executed program would be."""
    with contextlib.suppress(OSError):
        os.setsid()
    die_with_parent()
    os.environ.clear()
    os.environ.update(env)
    for number, target, flags in ((0, os.devnull, os.O_RDONLY), (1, log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)):
        descriptor = os.open(target, flags, 0o644)
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.dup2(1, 2)
    sys.stdout = sys.stderr = os.fdopen(1, "w", buffering=1, closefd=False)
    sys.argv = [module, *arguments]
    import_module(module).main()
