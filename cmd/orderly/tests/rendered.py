"""Manifests as a cluster would get them, and what can be asked about them."""

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Final

import yaml

from orderly.newman import ROOT

Json = dict[str, Any]

OVERLAYS: Final = ("minikube", "gateway-api", "ha")
SCHEMA_VERSION: Final = "1.37"
CUSTOM: Final = {
    "Cluster": "postgresql.cnpg.io/v1",
    "Gateway": "gateway.networking.k8s.io/v1",
    "HTTPRoute": "gateway.networking.k8s.io/v1",
    "ScaledObject": "keda.sh/v1alpha1",
}
"""Kinds that a cluster knows only once somebody has installed them."""


def kubectl() -> str:
    """The kubectl of this environment, whichever else there is."""
    return str(Path(sys.executable).parent / "kubectl")


@cache
def rendered(folder: str) -> tuple[Json, ...]:
    """Render a folder of ``manifests``."""
    command = [kubectl(), "kustomize", f"manifests/{folder}"]
    done = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return tuple(yaml.load_all(done.stdout, Loader=yaml.CSafeLoader))


def parts(folder: str) -> set[str]:
    """The folders that a folder of ``manifests`` is put together from, by their paths from the root."""
    text = (ROOT / "manifests" / folder / "kustomization.yaml").read_text()
    found = [(ROOT / "manifests" / folder / part).resolve() for part in yaml.safe_load(text)["resources"]]
    return {str(part.relative_to(ROOT)) for part in found}


def overlay(name: str) -> tuple[Json, ...]:
    """Render an overlay."""
    return rendered(f"overlays/{name}")


def of_kind(objects: tuple[Json, ...], *kinds: str) -> list[Json]:
    return [one for one in objects if one["kind"] in kinds]


def named(one: Json) -> str:
    return f"{one['kind']} {one['metadata'].get('namespace', '-')}/{one['metadata']['name']}"


SOURCES: Final = {
    "secretKeyRef": "Secret",
    "secretRef": "Secret",
    "configMapKeyRef": "ConfigMap",
    "configMapRef": "ConfigMap",
}
ALLOWED_VOLUMES: Final = frozenset(
    ["configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"]
)


@dataclass(frozen=True, slots=True)
class Workload:
    """What makes pods, and the pod that it makes."""

    kind: str
    namespace: str
    name: str
    labels: Json
    spec: Json
    whole: Json = field(repr=False)

    @property
    def containers(self) -> list[Json]:
        return [*self.spec.get("initContainers", ()), *self.spec["containers"]]

    @property
    def main(self) -> Json:
        (only,) = self.spec["containers"]
        assert isinstance(only, dict)
        return only

    @property
    def ports(self) -> dict[str, int]:
        return {port["name"]: port["containerPort"] for one in self.containers for port in one.get("ports", ())}

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}"


def workloads(objects: tuple[Json, ...]) -> list[Workload]:
    return [
        Workload(
            one["kind"],
            one["metadata"]["namespace"],
            one["metadata"]["name"],
            one["spec"]["template"]["metadata"]["labels"],
            one["spec"]["template"]["spec"],
            one,
        )
        for one in of_kind(objects, "Deployment", "StatefulSet", "DaemonSet", "Job", "CronJob", "ReplicaSet", "Pod")
    ]


def services(objects: tuple[Json, ...]) -> list[Workload]:
    """The workloads that run our own image."""
    return [one for one in workloads(objects) if one.main["image"].startswith("orderly:")]


def references(work: Workload) -> Iterator[tuple[str, str, str | None]]:
    """List what a pod waits for before it starts: Secret or ConfigMap, its name, and the key if one is named."""
    for container in work.containers:
        sources = [variable.get("valueFrom", {}) for variable in container.get("env", ())]
        for source in [*sources, *container.get("envFrom", ())]:
            for what, kind in SOURCES.items():
                if what in source:
                    yield kind, source[what]["name"], source[what].get("key")
    for volume in work.spec.get("volumes", ()):
        assert "projected" not in volume, "nobody looks into projected volumes here"
        if "secret" in volume:
            yield "Secret", volume["secret"]["secretName"], None
        if "configMap" in volume:
            yield "ConfigMap", volume["configMap"]["name"], None


def breaches(spec: Json) -> list[str]:
    """List what Pod Security's `restricted` refuses in a pod, and the little that we ask for besides."""
    pod = spec.get("securityContext", {})
    found = [f"{name} is set" for name in ("hostNetwork", "hostPID", "hostIPC") if spec.get(name)]
    for volume in spec.get("volumes", ()):
        found += [f"volume {volume['name']} is a {kind}" for kind in volume.keys() - {"name"} - ALLOWED_VOLUMES]
    if spec.get("automountServiceAccountToken") is not False:
        found.append("the pod gets a token for the API server")
    if spec.get("enableServiceLinks") is not False:
        found.append("the pod gets variables for all services")
    for container in [*spec.get("initContainers", ()), *spec["containers"]]:
        own = container.get("securityContext", {})
        profile = own.get("seccompProfile", pod.get("seccompProfile", {})).get("type")
        capabilities = own.get("capabilities", {})
        rules = {
            "may run as root": own.get("runAsNonRoot", pod.get("runAsNonRoot")) is not True,
            "has user 0 or none": not own.get("runAsUser", pod.get("runAsUser")),
            "has no seccomp profile": profile not in ("RuntimeDefault", "Localhost"),
            "may gain privileges": own.get("allowPrivilegeEscalation") is not False,
            "is privileged": bool(own.get("privileged")),
            "keeps capabilities": "ALL" not in capabilities.get("drop", ()),
            "adds capabilities": bool(set(capabilities.get("add", ())) - {"NET_BIND_SERVICE"}),
            "may write to its root": own.get("readOnlyRootFilesystem") is not True,
            "has ports of the host": any("hostPort" in port for port in container.get("ports", ())),
            "may use any amount of memory": "memory" not in container.get("resources", {}).get("limits", {}),
            "asks for nothing": {"cpu", "memory"} - container.get("resources", {}).get("requests", {}).keys() != set(),
        }
        found += [f"{container['name']} {breach}" for breach, is_so in rules.items() if is_so]
    return found


def canonical(one: Json) -> str:
    return json.dumps(one, sort_keys=True)
