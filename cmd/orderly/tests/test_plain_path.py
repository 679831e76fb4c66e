"""The README's way to minikube by hand: its commands make the keys and secrets that the manifests ask for.

No cluster is asked: in place of kubectl stands a function that writes down what it was called with.
"""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from libs.web.keys import load_public_keys, load_signing_key
from orderly.newman import ROOT
from orderly.services import NAMES
from orderly.tests.guides import guide
from orderly.tests.rendered import overlay

KUBECTL: Final = "kubectl() { printf '%s\\0' \"$@\" >>calls; printf '\\n' >>calls; }\n"

Keys = dict[tuple[str, str], set[str]]
"""By namespace and name of a secret: the keys in it."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the commands were given."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    folder = tmp_path_factory.mktemp("by-hand")
    blocks = [block.text for block in guide(ROOT / "README.md").blocks if _makes(block.text)]
    assert len(blocks) == 4
    script = KUBECTL + "\n".join(blocks)
    environment = {"PATH": os.environ["PATH"], "RANDFILE": str(folder / ".rnd")}
    command = ["bash", "-euo", "pipefail", "-c", script]
    done = subprocess.run(command, cwd=folder, env=environment, check=False, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    return folder


def _makes(block: str) -> bool:
    return "openssl genpkey" in block or "create secret generic" in block


def called(folder: Path) -> Iterator[list[str]]:
    for line in (folder / "calls").read_text().splitlines():
        yield line.split("\0")[:-1]


def made(folder: Path) -> dict[tuple[str, str], dict[str, str]]:
    """Read the secrets: what each key in them would hold."""
    secrets: dict[tuple[str, str], dict[str, str]] = {}
    for flag, namespace, *command in called(folder):
        assert (flag, command[:3]) == ("-n", ["create", "secret", "generic"])
        contents = secrets.setdefault((namespace, command[3]), {})
        assert not contents, f"{command[3]} is made twice in {namespace}"
        for option in command[4:]:
            kind, _, value = option.partition("=")
            if kind == "--from-literal":
                key, _, contents[key] = value.partition("=")
            elif kind == "--from-file":
                contents[Path(value).name] = (folder / value).read_text()
            else:
                assert kind == "--from-env-file"
                for line in (folder / value).read_text().splitlines():
                    key, _, contents[key] = line.partition("=")
    return secrets


def test_the_keys_sign_and_verify_and_nobody_else_may_read_them(folder: Path) -> None:
    private, public = folder / "etc/keys/jwt-private.pem", folder / "etc/keys/jwt-public.pem"
    assert set(load_public_keys(public)) == {load_signing_key(private).kid}
    assert private.stat().st_mode & 0o077 == 0


def test_each_service_reaches_its_own_database_and_the_broker(folder: Path) -> None:
    secrets = made(folder)
    for (namespace, name), contents in secrets.items():
        if name.endswith("-db-secret"):
            user, password = contents["username"], contents["password"]
            assert user in NAMES
            assert contents["uri"] == f"postgresql://{user}:{password}@postgres.{namespace}.svc:5432/{user}"
            assert len({password, contents["admin-password"]}) == 2
            known = secrets["nats", "nats-passwords"][f"NATS_PASSWORD_{user.upper()}"]
            assert secrets[namespace, "nats-credentials"] == {"username": user, "password": known}
    passwords = list(secrets["nats", "nats-passwords"].values())
    assert len(passwords) == len(set(passwords)) == len(NAMES) + 1
    assert all(password[0].isalpha() for password in passwords), "the broker takes it for a number"


def asked_for(documents: tuple[dict[str, Any], ...]) -> Keys:
    """List what pods refer to; a secret that is mounted, or read whole, is asked for without a key."""
    wanted: Keys = {}

    def look(value: Any, namespace: str) -> None:
        if isinstance(value, list):
            for inner in value:
                look(inner, namespace)
        elif isinstance(value, dict):
            if "secretName" in value:
                wanted.setdefault((namespace, value["secretName"]), set())
            for kind in ("secretKeyRef", "secretRef"):
                if isinstance(value.get(kind), dict):
                    keys = wanted.setdefault((namespace, value[kind]["name"]), set())
                    keys |= {value[kind]["key"]} if "key" in value[kind] else set()
            for inner in value.values():
                look(inner, namespace)

    for document in documents:
        look(document, document["metadata"].get("namespace", ""))
    return wanted


def test_the_secrets_are_those_that_the_manifests_ask_for(folder: Path) -> None:
    wanted, secrets = asked_for(overlay("minikube")), made(folder)
    assert set(secrets) == set(wanted)
    assert {name: keys - set(secrets[name]) for name, keys in wanted.items() if keys - set(secrets[name])} == {}


def test_what_is_uninstalled_is_what_was_installed(folder: Path) -> None:
    """By hand, each secret and each volume's claim is deleted by its name."""
    text = "\n".join(block.text for block in guide(ROOT / "README.md").blocks if " delete " in block.text)
    deleted = {
        (words[2], name)
        for line in text.splitlines()
        if (words := line.split())[3:5] == ["delete", "secret"]
        for name in words[5:]
    }
    assert deleted == set(made(folder))
    applied = {
        line.split()[-1]
        for block in guide(ROOT / "README.md").blocks
        for line in block.text.splitlines()
        if line.startswith("kubectl apply -k")
    }
    removed = {line.split()[-1] for line in text.splitlines() if line.startswith("kubectl delete -k")}
    assert applied - removed == {"manifests/base/namespaces"}


def test_every_claim_is_deleted() -> None:
    claims = {
        (document["metadata"]["namespace"], f"{template['metadata']['name']}-{document['metadata']['name']}-0")
        for document in overlay("minikube")
        if document["kind"] == "StatefulSet"
        for template in document["spec"]["volumeClaimTemplates"]
    }
    text = "\n".join(block.text for block in guide(ROOT / "README.md").blocks)
    deleted = {(w[2], w[5]) for line in text.splitlines() if (w := line.split())[3:5] == ["delete", "pvc"]}
    assert deleted == claims
