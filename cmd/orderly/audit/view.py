"""How an audit is shown to people: a line for each check."""

import sys
from contextlib import AbstractContextManager, nullcontext
from types import TracebackType

from rich.console import Console
from rich.status import Status
from rich.table import Table
from rich.text import Text

from orderly.audit.looking import Progress
from orderly.audit.report import Check, Report
from orderly.dead_view import PIPED_WIDTH, legible


def show(report: Report) -> None:
    """Print every check, the first offenders below theirs, and what it comes to."""
    out = Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else PIPED_WIDTH)
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column()
    table.add_column(justify="right", no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    for check in report.checks:
        table.add_row(_sign(check), check.title, f"{check.examined:,}" if not check.skipped else "", _time(check))
        for one in check.first:
            table.add_row("", Text.assemble((legible(one.id), "cyan"), " ", (_line(one.what), "red")), "", "")
        if check.count > len(check.first):
            table.add_row("", Text(f"and {check.count - len(check.first):,} more", "red"), "", "")
    out.print(table)
    out.print()
    out.print(summary(report))


def summary(report: Report) -> Text:
    """Say in a line what an audit came to."""
    seconds = f"{report.seconds:.1f} s" + (f", {report.looks} looks" if report.looks > 1 else "")
    skipped = [check for check in report.checks if check.skipped]
    left_out = Text(f"; {len(skipped)} checks left out: {skipped[0].skipped}" if skipped else "", "yellow")
    if report.clean:
        return Text.assemble(("✓ the books balance", "bold green"), left_out, (f"  {seconds}", "dim"))
    failed = [check for check in report.checks if check.count]
    count = sum(check.count for check in failed)
    at_least = "at least " if any(check.at_least for check in failed) else ""
    said = f"✗ {at_least}{count:,} offender{'s' if count > 1 else ''} in {len(failed)} of {len(report.checks)} checks"
    return Text.assemble((said, "bold red"), left_out, (f"  {seconds}", "dim"))


def _sign(check: Check) -> Text:
    if check.skipped:
        return Text("-", "yellow")
    return Text("✗", "bold red") if check.count else Text("✓", "green")


def _time(check: Check) -> Text:
    if check.skipped:
        return Text("left out", "yellow")
    return Text(f"{check.seconds:.2f} s" if check.seconds >= 0.1 else f"{check.seconds * 1000:.0f} ms", "dim")


def _line(text: str) -> str:
    return legible(text).replace("\n", " ")


class Telling:
    """Says on a terminal what is being read; anywhere else nothing."""

    def __init__(self) -> None:
        console = Console(stderr=True, highlight=False, markup=False)
        self._status = Status("", console=console) if console.is_terminal else None
        self._shown: AbstractContextManager[object] = self._status or nullcontext()

    def __enter__(self) -> Progress:
        self._shown.__enter__()
        return self._tell

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._shown.__exit__(kind, error, trace)

    def _tell(self, what: str, rows: int) -> None:
        if self._status is not None:
            self._status.update(f"reading {what}" + (f", {rows:,} rows" if rows else ""))
