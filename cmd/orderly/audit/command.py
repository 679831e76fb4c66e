"""``audit``: one audit, or one after the other."""

import argparse
import asyncio
import json
import sys
from pathlib import Path
from typing import Any, Final

from prometheus_client import generate_latest, start_http_server

from libs.files import write_whole
from libs.local.servers import CannotStart
from orderly import databases
from orderly.audit.looking import PATIENCE_S, audit
from orderly.audit.reading import CannotAudit
from orderly.audit.report import AuditMetrics, Report, as_json, failure_as_json
from orderly.audit.view import Telling, show, summary
from orderly.dead_view import console
from orderly.run import stopping_on_signals
from orderly.services import NAMES
from orderly.settings import Settings

WATCH_EVERY_S: Final = 30.0

CLEAN: Final = 0
OFFENDERS: Final = 1
UNREADABLE: Final = 2


async def perform(given: argparse.Namespace, settings: Settings) -> int:
    """Audit as was asked; return the exit code, in a watch that of the last audit."""
    metrics = AuditMetrics()
    if given.watch is None:
        return await _once(given, settings, metrics, brief=False)
    if given.metrics_port is not None:
        try:
            start_http_server(given.metrics_port, addr="127.0.0.1", registry=metrics.registry)
        except OSError as error:
            raise CannotStart(f"port {given.metrics_port} is not free for metrics: {error.strerror}") from None
    code = CLEAN
    async with stopping_on_signals() as stop:
        first = True
        while not stop.is_set():
            auditing = asyncio.create_task(_once(given, settings, metrics, brief=not first))
            stopped = asyncio.create_task(stop.wait())
            await asyncio.wait({auditing, stopped}, return_when=asyncio.FIRST_COMPLETED)
            if not auditing.done():
                auditing.cancel()
                await asyncio.gather(auditing, return_exceptions=True)
                break
            code, first = await auditing, False
            await asyncio.wait({stopped}, timeout=given.watch)
    return code


async def _once(given: argparse.Namespace, settings: Settings, metrics: AuditMetrics, *, brief: bool) -> int:
    """Audit once, and say what it came to; `brief` says it in a line when all is well."""
    nats_url = None if given.no_streams else given.nats_url or databases.nats_url(settings)
    try:
        with Telling() as progress:
            urls = databases.urls(settings, NAMES)
            report = await audit(urls, nats_url, patience_s=given.patience, progress=progress)
    except CannotAudit as error:
        metrics.show_failure()
        code = _say_failure(str(error), as_document=given.json)
    else:
        metrics.show(report)
        _say(report, as_document=given.json, compact=given.watch is not None, brief=brief)
        code = CLEAN if report.clean else OFFENDERS
    if given.metrics is not None:
        _write(given.metrics, generate_latest(metrics.registry))
    return code


def _say(report: Report, *, as_document: bool, compact: bool, brief: bool) -> None:
    if as_document:
        _print_document(as_json(report), compact=compact)
    elif brief and report.clean:
        console().print(f"{report.at.astimezone():%H:%M:%S} ", summary(report))
    else:
        show(report)


def _say_failure(why: str, *, as_document: bool) -> int:
    if as_document:
        _print_document(failure_as_json(why), compact=True)
    sys.stderr.write(f"{why}\n")
    return UNREADABLE


def _print_document(document: dict[str, Any], *, compact: bool) -> None:
    """Print JSON; in a watch, one document a line."""
    print(json.dumps(document, indent=None if compact else 2, ensure_ascii=False), flush=True)


def _write(path: Path, content: bytes) -> None:
    try:
        write_whole(path, content)
    except OSError as error:
        raise CannotStart(f"the metrics cannot be written to {path}: {error.strerror}") from None


def add_parser(commands: Any) -> None:
    """Describe ``orderly audit …`` to argparse."""
    auditing = commands.add_parser(
        "audit",
        help="read all databases and streams, and say whether the books balance",
        description="Exit code 0: nothing is wrong. 1: something is, and is named. 2: something cannot be read.",
    )
    auditing.add_argument(
        "--watch",
        nargs="?",
        type=_seconds,
        const=WATCH_EVERY_S,
        metavar="SECONDS",
        help="audit again and again, so many seconds apart (30)",
    )
    auditing.add_argument("--json", action="store_true", help="one document; with --watch one a line")
    auditing.add_argument(
        "--patience",
        type=_seconds,
        default=PATIENCE_S,
        metavar="SECONDS",
        help="for how long what may be under way must look wrong (15)",
    )
    auditing.add_argument("--no-streams", action="store_true", help="leave the streams out, when there is no broker")
    auditing.add_argument("--nats-url", metavar="URL", help="another NATS server than the one of `run`")
    auditing.add_argument("--metrics", type=Path, metavar="FILE", help="write the result for Prometheus, too")
    auditing.add_argument("--metrics-port", type=_port, metavar="PORT", help="with --watch: answer Prometheus there")


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 <= seconds <= 86_400:
        raise argparse.ArgumentTypeError("must be from 0 to 86400")
    return seconds


def _port(text: str) -> int:
    port = int(text)
    if not 1 <= port <= 65_535:
        raise argparse.ArgumentTypeError("must be from 1 to 65535")
    return port
