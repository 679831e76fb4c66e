"""The operator's program: ``orderly run``, ``demo``, ``tail``, ``dead``, ``audit`` and the rest, as ``--help`` says."""

import argparse
import asyncio
import sys
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, Final

from auth import rotation
from auth.settings import KeySettings
from libs.local.servers import CannotStart
from libs.local.supervisor import interrupt_nobody
from orderly import cluster_run, databases
from orderly.audit import command as auditing
from orderly.compose import compose_down, compose_up
from orderly.contracts import current_version, write_contracts
from orderly.credentials import key_files
from orderly.dead import add_parser as add_dead
from orderly.dead import dead
from orderly.demo import demo
from orderly.engine import find_engine
from orderly.flow_view import trace
from orderly.image import test_image
from orderly.moving import add_parser as add_moving
from orderly.moving import move
from orderly.new_service import add_parser as add_new_service
from orderly.new_service import new_service
from orderly.newman import ROOT, newman
from orderly.pictures import pictures
from orderly.releases import CannotRelease, release
from orderly.run import run
from orderly.settings import Settings
from orderly.simulation.options import add_parser as add_simulate
from orderly.soak import command as soaking
from orderly.soak.options import add_parser as add_soak
from orderly.soak.options import replicas
from orderly.system import Plan, migrate_all
from orderly.tail import tail


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the program."""
    given = _parser().parse_args(arguments)
    settings = Settings.from_environment()
    try:
        performed = COMMANDS[given.command](given, settings)
        raise SystemExit(performed if isinstance(performed, int) else asyncio.run(performed))
    except CannotStart as error:
        sys.stderr.write(f"{error}\n")
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None


def _run(given: argparse.Namespace, settings: Settings) -> Coroutine[Any, Any, int]:
    plan = Plan.of(settings, database=given.database, replicas=given.replicas, cluster=given.cluster)
    interrupt_nobody()
    return run(plan, reload=given.reload)


def _tail(given: argparse.Namespace, settings: Settings) -> Coroutine[Any, Any, int]:
    return tail(given.nats_url or databases.nats_url(settings), given.subject)


def _newman(given: argparse.Namespace, settings: Settings) -> int:
    return newman(given.base_url or f"http://127.0.0.1:{settings.gateway_port}", *given.extra)


def _rotate_keys(given: argparse.Namespace, settings: Settings) -> int:
    private, public = key_files(settings.data_dir / "keys")
    return rotation.perform(given, KeySettings(jwt_private_key=private, jwt_public_keys=public))


def _up(given: argparse.Namespace, settings: Settings) -> int:
    return cluster_run.up(settings.minikube_profile, dry_run=given.dry_run, only_keys=given.only_keys)


def _down(given: argparse.Namespace, settings: Settings) -> int:
    return cluster_run.down(settings.minikube_profile, data=given.data, dry_run=given.dry_run)


def _simulate(given: argparse.Namespace) -> int:
    from orderly.simulation.simulate import simulate  # noqa: PLC0415 - takes a moment that no other command needs

    return simulate(given)


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


COMMANDS: Final[Mapping[str, Callable[[argparse.Namespace, Settings], int | Coroutine[Any, Any, int]]]] = {
    "run": _run,
    "demo": lambda _given, settings: demo(Plan.of(settings, database="sqlite")),
    "tail": _tail,
    "audit": auditing.perform,
    "dead": dead,
    "migrate": lambda given, settings: migrate_all(Plan.of(settings, database=given.database)),
    "move-database": move,
    "rotate-keys": _rotate_keys,
    "compose-up": lambda _given, settings: compose_up(find_engine(), settings),
    "compose-down": lambda given, settings: compose_down(find_engine(), settings, data=given.data),
    "test-image": lambda _given, _settings: test_image(),
    "up": _up,
    "down": _down,
    "newman": _newman,
    "contracts": lambda given, _settings: _contracts(given),
    "soak": soaking.perform,
    "simulate": lambda given, _settings: _simulate(given),
    "trace": lambda given, _settings: trace(given.fact, mermaid=given.mermaid, write=given.write),
    "pictures": lambda given, _settings: pictures(everything=given.all),
    "new-service": lambda given, _settings: new_service(given),
}
"""What each command does: at once, or while an event loop runs. Returns the exit code."""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="orderly", description="Run and watch Orderly on this machine.")
    commands = parser.add_subparsers(dest="command", required=True)

    running = commands.add_parser("run", help="run the whole system until Ctrl-C")
    running.add_argument("database", nargs="?", choices=["sqlite", "postgres"], default="sqlite")
    running.add_argument("--replicas", type=replicas, default=1, metavar="N", help="processes of each service")
    running.add_argument("--cluster", action="store_true", help="three NATS servers, each with every event")
    running.add_argument("--reload", action="store_true", help="restart the services when code changes")

    commands.add_parser("demo", help="play the story on a fresh system")

    tailing = commands.add_parser("tail", help="show events as they happen")
    tailing.add_argument(
        "subject", nargs="?", help="a subject pattern like 'orders.>', or an order's id; all by default"
    )
    tailing.add_argument("--nats-url", help="another NATS server than the one of `run`")

    migrating = commands.add_parser("migrate", help="bring the databases up to date")
    migrating.add_argument("database", nargs="?", choices=["sqlite", "postgres"], default="sqlite")

    add_moving(commands)
    add_dead(commands)
    add_new_service(commands)
    auditing.add_parser(commands)
    add_simulate(commands)
    add_soak(commands)
    writing = commands.add_parser("contracts", help="write the contracts of this checkout, or release them")
    writing.add_argument("action", nargs="?", choices=["release"], help="keep them as what was promised, too")
    writing.add_argument("version", nargs="?", help="the version to release; that of the project by default")
    writing.add_argument("--breaking", action="store_true", help="release what breaks the version before")

    tracing = commands.add_parser("trace", help="show who states and who handles each fact, and where in the code")
    tracing.add_argument("fact", nargs="?", help="only what follows from this, like orders.order.placed or 'billing.>'")
    tracing.add_argument("--mermaid", action="store_true", help="as a Mermaid diagram")
    tracing.add_argument("--write", action="store_true", help="write docs/trace.md")
    drawing = commands.add_parser("pictures", help="draw what lies under docs as .mmd or .d2 and has changed")
    drawing.add_argument("--all", action="store_true", help="draw the others again, too")
    rotating = commands.add_parser("rotate-keys", help="replace the keys that sign tokens; nobody is refused meanwhile")
    rotation.add_options(rotating)

    asking = commands.add_parser("newman", help="run the Postman collection against a running system")
    asking.add_argument("base_url", nargs="?", help="where the gateway is; the one of `run` by default")
    asking.add_argument("extra", nargs="*", help="further arguments for newman, after --")
    _add_cluster(commands)
    _add_containers(commands)
    return parser


def _add_cluster(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    installing = commands.add_parser("up", help="install the system into minikube, or bring it up to date")
    installing.add_argument("--dry-run", action="store_true", help="print the commands, run none")
    only = "make the keys and passwords that etc/keys lacks, and nothing else"
    installing.add_argument("--only-keys", action="store_true", help=only)

    removing = commands.add_parser("down", help="remove the system from minikube; its data stays")
    removing.add_argument("--data", action="store_true", help="remove volumes, secrets and namespaces, too")
    removing.add_argument("--dry-run", action="store_true", help="print the commands, run none")


def _add_containers(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    commands.add_parser("compose-up", help="run the whole system in containers, with PostgreSQL")
    ending = commands.add_parser("compose-down", help="stop and remove the containers of compose-up")
    ending.add_argument("--data", action="store_true", help="delete what they kept, and their passwords and keys, too")
    commands.add_parser("test-image", help="build the image and examine it, and the system that runs from it")


if __name__ == "__main__":
    main()
