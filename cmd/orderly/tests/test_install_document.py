"""docs/install-kubernetes.md, followed to the letter against stand-ins for the tools."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from libs.web.keys import load_public_keys, load_signing_key
from orderly.cluster import HEALTH, HOST, NAMESPACES, Cluster, up_steps
from orderly.cluster_secrets import all_secrets
from orderly.contracts import current_version
from orderly.newman import ROOT
from orderly.services import NAMES
from orderly.tests.rendered import named, overlay, parts
from orderly.tests.standins import StandIns

TEXT = (ROOT / "docs/install-kubernetes.md").read_text()
INSTALL, UNINSTALL = TEXT.split("\n## Uninstall\n")
WHOLE_CLUSTER = {"apply", "kustomize"}
CLUSTER_WIDE = {"persistentvolume", "namespace"}


def blocks(text: str) -> str:
    return "\n".join(re.findall(r"^```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL))


def followed(text: str, tools: StandIns, folder: Path, **more: str) -> list[str]:
    """Run every command of a text, one after another, and stop at the first that fails."""
    command = ["bash", "-euo", "pipefail", "-c", blocks(text)]
    env = tools.environment(**more)
    done = subprocess.run(command, cwd=folder, env=env, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return tools.calls()


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """Where the first part was followed, and what it called."""
    folder = tmp_path_factory.mktemp("installed")
    return folder, followed(INSTALL, StandIns(folder), folder)


def words_of(call: str) -> list[str]:
    return shlex.split(call)


def namespace_in(call: str) -> str | None:
    found = re.search(r"--namespace=(\S+)", call)
    return found[1] if found else None


def test_installing_by_the_document_makes_what_up_makes(installed: tuple[Path, list[str]]) -> None:
    folder, calls = installed
    made = {}
    for call in calls:
        if "create secret" in call:
            words = words_of(call)
            values = dict(word.partition("=")[2].split("=", 1) for word in words if word.startswith("--from-literal="))
            files = {Path(word.partition("=")[2]).name: "" for word in words if word.startswith("--from-file=")}
            made[namespace_in(call), words[4]] = values | files
    assert {one: set(keys) for one, keys in made.items()} == {
        (secret.namespace, secret.name): set(secret.keys) for secret in all_secrets()
    }
    assert list(load_public_keys(folder / "etc/keys/jwt-public.pem")) == [
        load_signing_key(folder / "etc/keys/jwt-private.pem").kid
    ]
    _are_good_passwords(made)


def _are_good_passwords(made: dict[tuple[str | None, str], dict[str, str]]) -> None:
    server = made["nats", "nats-passwords"]
    for secret in all_secrets():
        given = made[secret.namespace, secret.name]
        if secret.name == "nats-credentials":
            assert given["password"] == server[f"NATS_PASSWORD_{given['username'].upper()}"]
        if secret.keep:
            name = given["username"]
            assert given["uri"] == f"postgresql://{name}:{given['password']}@postgres:5432/{name}"
    secret_values = [value for given in made.values() for key, value in given.items() if key not in ("username", "uri")]
    assert all(re.fullmatch(r"p[0-9a-f]{32}", value) for value in secret_values if value)
    distinct = {value for value in secret_values if value}
    assert len(distinct) == 2 * len(NAMES) + (len(NAMES) + 1) + len(NAMES)


def test_the_document_applies_the_overlays_in_an_order_that_works(installed: tuple[Path, list[str]]) -> None:
    _, calls = installed
    folders = [call.partition("manifests/")[2] for call in calls if "--kustomize=" in call]
    plain = [folder for folder in folders if "gateway-api" not in folder and "/ha" not in folder]
    assert {f"manifests/{folder}" for folder in plain} == parts("overlays/minikube")
    assert set(folders) - set(plain) == {"overlays/gateway-api/gateway", "overlays/ha/system", "overlays/ha"}
    assert folders.index("overlays/ha/system") < folders.index("overlays/ha")
    assert "manifests/overlays/gateway-api/gateway" in parts("overlays/gateway-api")
    numbers = {word: place for place, call in enumerate(calls) for word in (call,)}
    namespaces = numbers["kubectl apply --kustomize=manifests/base/namespaces"]
    first_secret = min(place for call, place in numbers.items() if "create secret" in call)
    last_secret = max(place for call, place in numbers.items() if "create secret" in call)
    assert namespaces < first_secret
    assert last_secret < numbers["kubectl apply --kustomize=manifests/base/nats"]
    for tag in re.findall(r"orderly:(\S+)", blocks(INSTALL)):
        assert tag == current_version()


def test_the_document_names_the_steps_of_up(installed: tuple[Path, list[str]]) -> None:
    _, calls = installed
    assert "minikube start --driver=docker --cni=calico --memory=4g" in calls
    waited = {(words_of(call)[3], namespace_in(call)) for call in calls if "rollout status" in call}
    for step in up_steps(Cluster("minikube", "any")):
        line = step.shell
        if "rollout status" in line and "statefulset/postgres" not in line:
            assert (step.command[0][4], namespace_in(line)) in waited, line
    assert f"curl {HEALTH}" in calls
    assert "newman run postman/collection.json" in calls
    assert (ROOT / "postman/collection.json").exists()
    assert "minikube tunnel" in calls
    assert "sudo tee -a /etc/hosts" in calls
    assert HOST in INSTALL


def test_every_command_says_its_namespace() -> None:
    lines = blocks(TEXT).replace("\\\n", " ").splitlines()
    for line in (one for one in lines if "kubectl" in one):
        words = line.split()[line.split().index("kubectl") + 1 :]
        wide = words[0] in WHOLE_CLUSTER or bool(CLUSTER_WIDE & set(words[:2]))
        assert wide or namespace_in(line) in {*NAMESPACES, "ingress-nginx"}, line


def test_uninstalling_by_the_document_leaves_nothing(tmp_path: Path) -> None:
    calls = followed(UNINSTALL, StandIns(tmp_path), tmp_path, VOLUMES="pvc-1")
    gone = set()
    for call in calls:
        if "delete secret" in call:
            gone |= {(namespace_in(call), name) for name in words_of(call)[3:] if not name.startswith("--")}
    assert gone == {(secret.namespace, secret.name) for secret in all_secrets()}
    objects = [one for one in overlay("minikube") if one["kind"] != "Namespace"]
    for one in objects:
        kind, namespace = one["kind"].lower(), one["metadata"]["namespace"]
        there = [call for call in calls if namespace_in(call) == namespace and "delete" in call]
        assert [call for call in there if kind in words_of(call)[2].split(",")], f"{named(one)} stays"
    claims = {namespace_in(call) for call in calls if "delete persistentvolumeclaim" in call}
    assert claims == set(NAMESPACES) - {"client"}
    (last,) = [call for call in calls if "delete namespace" in call]
    assert set(words_of(last)[3:]) == set(NAMESPACES)
    assert "minikube addons disable ingress" in calls
