"""The operator's program: ``orderly run``, ``demo``, ``tail``, ``dead``, ``trace`` and the rest, as ``--help`` says."""

import argparse
import asyncio
import sys
from collections.abc import Coroutine, Sequence
from typing import Any

from auth import rotation
from auth.settings import KeySettings
from libs.local.servers import CannotStart
from orderly.contracts import current_version, write_contracts
from orderly.credentials import key_files
from orderly.dead import add_parser as add_dead
from orderly.dead import dead
from orderly.demo import demo
from orderly.flow_view import trace
from orderly.newman import ROOT, newman
from orderly.releases import CannotRelease, release
from orderly.run import run
from orderly.settings import Settings
from orderly.simulation.options import add_parser as add_simulate
from orderly.system import Plan, migrate_all
from orderly.tail import tail


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the program."""
    given = _parser().parse_args(arguments)
    settings = Settings.from_environment()
    try:
        raise SystemExit(_perform(given, settings))
    except CannotStart as error:
        sys.stderr.write(f"{error}\n")
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None


def _perform(given: argparse.Namespace, settings: Settings) -> int:
    match given.command:
        case "contracts":
            return _contracts(given)
        case "trace":
            return trace(given.fact, mermaid=given.mermaid, write=given.write)
        case "rotate-keys":
            private, public = key_files(settings.data_dir / "keys")
            return rotation.perform(given, KeySettings(jwt_private_key=private, jwt_public_keys=public))
        case "newman":
            return newman(given.base_url or f"http://127.0.0.1:{settings.gateway_port}", *given.extra)
        case "simulate":
            from orderly.simulation.simulate import simulate  # noqa: PLC0415 - loads every service

            return simulate(given)
        case _:
            return asyncio.run(_work(given, settings))


def _contracts(given: argparse.Namespace) -> int:
    try:
        paths = write_contracts(ROOT)
        if given.action == "release":
            paths += release(ROOT, given.version or current_version(), breaking=given.breaking)
    except CannotRelease as error:
        sys.stderr.write(f"{error}\n")
        return 1
    for path in paths:
        print(path.relative_to(ROOT))
    return 0


def _work(given: argparse.Namespace, settings: Settings) -> Coroutine[Any, Any, int]:
    """Begin what takes a while."""
    match given.command:
        case "run":
            plan = Plan.of(settings, database=given.database, replicas=given.replicas)
            return run(plan, reload=given.reload)
        case "demo":
            return demo(Plan.of(settings, database="sqlite"))
        case "tail":
            return tail(given.nats_url or f"nats://127.0.0.1:{settings.nats_port}", given.subject)
        case "migrate":
            return migrate_all(Plan.of(settings, database=given.database))
        case _:
            return dead(given, settings)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="orderly", description="Run and watch Orderly on this machine.")
    commands = parser.add_subparsers(dest="command", required=True)

    running = commands.add_parser("run", help="run the whole system until Ctrl-C")
    running.add_argument("database", nargs="?", choices=["sqlite", "postgres"], default="sqlite")
    running.add_argument("--replicas", type=_replicas, default=1, metavar="N", help="processes of each service")
    running.add_argument("--reload", action="store_true", help="restart the services when code changes")

    commands.add_parser("demo", help="play the story on a fresh system")

    tailing = commands.add_parser("tail", help="show events as they happen")
    tailing.add_argument(
        "subject", nargs="?", help="a subject pattern like 'orders.>', or an order's id; all by default"
    )
    tailing.add_argument("--nats-url", help="another NATS server than the one of `run`")

    migrating = commands.add_parser("migrate", help="bring the databases up to date")
    migrating.add_argument("database", nargs="?", choices=["sqlite", "postgres"], default="sqlite")

    add_dead(commands)
    add_simulate(commands)
    writing = commands.add_parser("contracts", help="write the contracts of this checkout, or release them")
    writing.add_argument("action", nargs="?", choices=["release"], help="keep them as what was promised, too")
    writing.add_argument("version", nargs="?", help="the version to release; that of the project by default")
    writing.add_argument("--breaking", action="store_true", help="release what breaks the version before")

    tracing = commands.add_parser("trace", help="show who states and who handles each fact, and where in the code")
    tracing.add_argument("fact", nargs="?", help="only what follows from this, like orders.order.placed or 'billing.>'")
    tracing.add_argument("--mermaid", action="store_true", help="as a Mermaid diagram")
    tracing.add_argument("--write", action="store_true", help="write docs/trace.md")
    rotating = commands.add_parser("rotate-keys", help="replace the keys that sign tokens; nobody is refused meanwhile")
    rotation.add_options(rotating)

    asking = commands.add_parser("newman", help="run the Postman collection against a running system")
    asking.add_argument("base_url", nargs="?", help="where the gateway is; the one of `run` by default")
    asking.add_argument("extra", nargs="*", help="further arguments for newman, after --")
    return parser


def _replicas(text: str) -> int:
    count = int(text)
    if not 1 <= count <= 8:
        raise argparse.ArgumentTypeError("must be from 1 to 8")
    return count


if __name__ == "__main__":
    main()
