"""Who reaches whom, computed from NetworkPolicies as a cluster that enforces them would."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from orderly.tests.rendered import Json, of_kind, workloads

NAMESPACE: Final = "kubernetes.io/metadata.name"


@dataclass(frozen=True, slots=True)
class Peer:
    """A pod, or many alike; `ports` are those it listens on."""

    name: str
    namespace: str
    labels: frozenset[tuple[str, str]]
    ports: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True, slots=True, order=True)
class Flow:
    """Somebody reaches a port of somebody."""

    source: str
    target: str
    port: int
    protocol: str = "TCP"


def peer(name: str, namespace: str, labels: Json, *ports: int, protocol: str = "TCP") -> Peer:
    return Peer(name, namespace, frozenset(labels.items()), tuple((protocol, port) for port in ports))


DNS: Final = Peer("dns", "kube-system", frozenset({("k8s-app", "kube-dns")}), (("UDP", 53), ("TCP", 53)))
API: Final = peer("api", "the hosts", {}, 443, 6443, 8443)
KEDA: Final = peer("keda", "keda", {"app": "keda-operator"})
CLOUDNATIVE_PG: Final = peer("cloudnative-pg", "cnpg-system", {"app.kubernetes.io/name": "cloudnative-pg"})
STRANGERS: Final = (
    peer("stranger", "default", {}, 80, 443, 5432),
    peer("stranger in keda", "keda", {}),
    peer("stranger in cnpg-system", "cnpg-system", {}),
    peer("impostor", "default", {"app.kubernetes.io/component": "service", "app.kubernetes.io/name": "gateway"}),
)
DOORS: Final = tuple(
    peer(f"door in {namespace}", namespace, {"some": "controller"})
    for namespace in ("ingress-nginx", "kube-system", "traefik", "envoy-gateway-system")
)


def pods(objects: tuple[Json, ...]) -> list[Peer]:
    """List the pods that are made, those of database clusters included."""
    found = [
        peer(_short(one.namespace, one.name), one.namespace, one.labels, *one.ports.values())
        for one in workloads(objects)
    ]
    for cluster in of_kind(objects, "Cluster"):
        namespace, name = cluster["metadata"]["namespace"], cluster["metadata"]["name"]
        found.append(peer(_short(namespace, name), namespace, {"cnpg.io/cluster": name}, 5432, 8000))
    return found


def allowed(objects: tuple[Json, ...], *, without: Json | None = None, of: set[Flow] | None = None) -> set[Flow]:
    """List every flow among the pods, and between them and others, that no policy forbids; or those of `of` only."""
    policies = [one for one in of_kind(objects, "NetworkPolicy") if one is not without]
    return {
        flow
        for flow, source, target in _thinkable(objects)
        if of is None or flow in of
        if _may(policies, "Egress", source, target, flow)
        if _may(policies, "Ingress", target, source, flow)
    }


def _thinkable(objects: tuple[Json, ...]) -> Iterator[tuple[Flow, Peer, Peer]]:
    ours = pods(objects)
    everybody = [*ours, DNS, API, KEDA, CLOUDNATIVE_PG, *STRANGERS, *DOORS]
    own = {one.namespace for one in ours}
    for source in everybody:
        for target in everybody:
            if own & {source.namespace, target.namespace}:
                for protocol, port in target.ports:
                    yield Flow(source.name, target.name, port, protocol), source, target


def _may(policies: Sequence[Json], direction: str, who: Peer, other: Peer, flow: Flow) -> bool:
    """Whether the policies that apply to `who` let it reach, or be reached by, `other`."""
    rules, side = {"Egress": ("egress", "to"), "Ingress": ("ingress", "from")}[direction]
    applying = [
        policy["spec"]
        for policy in policies
        if policy["metadata"]["namespace"] == who.namespace
        if direction in policy["spec"]["policyTypes"]
        if _selects(policy["spec"]["podSelector"], dict(who.labels))
    ]
    if not applying:
        return True
    for rule in (rule for spec in applying for rule in spec.get(rules, ())):
        ports = [(one.get("protocol", "TCP"), one["port"]) for one in rule.get("ports", ())]
        if ports and (flow.protocol, flow.port) not in ports:
            continue
        if side not in rule or any(_is(one, other, who.namespace) for one in rule[side]):
            return True
    return False


def _is(selector: Json, other: Peer, namespace: str) -> bool:
    assert selector.keys() <= {"namespaceSelector", "podSelector"}, f"nobody reads {selector} here"
    if "namespaceSelector" in selector:
        there = _selects(selector["namespaceSelector"], {NAMESPACE: other.namespace})
    else:
        there = other.namespace == namespace
    return there and _selects(selector.get("podSelector", {}), dict(other.labels))


def _selects(selector: Json, labels: dict[str, Any]) -> bool:
    return all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items()) and all(
        labels.get(one["key"]) in one["values"] for one in _expressions(selector)
    )


def _expressions(selector: Json) -> Iterator[Json]:
    for one in selector.get("matchExpressions", ()):
        assert one["operator"] == "In", f"nobody reads {one} here"
        yield one


def _short(namespace: str, name: str) -> str:
    return f"{name} of {namespace}" if name == "postgres" else name
