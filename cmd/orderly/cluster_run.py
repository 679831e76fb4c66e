"""Runs `up` and `down`: looks for the tools, runs the steps in order, and says where one failed."""

import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from typing import Final

from libs.local.servers import CannotStart
from orderly.cluster import (
    HOST,
    OLDEST_MINIKUBE,
    OURS,
    Cluster,
    Step,
    as_script,
    down_steps,
    farewell,
    image_tag,
    up_steps,
)
from orderly.cluster_secrets import FOLDER, ensure_secrets
from orderly.newman import ROOT

HOW_TO_GET: Final = {
    "minikube": "https://minikube.sigs.k8s.io/docs/start/",
    "kubectl": "https://kubernetes.io/docs/tasks/tools/",
    "docker": "https://docs.docker.com/get-docker/",
    "bash": "your system's packages",
}


def up(profile: str, *, dry_run: bool = False, only_keys: bool = False) -> int:
    """Install the system into minikube. Raises `CannotStart` when a tool is missing."""
    if only_keys:
        ensure_secrets(ROOT / FOLDER)
        return 0
    cluster = Cluster(profile, image_tag(ROOT))
    steps = up_steps(cluster)
    if dry_run:
        address = "$(" + " ".join(cluster.minikube("ip")) + ")"
        print(as_script(steps) + _comment(farewell(platform.system(), address)), end="")
        return 0
    _check_tools("minikube", "kubectl", "docker")
    failed = _run(steps, cluster)
    if failed is None:
        _warn_unless_policies_are_enforced(cluster)
        address = _output(cluster.minikube("ip")).strip() or "127.0.0.1"
        print(f"\nOrderly is up.\n\n{farewell(platform.system(), address)}")
    return 0 if failed is None else 1


def down(profile: str, *, data: bool, dry_run: bool = False) -> int:
    """Remove the system from minikube. Raises `CannotStart` when a tool is missing."""
    cluster = Cluster(profile, "any")
    steps = down_steps(cluster, data=data)
    if dry_run:
        print(as_script(steps), end="")
        return 0
    _check_tools("minikube", "kubectl")
    failed = _run(steps, cluster)
    if failed is None:
        left = "minikube itself and the keys in etc/keys" if data else "volumes, secrets and namespaces"
        print(f"\nOrderly is down. What is left: {left}; and the line with {HOST} in the hosts file.")
    return 0 if failed is None else 1


def _run(steps: Sequence[Step], cluster: Cluster) -> Step | None:
    """Run the steps; return the one that failed, after saying so."""
    for number, step in enumerate(steps, 1):
        print(f"[{number}/{len(steps)}] {step.says}", flush=True)
        done = subprocess.run(["bash", "-o", "pipefail", "-c", step.shell], cwd=ROOT, check=False)
        if done.returncode != 0:
            sys.stderr.write(f"\nThis failed (exit code {done.returncode}):\n\n    {step.shell}\n\n")
            sys.stderr.write("What was done stays; run the same again once the cause is mended.\n")
            if "rollout" in step.shell:
                pods = cluster.kubectl("get", "pods", "--all-namespaces", f"--selector={OURS}")
                sys.stderr.write(f"\n{_output(pods)}")
            return step
    return None


def _check_tools(*names: str) -> None:
    """Raise `CannotStart`, which names everything that is missing, unless all is there."""
    problems = [f"{name} is missing: {HOW_TO_GET[name]}" for name in (*names, "bash") if shutil.which(name) is None]
    if shutil.which("minikube"):
        said = _output(("minikube", "version", "--short"))
        version = re.search(r"v(\d+)\.(\d+)", said)
        if version is None or (int(version[1]), int(version[2])) < OLDEST_MINIKUBE:
            wanted = ".".join(map(str, OLDEST_MINIKUBE))
            problems.append(f"minikube is {said.strip() or 'of no known version'}; {wanted} or newer is needed")
    if "docker" in names and shutil.which("docker"):
        asked = subprocess.run(["docker", "info"], check=False, capture_output=True)
        if asked.returncode != 0:
            problems.append("docker is installed, but does not run (or not for this user)")
    if problems:
        raise CannotStart("\n".join(problems))


def _warn_unless_policies_are_enforced(cluster: Cluster) -> None:
    calico = ("get", "pods", "--namespace=kube-system", "--selector=k8s-app=calico-node", "--output=name")
    if not _output(cluster.kubectl(*calico)).strip():
        print(
            f"\nThis minikube was started without --cni=calico: its network ignores the NetworkPolicies. "
            f"`minikube delete --profile={cluster.profile}` and `up` again gives one that enforces them."
        )


def _output(words: Sequence[str]) -> str:
    return subprocess.run(words, check=False, capture_output=True, text=True, env=os.environ).stdout


def _comment(text: str) -> str:
    return "".join(f"# {line}".rstrip() + "\n" for line in text.splitlines())
