"""`up` and `down`: the list of commands, and what happens when it is run against stand-ins for the tools."""

import subprocess
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
import yaml

from libs.local.servers import CannotStart
from libs.web.keys import load_public_keys, load_signing_key
from orderly import cluster, cluster_run
from orderly.__main__ import main
from orderly.cluster import NAMESPACES, Cluster, Step, as_script, down_steps, farewell, image_tag, up_steps
from orderly.cluster_secrets import all_secrets, ensure_secrets, namespace_of
from orderly.newman import ROOT
from orderly.services import NAMES
from orderly.tests.rendered import kubectl, parts
from orderly.tests.standins import StandIns

MINIKUBE = Cluster("minikube", "0123456789ab")


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StandIns:
    """Stand-ins, and a checkout that `up` may write to."""
    made = StandIns(tmp_path)
    (tmp_path / "checkout").mkdir()
    monkeypatch.setattr(cluster_run, "ROOT", tmp_path / "checkout")
    monkeypatch.setattr(cluster_run, "image_tag", lambda _root: MINIKUBE.tag)
    monkeypatch.setattr(cluster, "_this_program", lambda: ("orderly",))
    monkeypatch.setattr("platform.system", lambda: "Linux")
    for name, value in made.environment().items():
        monkeypatch.setenv(name, value)
    return made


def places(steps: list[Step], chosen: Callable[[str], bool]) -> list[int]:
    found = [number for number, step in enumerate(steps) if chosen(step.shell)]
    assert found
    return found


def test_nothing_comes_before_what_it_needs() -> None:
    steps = up_steps(MINIKUBE)
    starts = places(steps, lambda line: "minikube start" in line or " start " in line)
    keys = places(steps, lambda line: "--only-keys" in line)
    loads = places(steps, lambda line: "image load" in line)
    namespaces = places(steps, lambda line: "base/namespaces" in line)
    secrets = places(steps, lambda line: "create secret" in line)
    nats = places(steps, lambda line: "base/nats" in line)
    services = places(steps, lambda line: any(f"overlays/minikube/{name}" in line for name in NAMES))
    gateway = places(steps, lambda line: "overlays/minikube/gateway" in line)
    ingress = places(steps, lambda line: "rollout status deployment/ingress-nginx-controller" in line)
    in_order = [starts, namespaces, secrets, nats, services, gateway]
    for earlier, later in pairwise(in_order):
        assert max(earlier) < min(later)
    assert max(keys) < min(secrets)
    assert max(loads) < min(services)
    assert max(ingress) < min(gateway)
    assert len(secrets) == len(all_secrets())
    waits = places(steps, lambda line: "rollout status" in line)
    waited = {words for number in waits for words in steps[number].command[0] if "/" in words}
    assert waited >= {"statefulset/nats", "statefulset/postgres", "deployment/gateway"}
    assert waited >= {f"deployment/{name}" for name in NAMES}
    assert waits[-1] == len(steps) - 1


def test_what_is_applied_is_the_overlay_with_the_image_that_was_built() -> None:
    applied = set()
    text = (ROOT / "manifests/base/auth/deployment.yaml").read_text()
    for step in up_steps(MINIKUBE):
        for words in step.command:
            applied |= {word.removeprefix("--kustomize=") for word in words if "manifests/" in word}
            if words[0] == "sed":
                done = subprocess.run(words, input=text, check=True, capture_output=True, text=True).stdout
                images = {line.strip() for line in done.splitlines() if "image: orderly" in line}
                assert images == {f"image: {MINIKUBE.image}"}
    assert applied == parts("overlays/minikube")


@pytest.mark.parametrize("data", [True, False])
def test_the_lists_are_lines_for_a_shell(data: bool, capsys: pytest.CaptureFixture[str]) -> None:
    for steps in (up_steps(MINIKUBE), down_steps(MINIKUBE, data=data)):
        done = subprocess.run(["bash", "-n"], input=as_script(steps), check=False, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")
    with pytest.raises(SystemExit) as ended:
        main(["down", "--dry-run", *(["--data"] if data else [])])
    assert ended.value.code == 0
    assert capsys.readouterr().out == as_script(down_steps(MINIKUBE, data=data))


def test_a_dry_run_prints_every_command_and_runs_none(tools: StandIns, capsys: pytest.CaptureFixture[str]) -> None:
    tools.without("minikube", "kubectl", "docker")
    assert cluster_run.up("minikube", dry_run=True) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(as_script(up_steps(MINIKUBE)))
    assert "$(minikube --profile=minikube ip) arch.homework" in printed
    assert tools.calls() == []


def test_up_twice_is_up_once(tools: StandIns, capsys: pytest.CaptureFixture[str]) -> None:
    assert cluster_run.up("minikube") == 0
    calls = tools.calls()
    assert "192.168.49.2 arch.homework" in capsys.readouterr().out
    assert "minikube --profile=minikube start --driver=docker --cni=calico --memory=4g" in calls
    assert f"docker build --tag={MINIKUBE.image} --file=docker/Dockerfile ." in calls
    assert tools.applied().count(f"image: {MINIKUBE.image}") == len(NAMES) + 1
    assert cluster_run.up("minikube") == 0
    again = tools.calls(since=len(calls))
    once = {call for call in calls if " start " in call or "docker build" in call or "image load" in call}
    once |= {call for call in calls if "create secret" in call and "-db-secret" in call}
    assert len(once) == 3 + len(NAMES)
    assert set(calls) - set(again) == once
    capsys.readouterr()


def test_up_stops_where_something_fails_and_goes_on_from_there(
    tools: StandIns, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FAILS", "rollout status deployment/billing")
    assert cluster_run.up("minikube") == 1
    said = capfd.readouterr().err
    assert "This failed (exit code 7)" in said
    assert "kubectl --context=minikube rollout status deployment/billing --namespace=billing" in said
    assert "CrashLoopBackOff" in said
    assert not [call for call in tools.calls() if "overlays/minikube/gateway" in call]


def test_the_first_of_a_pipe_may_fail_too(tools: StandIns, capfd: pytest.CaptureFixture[str]) -> None:
    good, bad = Step("Say it", (("echo", "it"), ("cat",))), Step("Fail", (("grep", "it", "nowhere"), ("cat",)))
    assert cluster_run._run([good, bad, good], MINIKUBE) is bad
    said = capfd.readouterr()
    assert said.out.splitlines() == ["[1/3] Say it", "it", "[2/3] Fail"]
    assert "grep it nowhere | cat" in said.err


def test_whatever_is_missing_is_said_at_once(tools: StandIns, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VERSION", "v1.38.1")
    monkeypatch.setenv("FAILS", "info")
    tools.without("kubectl")
    with pytest.raises(CannotStart) as said:
        cluster_run.up("minikube")
    assert [line.split(":")[0] for line in str(said.value).splitlines()] == [
        "kubectl is missing",
        "minikube is v1.38.1; 1.39 or newer is needed",
        "docker is installed, but does not run (or not for this user)",
    ]
    tools.without("minikube", "docker")
    with pytest.raises(CannotStart, match=r"minikube is missing: https://.*\nkubectl is missing: https://\S+$"):
        cluster_run.down("minikube", data=False)
    assert {call.split()[0] for call in tools.calls()} == {"minikube", "docker"}
    assert not [call for call in tools.calls() if "start" in call or "build" in call]


def test_a_network_that_ignores_policies_is_mentioned(
    tools: StandIns, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for policies, told in (("some", False), ("none", True)):
        monkeypatch.setenv("POLICIES", policies)
        cluster_run._warn_unless_policies_are_enforced(MINIKUBE)
        assert ("ignores the NetworkPolicies" in capsys.readouterr().out) is told


def test_down_leaves_the_data_and_down_data_leaves_nothing(
    tools: StandIns, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cluster_run.down("minikube", data=False) == 1, "minikube does not run"
    (tools.state / "running").touch()
    monkeypatch.setenv("VOLUMES", "pvc-1 pvc-2")
    before = len(tools.calls())
    assert cluster_run.down("minikube", data=False) == 0
    calls = tools.calls(since=before)
    deleted = {call.split(" delete ")[1].split()[0] for call in calls if " delete " in call}
    assert deleted == {"deployment", "ingress,statefulset,service,networkpolicy,configmap"}
    first = [namespace for namespace in NAMESPACES if namespace != "nats"]
    stopped = [call for call in calls if "delete deployment" in call]
    assert [call.partition("--namespace=")[2].split()[0] for call in stopped] == first
    before += len(calls)
    assert cluster_run.down("minikube", data=True) == 0
    calls = tools.calls(since=before)
    for secret in all_secrets():
        gone = f"delete secret {secret.name} --namespace={secret.namespace} --ignore-not-found"
        assert f"kubectl --context=minikube {gone}" in calls
    claims = [call for call in calls if "delete persistentvolumeclaim" in call]
    assert {call.partition("--namespace=")[2].split()[0] for call in claims} == set(NAMESPACES) - {"client"}
    volumes = "kubectl --context=minikube delete persistentvolume --ignore-not-found pvc-1 pvc-2"
    assert calls.count(volumes) == len(NAMESPACES) - 1
    assert calls[-1] == f"kubectl --context=minikube delete namespace {' '.join(NAMESPACES)} --ignore-not-found"
    capsys.readouterr()


def test_another_minikube_may_be_meant(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("MINIKUBE_PROFILE", "second")
    with pytest.raises(SystemExit):
        main(["up", "--dry-run"])
    for line in capsys.readouterr().out.splitlines():
        if not line.startswith("#"):
            for tool, option in (("minikube ", "--profile=second"), ("kubectl ", "--context=second")):
                for said in line.split(tool)[1:]:
                    assert said.startswith((option, "kustomize")), line


@pytest.mark.parametrize(
    ("system", "line", "tunnel"),
    [
        ("Linux", "10.0.0.1 arch.homework", False),
        ("Darwin", "127.0.0.1 arch.homework", True),
        ("Windows", "127.0.0.1 arch.homework", True),
    ],
)
def test_every_platform_gets_its_line(system: str, line: str, tunnel: bool) -> None:
    said = farewell(system, "10.0.0.1")
    assert line in said
    assert ("minikube tunnel" in said) is tunnel
    assert "http://arch.homework/client/health/" in said


def test_the_tag_stands_for_what_is_in_the_image(tmp_path: Path) -> None:
    for name in ("cmd/billing/tests", "libs", "docker"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "cmd/billing/app.py").write_text("a")
    first = image_tag(tmp_path)
    (tmp_path / "cmd/billing/tests/test_app.py").write_text("a")
    (tmp_path / "notes").write_text("a")
    assert image_tag(tmp_path) == first
    for change in ("cmd/billing/app.py", "cmd/billing/api.py", "pyproject.toml", "docker/Dockerfile"):
        before = image_tag(tmp_path)
        (tmp_path / change).write_text("b")
        assert image_tag(tmp_path) != before, change
    assert len(image_tag(ROOT)) == 12


def test_keys_and_passwords_are_made_once(tmp_path: Path) -> None:
    ensure_secrets(tmp_path)
    files = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert {path.stat().st_mode & 0o077 for path in [*files, *tmp_path.iterdir()]} == {0}
    ensure_secrets(tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == files
    key = load_signing_key(tmp_path / "jwt-private.pem")
    assert list(load_public_keys(tmp_path / "jwt-public.pem")) == [key.kid]
    (tmp_path / "jwt-public.pem").unlink()
    (tmp_path / "billing/fingerprint-key.env").unlink()
    ensure_secrets(tmp_path)
    assert list(load_public_keys(tmp_path / "jwt-public.pem")) == [key.kid]
    changed = {path for path, content in files.items() if path.read_bytes() != content}
    assert changed == {tmp_path / "billing/fingerprint-key.env"}


def test_the_server_knows_the_passwords_of_its_users(tmp_path: Path) -> None:
    ensure_secrets(tmp_path)
    told = dict(line.split("=") for line in (tmp_path / "nats/nats-passwords.env").read_text().splitlines())
    assert {value[0].isalpha() for value in told.values()} == {True}, "nats-server takes it for a number"
    assert len(set(told.values())) == len(told) == len(NAMES) + 1
    for name in NAMES:
        own = (tmp_path / namespace_of(name) / "nats-credentials.env").read_text()
        assert own == f"username={name}\npassword={told[f'NATS_PASSWORD_{name.upper()}']}\n"


def test_kubectl_makes_the_secrets_that_the_manifests_read(tmp_path: Path) -> None:
    """The real one, which needs no cluster for this."""
    ensure_secrets(tmp_path / "etc/keys")
    known = {secret.name: secret for secret in all_secrets() if secret.namespace in ("auth", "nats")}
    for name in ("nats-passwords", "auth-db-secret", "jwt-signing-keys"):
        (step,) = [one for one in up_steps(MINIKUBE) if f"the secret {name} " in one.says]
        command = [kubectl(), *(word for word in step.command[0][1:] if not word.startswith("--context"))]
        done = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True)
        made = yaml.safe_load(done.stdout)
        assert (made["metadata"]["namespace"], made["metadata"]["name"]) == (known[name].namespace, name)
        assert set(made["data"]) == set(known[name].keys)
