"""What `up` and `down` do to a cluster on this machine: lists of commands, made here and run elsewhere.

Each command may be run again: what is there already is left as it is, or brought up to date.
"""

import hashlib
import os
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from orderly.cluster_secrets import NATS, Secret, all_secrets, namespace_of
from orderly.contracts import current_version
from orderly.newman import ROOT
from orderly.services import NAMES

HOST: Final = "arch.homework"
HEALTH: Final = f"http://{HOST}/client/health/"
OURS: Final = "app.kubernetes.io/part-of=orderly"
OVERLAY: Final = "manifests/overlays/minikube"
NAMESPACES: Final = (*(namespace_of(name) for name in ("gateway", *NAMES)), NATS)
"""In the order in which they are left: who asks goes before who answers, and the broker last."""

IN_THE_IMAGE: Final = (
    "docker",
    "pyproject.toml",
    ".dockerignore",
    "requirements.lock",
    "requirements-local.lock",
    "requirements-tools.lock",
    "README.md",
    "LICENSE",
    "cmd",
    "libs",
    "asyncapi",
)
OLDEST_MINIKUBE: Final = (1, 39)

Words = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Step:
    """A command, or several joined by pipes. It is left out when `unless` succeeds."""

    says: str
    command: tuple[Words, ...]
    unless: tuple[Words, ...] = ()

    @property
    def shell(self) -> str:
        """The step as a line for a shell."""
        line = _pipe(self.command)
        return f"{_pipe(self.unless)} >/dev/null 2>&1 || {line}" if self.unless else line


@dataclass(frozen=True, slots=True)
class Cluster:
    """The minikube to install to, which is also the name of kubectl's context."""

    profile: str
    tag: str

    @property
    def image(self) -> str:
        """The image, under a tag that stands for what is in it: loading over a tag in use fails, and says nothing."""
        return f"orderly:{self.tag}"

    def minikube(self, *words: str) -> Words:
        """A command of minikube."""
        return ("minikube", f"--profile={self.profile}", *words)

    def kubectl(self, *words: str) -> Words:
        """A command of kubectl, for this cluster whichever the current one is."""
        return ("kubectl", f"--context={self.profile}", *words)


def up_steps(cluster: Cluster) -> list[Step]:
    """List what installs the system, or brings what is installed up to date."""
    return [
        Step("Make the keys and passwords that are missing", ((*_this_program(), "up", "--only-keys"),)),
        Step(
            "Start minikube, with a network that enforces policies",
            (cluster.minikube("start", "--driver=docker", "--cni=calico", "--memory=4g"),),
            unless=(cluster.minikube("status"),),
        ),
        Step("Enable the ingress", (cluster.minikube("addons", "enable", "ingress"),)),
        *_image_steps(cluster),
        Step("Make the namespaces", (cluster.kubectl("apply", "--kustomize=manifests/base/namespaces"),)),
        *(_secret_step(cluster, secret) for secret in all_secrets()),
        # Its webhook refuses every Ingress until it runs.
        _wait(cluster, "deployment/ingress-nginx-controller", "ingress-nginx"),
        Step("Install NATS", (cluster.kubectl("apply", "--kustomize=manifests/base/nats"),)),
        _wait(cluster, "statefulset/nats", NATS),
        *(_apply_step(cluster, name) for name in NAMES),
        *(_wait(cluster, "statefulset/postgres", namespace_of(name)) for name in NAMES),
        *(_wait(cluster, f"deployment/{name}", namespace_of(name)) for name in NAMES),
        _apply_step(cluster, "gateway"),
        _wait(cluster, "deployment/gateway", namespace_of("gateway")),
    ]


def down_steps(cluster: Cluster, *, data: bool) -> list[Step]:
    """List what removes the system: workloads; with `data` also secrets, volumes and namespaces."""
    selected = (f"--selector={OURS}", "--ignore-not-found")
    rest = "ingress,statefulset,service,networkpolicy,configmap"
    steps = [Step("Look whether minikube runs", (cluster.minikube("status"),))]
    for namespace in NAMESPACES:
        there = (f"--namespace={namespace}", *selected)
        if namespace != NATS:
            # Its pods finish what is under way, for which they need their database and the broker.
            delete = cluster.kubectl("delete", "deployment", "--cascade=foreground", *there)
            steps.append(Step(f"Stop what runs in {namespace}", (delete,)))
    for namespace in NAMESPACES:
        delete = cluster.kubectl("delete", rest, f"--namespace={namespace}", *selected)
        steps.append(Step(f"Remove what is left in {namespace}", (delete,)))
    return [*steps, *_data_steps(cluster)] if data else steps


def farewell(system: str, address: str) -> str:
    """Say how the browser of this machine finds the system."""
    if system == "Linux":
        return f"Add this line to /etc/hosts:\n\n    {address} {HOST}\n\nThen: curl {HEALTH}"
    file = r"C:\Windows\System32\drivers\etc\hosts" if system == "Windows" else "/etc/hosts"
    return (
        f"Add this line to {file}:\n\n    127.0.0.1 {HOST}\n\n"
        f"and leave this running in a terminal of its own:\n\n    minikube tunnel\n\nThen: curl {HEALTH}"
    )


def image_tag(root: Path) -> str:
    """Name what goes into the image by its content: the same files have the same tag."""
    digest = hashlib.sha256()
    for name in IN_THE_IMAGE:
        place = root / name
        for path in sorted(place.rglob("*")) if place.is_dir() else [place]:
            relative = path.relative_to(root)
            if path.is_file() and not {"tests", "__pycache__"} & set(relative.parts):
                digest.update(f"{relative.as_posix()}\0{path.stat().st_size}\0".encode())
                digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def as_script(steps: list[Step]) -> str:
    """Write steps as lines for a shell, each under what it is for."""
    return "".join(f"# {step.says}\n{step.shell}\n" for step in steps)


def _image_steps(cluster: Cluster) -> Iterator[Step]:
    there = (cluster.minikube("image", "ls"), ("grep", "--fixed-strings", f"/{cluster.image}"))
    build = ("docker", "build", f"--tag={cluster.image}", "--file=docker/Dockerfile", ".")
    yield Step("Build the image", (build,), unless=there)
    yield Step("Load the image into minikube", (cluster.minikube("image", "load", cluster.image),), unless=there)


def _secret_step(cluster: Cluster, secret: Secret) -> Step:
    there = f"--namespace={secret.namespace}"
    create = ("create", "secret", "generic", secret.name, there, secret.source, "--dry-run=client", "--output=yaml")
    kept = (cluster.kubectl("get", "secret", secret.name, there),) if secret.keep else ()
    command = (cluster.kubectl(*create), cluster.kubectl("apply", "--filename=-"))
    return Step(f"Hand over the secret {secret.name} to {secret.namespace}", command, unless=kept)


def _apply_step(cluster: Cluster, service: str) -> Step:
    given = f"s|image: orderly:{current_version()}$|image: {cluster.image}|"
    command = (
        ("kubectl", "kustomize", f"{OVERLAY}/{service}"),
        ("sed", given),
        cluster.kubectl("apply", "--filename=-"),
    )
    return Step(f"Install {service}", command)


def _wait(cluster: Cluster, what: str, namespace: str) -> Step:
    command = cluster.kubectl("rollout", "status", what, f"--namespace={namespace}", "--timeout=600s")
    return Step(f"Wait for {what.rpartition('/')[2]} in {namespace}", (command,))


def _data_steps(cluster: Cluster) -> Iterator[Step]:
    for secret in all_secrets():
        delete = cluster.kubectl(
            "delete", "secret", secret.name, f"--namespace={secret.namespace}", "--ignore-not-found"
        )
        yield Step(f"Delete the secret {secret.name} of {secret.namespace}", (delete,))
    for namespace in (namespace_of(name) for name in NAMES):
        yield _volume_claims(cluster, namespace)
    yield _volume_claims(cluster, NATS)
    for namespace in (*(namespace_of(name) for name in NAMES), NATS):
        path = f'{{range .items[?(@.spec.claimRef.namespace=="{namespace}")]}}{{.metadata.name}}{{"\\n"}}{{end}}'
        listed = cluster.kubectl("get", "persistentvolume", f"--output=jsonpath={path}")
        delete = cluster.kubectl("delete", "persistentvolume", "--ignore-not-found")
        says = f"Delete the volumes of {namespace} that were to be retained"
        yield Step(says, (listed, ("xargs", "-r", *delete)))
    yield Step("Delete the namespaces", (cluster.kubectl("delete", "namespace", *NAMESPACES, "--ignore-not-found"),))


def _volume_claims(cluster: Cluster, namespace: str) -> Step:
    selected = (f"--namespace={namespace}", f"--selector={OURS}", "--ignore-not-found")
    delete = cluster.kubectl("delete", "persistentvolumeclaim", *selected)
    return Step(f"Delete the volume claims of {namespace}", (delete,))


def _this_program() -> Words:
    python = Path(sys.executable)
    short = python.relative_to(ROOT) if python.is_relative_to(ROOT) else python
    return (os.fspath(short), "-m", "orderly")


def _pipe(commands: tuple[Words, ...]) -> str:
    return " | ".join(shlex.join(words) for words in commands)
