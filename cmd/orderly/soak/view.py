"""How a soak is shown to people: what happened, what was counted, and what it comes to."""

from collections.abc import Iterator
from typing import Final

from rich.console import Console
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from orderly.audit.view import summary as audit_summary
from orderly.faults import Fault
from orderly.soak import memory
from orderly.soak.meter import clock
from orderly.soak.report import NAMED, Report

MB: Final = 1_000_000
LONG_PAUSE_S: Final = 10.0
_VERDICTS: Final = {True: Text("flat", "green"), False: Text("grows", "bold red"), None: Text("", "dim")}


def show(report: Report, out: Console) -> None:
    """Print a report."""
    out.print(Rule("what happened", align="left", style="dim"))
    out.print(_faults(report))
    out.print(Rule("what was counted", align="left", style="dim"))
    out.print(_counts(report))
    if report.lives:
        out.print(Rule("resident memory", align="left", style="dim"))
        out.print(_memory(report))
    out.print(Rule("what it comes to", align="left", style="dim"))
    for line in _verdicts(report):
        out.print(line)


def _faults(report: Report) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for name in ("#", "at", "for", "what", "worst pause"):
        table.add_column(name, justify="left" if name == "what" else "right", no_wrap=name != "what")
    survived = report.survived
    for fault in report.faults:
        pause = report.pause_at(fault).seconds
        table.add_row(
            Text(str(fault.number), "bold" if fault in survived else "bold red"),
            clock(fault.begin_s),
            f"{fault.end_s - fault.begin_s:.1f} s",
            Text.assemble((fault.fault.name, "cyan"), f"  {fault.says}"),
            Text(f"{pause:.1f} s", "yellow" if pause > LONG_PAUSE_S else ""),
        )
    return table


def _counts(report: Report) -> Table:
    table = Table.grid(padding=(0, 2))
    orders = ", ".join(f"{count:,} {name}" for name, count in sorted(report.outcomes.items()))
    answers = ", ".join(f"{count:,} times {status}" for status, count in sorted(report.statuses.items()))
    duplicates = f"{report.handled_again:,} messages delivered again, {report.replayed:,} requests sent again"
    pause = report.worst_pause
    for name, value in (
        ("people", f"{report.people:,}"),
        ("orders", orders or "none"),
        ("answers", f"{answers}; {report.sent_again:,} requests were sent again until there was one"),
        ("duplicates absorbed", duplicates),
        ("worst pause", f"{pause.seconds:.1f} s without a confirmed order, from {clock(pause.begin_s)}"),
    ):
        table.add_row(Text(name, "dim"), value)
    return table


def _memory(report: Report) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for name in ("process", "at the first third", "at the end", "starts", ""):
        table.add_column(name, justify="left" if name in ("process", "") else "right")
    third, end = memory.at(report.lives, report.seconds / 3), memory.at(report.lives, report.seconds)
    for label in sorted(end):
        own = [life for life in report.lives if life.label == label]
        sizes = (f"{third[label] / MB:.0f} MB", f"{end[label] / MB:.0f} MB", str(len(own)))
        table.add_row(label, *sizes, _VERDICTS[memory.flat(own, report.seconds)])
    return table


def _verdicts(report: Report) -> Iterator[Text]:
    count = len(report.contradictions)
    yield _sign(not report.troubles, "every fault was caused and mended", "; ".join(report.troubles))
    unsettled = f"there were orders without an outcome after {report.settle_s:.0f} s"
    yield _sign(report.settled, f"everything settled within {report.settle_s:.0f} s after the load", unsettled)
    yield _sign(not count, "HTTP and the books agree", f"{count:,} times HTTP and the books do not agree:")
    for one in report.contradictions[:NAMED]:
        yield Text(f"    {one}", "red")
    if report.audited is None:
        yield _sign(report.audited, "", "the books could not be audited")
    else:
        yield audit_summary(report.audited)
        for name, offenders in report.audited.offenders().items():
            yield from (Text(f"    {name}: {one.id} {one.what}", "red") for one in offenders)
    if report.flat is not None:
        yield _sign(report.flat, "memory is flat", "memory grows:")
        for life in report.lives:
            if life.flat(report.seconds) is False:
                before, after = (f"{size / MB:.0f} MB" for size in (life.growth()[0], life.growth()[2]))
                yield Text(f"    {life.label}: {before} in the second fifth of its life, {after} in the last", "red")


def _sign(good: object, if_good: str, if_not: str) -> Text:
    return Text(f"✓ {if_good}", "bold green") if good else Text(f"✗ {if_not}", "bold red")


def progress(now_s: float, seconds: float, confirmed: int, present: Fault | None) -> str:
    """Say in a line how far a soak is."""
    what = present.says if present else "nothing is wrong" if now_s < seconds else "settling"
    return f"{clock(now_s)} of {clock(seconds)}, {confirmed:,} orders confirmed; {what}"
