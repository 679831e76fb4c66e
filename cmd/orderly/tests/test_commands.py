"""Every command in what is written for people could be given: programs, recipes, arguments, paths and names exist."""

import argparse
import contextlib
import io
import re
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

import pytest
import yaml
from pydantic_settings import BaseSettings

from auth.settings import Settings as AuthSettings
from gateway.api import BASE, HEALTH
from gateway.settings import Settings as GatewaySettings
from libs.contracts import stream_of
from libs.messaging.consumer import durables
from orderly.__main__ import _parser
from orderly.newman import ROOT
from orderly.services import NAMES, SERVICES
from orderly.settings import Settings
from orderly.tests.guides import SHELL, Block, Command, code_spans, commands, functions, guide, guides

MADE_ON_THE_WAY: Final = "loyalty"
"""The service that the walkthrough makes; `test_walkthrough.py` follows it."""

NAMESPACES: Final = {"auth", "client", "profile", "billing", "order", "notification", "nats"}
SECRETS: Final = {
    ("auth", "jwt-signing-keys"),
    *((namespace, "jwt-validation-key") for namespace in NAMESPACES - {"nats"}),
    ("auth", "auth-db-secret"),
    ("profile", "users-db-secret"),
    ("billing", "billing-db-secret"),
    ("order", "orders-db-secret"),
    ("notification", "notifications-db-secret"),
    *(
        (namespace, name)
        for namespace in NAMESPACES - {"nats", "client"}
        for name in ("nats-credentials", "fingerprint-key")
    ),
    ("nats", "nats-passwords"),
}
"""The origin's secrets and ours, each in the namespace that reads it."""

BLOCKS: Final = [block for path in guides() for block in guide(path).blocks if block.language in SHELL]
each_block = pytest.mark.parametrize("block", BLOCKS, ids=str)


class CannotBeGiven(Exception):
    """Why a command would fail."""


def refuse_unless(condition: object, why: str) -> None:
    if not condition:
        raise CannotBeGiven(why)


# Recipes


@dataclass(frozen=True, slots=True)
class Recipe:
    """A recipe of the justfile: how many arguments it takes, and the program that it hands them to."""

    least: int
    most: float
    program: list[str]


@cache
def recipes() -> dict[str, Recipe]:
    found = {}
    text = (ROOT / "justfile").read_text()
    for head in re.finditer(
        r"^([a-z][\w-]*)((?: [*+]?\w+(?:=\S+)?)*)\s*:(?!=).*\n((?:[ \t]+.*\n|\n(?=[ \t]))*)", text, re.MULTILINE
    ):
        parameters = head[2].split()
        needed = [one for one in parameters if not one.startswith("*") and "=" not in one]
        endless = any(one.startswith(("*", "+")) for one in parameters)
        program = re.search(r"exec \.venv/bin/(orderly(?: [a-z][\w-]*)*)", head[3])
        words = program[1].split() if program else []
        found[head[1]] = Recipe(len(needed), float("inf") if endless else len(parameters), words)
    return found


def just(words: Sequence[str]) -> None:
    names = [word for word in words if word not in ("--dry-run", "--list")]
    if not names:
        return
    name, *arguments = names
    refuse_unless(name in recipes(), f"there is no recipe {name}")
    recipe = recipes()[name]
    refuse_unless(recipe.least <= len(arguments) <= recipe.most, f"{name} takes other arguments")
    if recipe.program:
        orderly([*recipe.program[1:], *arguments])
    else:
        for argument in arguments:
            path = argument.partition("::")[0]
            refuse_unless("/" not in path or MADE_ON_THE_WAY in path or there(path), f"{argument} is not there")


def orderly(words: Sequence[str]) -> None:
    parsed_by(_parser(), words)


def parsed_by(parser: argparse.ArgumentParser, words: Sequence[str]) -> None:
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
            parser.parse_args([re.sub(r"^\$\w+$|SUBSTITUTED", "x", word) for word in words])
    except SystemExit as ended:
        refuse_unless(ended.code == 0, said.getvalue().strip().splitlines()[-1] if said.getvalue() else "refused")


def service(words: Sequence[str]) -> None:
    refuse_unless(not words or words[0] in ("run", "migrate", "rotate-keys"), f"no service does {words}")


# Files and addresses


def there(path: str) -> bool:
    """Whether a path of the project exists."""
    return (ROOT / path).exists()


def files_exist(words: Sequence[str]) -> None:
    """Refuse paths that look like the project's own, and are not there."""
    for word in words:
        if re.match(r"(?:\./)?(?:cmd|libs|docs|docker|manifests|postman|asyncapi)/", word):
            refuse_unless(there(word.removeprefix("./")), f"{word} is not there")


@cache
def routes() -> set[str]:
    own = {*HEALTH, f"{BASE}/docs", f"{BASE}/docs/events", f"{BASE}/openapi.json"}
    documents = {f"{BASE}/asyncapi/{name}.yaml" for name in NAMES}
    theirs = {re.sub(r"\{\w+\}", "X", BASE + route.path) for one in SERVICES for route in one.routes}
    return own | documents | theirs | {"/livez", "/readyz", "/metrics"}


def address(url: str) -> None:
    """Refuse an address whose path nobody answers."""
    door = r"(?:https?://)?(?:arch\.homework|127\.0\.0\.1:\d+|\$GATEWAY|\$BASE)"
    found = re.fullmatch(rf"{door}(/[^?]*)?(?:\?.*)?", url)
    refuse_unless(found, f"{url} is no address of ours")
    path = (found[1] if found else None) or "/"
    wanted = re.sub(r"/(?:\$\w+|<[^>]+>)", "/X", path)
    refuse_unless(path == "/" or wanted in routes(), f"nobody answers {path}")


def curl(words: Sequence[str]) -> None:
    urls = [word for word in words if re.search(r"://|^arch\.homework|^\$GATEWAY", word)]
    refuse_unless(urls, "curl without an address")
    for url in urls:
        address(url)


def newman(words: Sequence[str]) -> None:
    refuse_unless(words and words[0] == "run", "newman runs")
    refuse_unless((ROOT / words[1]).exists(), f"{words[1]} is not there")
    rest = iter(words[2:])
    for option in rest:
        refuse_unless(option in ("--folder", "--env-var", "--reporters", "--timeout-request"), f"newman {option}")
        value = next(rest, None)
        refuse_unless(value, f"newman {option} needs a value")
        if option == "--folder":
            refuse_unless(value in ("scenario", "refusals"), f"there is no folder {value}")


def npx(words: Sequence[str]) -> None:
    refuse_unless(words[:1] == ["newman"], "npx runs newman")
    newman(words[1:])


# The broker

NATS: Final[dict[tuple[str, str], int]] = {
    ("stream", "report"): 0,
    ("stream", "ls"): 0,
    ("stream", "info"): 1,
    ("consumer", "report"): 1,
    ("consumer", "info"): 2,
    ("consumer", "ls"): 1,
}
"""What a look at the broker may be, and how many names it takes."""


def nats(words: Sequence[str]) -> None:
    names, options = [], list(words)
    while options:
        word = options.pop(0)
        if not word.startswith("--"):
            names.append(word)
        elif word not in ("--headers-only", "--raw", "--all"):
            refuse_unless(
                word in ("--server", "--user", "--password", "--stream", "--count", "--since"), f"nats {word}"
            )
            refuse_unless(options, f"nats {word} needs a value")
            options.pop(0)
    if names[:1] == ["sub"]:
        refuse_unless(len(names) == 2, "nats sub takes one subject")
        refuse_unless(re.fullmatch(r"(?:[\w*$>-]+|<[\w ]+>)(?:\.(?:[\w*$>-]+|<[\w ]+>))*", names[1]), "no subject")
        return
    key = (names[0], names[1])
    refuse_unless(key in NATS, f"nats {names}")
    refuse_unless(len(names) - 2 == NATS[key], f"nats {' '.join(key)} takes {NATS[key]} names")
    known = {stream_of(one) for one in NAMES}
    if names[2:]:
        refuse_unless(names[2] in known, f"there is no stream {names[2]}")
    if names[3:]:
        refuse_unless((names[2], names[3]) in _durables(), f"there is no consumer {names[2:]}")


def _durables() -> set[tuple[str, str]]:
    return {(one.stream, one.name) for each in SERVICES for one in durables(each.name, each.listens)}


# The cluster


VERBS: Final = {"apply", "create", "delete", "describe", "exec", "get", "kustomize", "logs", "port-forward"} | {
    *("rollout", "scale", "set", "wait", "config", "version", "patch", "label", "annotate"),
}
CLUSTER_WIDE: Final = {"namespace", "namespaces", "pv", "persistentvolume", "node", "nodes", "gatewayclass"}
TAKE_A_VALUE: Final = {
    *("-n", "-f", "-k", "-l", "-o", "-c", "--namespace", "--filename", "--kustomize", "--selector", "--output"),
    *("--timeout", "--replicas", "--tail", "--for", "--from-literal", "--from-file", "--from-env-file"),
}
DIRECTORY: Final = ("-k", "--kustomize", "-f", "--filename")


def kubectl(words: Sequence[str]) -> None:
    names, options = _options(list(words))
    verb, *rest = names
    refuse_unless(verb in VERBS, f"kubectl {verb}")
    for path in (value for option, value in options if option in DIRECTORY and value != "-"):
        refuse_unless(there(path), f"{path} is not there")
    if verb in ("config", "version", "kustomize") or {option for option, _ in options} & set(DIRECTORY):
        files_exist(rest)
    elif rest and rest[0] in CLUSTER_WIDE:
        if rest[0].startswith("namespace"):
            refuse_unless(set(rest[1:]) <= NAMESPACES, f"there is no namespace {rest[1:]}")
    else:
        given = dict(options)
        _in_namespace(given.get("-n") or given.get("--namespace") or "", verb, rest)


def _options(words: list[str]) -> tuple[list[str], list[tuple[str, str]]]:
    """Tell names from options. What follows ``--`` is somebody else's."""
    names, options = [], []
    while words:
        word = words.pop(0)
        if word == "--":
            break
        if not word.startswith("-"):
            names.append(word)
        elif word in TAKE_A_VALUE:
            refuse_unless(words, f"{word} needs a value")
            options.append((word, words.pop(0)))
        else:
            name, _, value = word.partition("=")
            options.append((name, value))
    return names, options


def _in_namespace(namespace: str, verb: str, names: Sequence[str]) -> None:
    refuse_unless(namespace, f"kubectl {verb} says no namespace")
    known = namespace in NAMESPACES | {"ingress-nginx", "kube-system"}
    refuse_unless(known or namespace.startswith("$"), f"there is no namespace {namespace}")
    kinds = ["secret", "generic"] if verb == "create" else ["secret"]
    if list(names[: len(kinds)]) == kinds and namespace in NAMESPACES:
        for name in names[len(kinds) :]:
            refuse_unless((namespace, name) in SECRETS, f"there is no secret {name} in {namespace}")
    for word in [*names, "/".join(names[:2])]:
        if found := re.fullmatch(r"(deployment|statefulset|service|job)/([\w-]+)", word):
            refuse_unless((found[1], found[2]) in _workloads(), f"there is no {word}")


@cache
def _workloads() -> set[tuple[str, str]]:
    """Name what the manifests describe, by kind."""
    found = {("deployment", "ingress-nginx-controller")}
    for path in (ROOT / "manifests").rglob("*.yaml"):
        for document in yaml.safe_load_all(path.read_text()):
            if isinstance(document, dict) and "metadata" in document:
                found.add((document["kind"].lower(), document["metadata"]["name"]))
    return found


def minikube(words: Sequence[str]) -> None:
    verbs = {"start", "stop", "delete", "tunnel", "ip", "status", "addons", "image", "ssh", "version", "logs"}
    refuse_unless(words and words[0] in verbs, f"minikube {words}")


def among(*verbs: str) -> Callable[[Sequence[str]], None]:
    """Take a program whose first argument is one of these, and whose paths exist."""

    def check(words: Sequence[str]) -> None:
        found = [word for word in words if not word.startswith("-")]
        refuse_unless(set(words) & set(verbs), f"{found[:1]} is not among {verbs}")
        files_exist(words)

    return check


PLAIN: Final = (
    *(
        "apt",
        "awk",
        "cat",
        "cd",
        "chmod",
        "cp",
        "echo",
        "export",
        "grep",
        "jq",
        "ls",
        "mkdir",
        "pg_dump",
        "pg_restore",
        "pip",
        "base64",
    ),
    *("printf", "psql", "pkill", "python3", "rm", "sed", "source", "tar", "tee", "test", "umask", "uv"),
)
CHECKS: Final[dict[str, Callable[[Sequence[str]], None]]] = {
    "just": just,
    "./just": just,
    "orderly": orderly,
    "curl": curl,
    "newman": newman,
    "npx": npx,
    "nats": nats,
    "kubectl": kubectl,
    "minikube": minikube,
    "openssl": among("genpkey", "genrsa", "pkey", "rsa", "rand"),
    "docker": among("compose", "build", "image", "run", "ps", "version"),
    "git": among("clone", "pull", "push", "status", "commit", "add", "checkout", "tag"),
    **dict.fromkeys((*NAMES, "gateway"), service),
    **dict.fromkeys(PLAIN, files_exist),
}
"""Programs that the guides use. What only needs to be there is asked for its paths."""


def xargs(words: Sequence[str]) -> None:
    refuse_unless(not (why := complaints(Command([word for word in words if word != "-r"]))), why or "")


CHECKS["xargs"] = xargs


def complaints(command: Command) -> str | None:
    """Say why a command cannot be given; None when it can."""
    if not command.words:
        return None
    program, *arguments = command.words
    check = CHECKS.get(program.removeprefix(".venv/bin/"))
    if check is None:
        return f"{program} is a program that no check knows"
    try:
        check(arguments)
    except (CannotBeGiven, IndexError) as why:
        return f"{' '.join(command.words)}: {why}"
    return None


@each_block
def test_every_command_could_be_given(block: Block) -> None:
    own = functions(block.path)
    assert [why for command in commands(block.text, known=own) if (why := complaints(command))] == []


def test_every_block_is_a_script_that_a_shell_can_read(tmp_path: Path) -> None:
    offenders = []
    whole = "".join(f"f{number}() {{\n{block.text}\n}}\n" for number, block in enumerate(BLOCKS))
    if not readable(whole):  # one by one, to say which
        offenders = [str(block) for block in BLOCKS if not readable(f"f() {{\n{block.text}\n}}\n")]
        assert offenders, "the blocks are readable one by one, and not together"
    assert offenders == []


def readable(script: str) -> bool:
    return subprocess.run(["bash", "-n"], input=script.encode(), capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize(
    "text",
    [
        "./just jump",
        "./just run mysql",
        "./just migrate sqlite postgres",
        "./just test cmd/nowhere",
        "./just dead replay --never",
        "orderly move-database billing",
        "orderly move-database till postgresql://x",
        "curl http://arch.homework/client/helth/",
        "curl http://example.org/client/health/",
        "newman run postman/collections.json",
        "newman run postman/collection.json --folder refused",
        "nats stream info ORDER",
        "nats consumer info ORDERS auth",
        "nats sub '*.*.*.<order id>' more",
        "nats stream report --please",
        "kubectl get pods",
        "kubectl -n orders get pods",
        "kubectl -n profile create secret generic auth-db-secret --from-literal=password=x",
        "kubectl -n order rollout status deployment/order",
        "kubectl apply -f manifests/base/nowhere",
        "minikube begin",
        "openssl make",
        "for name in a b; do\n    ./just jump\ndone",
        "echo $(./just jump)",
        "cat docs/nowhere.md | grep x",
        "rmdir x",
    ],
)
def test_what_could_not_be_given_is_noticed(text: str) -> None:
    assert [why for command in commands(text) if (why := complaints(command))]


# Settings


def variables_known() -> set[str]:
    classes: list[type[BaseSettings]] = [AuthSettings, GatewaySettings, Settings, *(one.settings for one in SERVICES)]
    return {name.upper() for one in classes for name in one.model_fields} | {
        f"{name.upper()}_DATABASE_URL" for name in NAMES
    }


OTHERS: Final = {
    "PGPASSWORD",  # libpq's
    "NATS_PASSWORD_<USER>",  # the broker's own, in access.conf
    "<SERVICE>_DATABASE_URL",
    *("BENCH_POSTGRES_URL", "BENCH_NATS_URL"),  # the benchmark's
    *("ORDERLY_IMAGE", "PYTHON_IMAGE", "NATS_IMAGE", "POSTGRES_IMAGE", "SSL_CERT_FILE"),  # Compose's, and the build's
}


@pytest.mark.parametrize("path", guides(), ids=lambda path: path.name)
def test_every_setting_that_is_named_exists(path: Path) -> None:
    """What is set before a command, and what looks like a variable of ours between backticks."""
    named = {span for line in guide(path).prose for span in code_spans(line)}
    named = {span for span in named if re.fullmatch(r"[A-Z<][A-Z>]*(?:_[A-Z0-9<>]+)+", span)}
    for block in guide(path).blocks:
        if block.language in SHELL:
            given = [command for command in commands(block.text) if command.words and command.variables]
            named |= {name for command in given for name in command.variables if name.isupper()}
    assert named - variables_known() - OTHERS - _others_of(path) == set()


def _others_of(path: Path) -> set[str]:
    """Decision records may name what a setting was called."""
    return {"SQLITE_BUSY"} if "decisions" in path.parts else set()
