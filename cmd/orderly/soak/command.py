"""``soak``: a system of its own, faults under load, and a report on the terminal, as JSON and as a picture."""

import argparse
import json
import secrets
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.text import Text

from libs.files import write_whole
from libs.local.servers import CannotStart, free_port
from orderly.demo import PIPED_WIDTH
from orderly.faults.every import faults_on
from orderly.faults.network import WiredSystem
from orderly.run import stopping_on_signals
from orderly.settings import Settings
from orderly.soak.plot import plot
from orderly.soak.report import Report, as_json
from orderly.soak.soak import Wanted, soak
from orderly.soak.view import show
from orderly.system import Plan

CLEAN: Final = 0
NOT_CLEAN: Final = 1
PIPED_EVERY_S: Final = 10.0


async def perform(given: argparse.Namespace, settings: Settings) -> int:
    """Soak as was asked; return the exit code."""
    out = Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else PIPED_WIDTH)
    folder = given.out or settings.data_dir / "soak"
    seed = secrets.randbelow(1_000_000) if given.seed is None else given.seed
    wanted = Wanted(given.minutes * 60, seed, faults_on(given.database))
    again = f"just soak {given.minutes:g} {given.database} --seed {seed}"
    again += f" --replicas {given.replicas}" if given.replicas > 1 else ""
    out.print(Text.assemble(("Soak", "bold"), (f"  the same faults again: {again}", "dim")))
    plan = _plan(given)
    report = await _soaked(wanted, plan, out)
    show(report, out)
    _write(report, folder / f"soak-{given.database}-{seed}", out)
    if report.clean:
        shutil.rmtree(plan.data_dir, ignore_errors=True)
    else:
        out.print(Text(f"logs and databases are left in {plan.data_dir}", "dim"))
    return CLEAN if report.clean else NOT_CLEAN


async def _soaked(wanted: Wanted, plan: Plan, out: Console) -> Report:
    """Start a system, soak it, and stop it. Ctrl-C ends the load only: what was done is examined all the same."""
    system = WiredSystem(plan, lambda _sentence: None)
    async with stopping_on_signals() as stop:
        with telling(out) as tell:
            tell("starting")
            try:
                await system.start()
                return await soak(system, wanted, stop=stop, tell=tell)
            finally:
                tell("stopping")
                await system.stop()


def _plan(given: argparse.Namespace) -> Plan:
    """Make a folder and find ports that nobody else uses."""
    data = Path(tempfile.mkdtemp(prefix="orderly-soak-"))
    data.chmod(0o711)  # PostgreSQL may run as another user
    return Plan(data, free_port(), free_port(), given.database, given.replicas)


@contextmanager
def telling(out: Console) -> Iterator[Callable[[str], None]]:
    """Show how far it is: in one line to a person, in one now and then to a file."""
    if out.is_terminal:
        with out.status("") as status:
            yield status.update
        return
    shown = -PIPED_EVERY_S

    def tell(text: str) -> None:
        nonlocal shown
        if time.monotonic() - shown >= PIPED_EVERY_S:
            shown = time.monotonic()
            out.print(text)

    yield tell


def _write(report: Report, path: Path, out: Console) -> None:
    """Write a report beside its picture."""
    document = json.dumps(as_json(report), indent=2, ensure_ascii=False)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for suffix, content in ((".json", f"{document}\n"), (".svg", plot(report))):
            write_whole(path.with_suffix(suffix), content.encode())
            out.print(Text(str(path.with_suffix(suffix)), "dim"))
    except OSError as error:
        raise CannotStart(f"the report cannot be written to {path.parent}: {error.strerror}") from None
