"""The manifests, without a cluster: valid, restricted, complete, and what the code says."""

import copy
import functools
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import pytest
import yaml
from jsonschema import Draft202012Validator
from kubernetes_validate import utils as kubernetes  # type: ignore[import-untyped] # it ships no types
from referencing import Registry, Resource

from gateway.api import BASE, DOORS
from gateway.app import make_gateway
from gateway.settings import Settings as GatewaySettings
from libs.contracts import stream_of
from libs.local.supervisor import environment
from libs.messaging.consumer import durables
from libs.service import STOP_WITHIN_S
from libs.settings import HttpSettings, ServiceSettings
from libs.telemetry import Telemetry
from libs.web.app import make_app
from libs.web.server import SHUTDOWN_S
from orderly.cluster_secrets import all_secrets, database_secret_of, ensure_secrets, namespace_of
from orderly.contracts import current_version
from orderly.newman import ROOT
from orderly.services import NAMES, SERVICES
from orderly.tests import flows
from orderly.tests.flows import Flow, allowed
from orderly.tests.rendered import (
    CUSTOM,
    OVERLAYS,
    SCHEMA_VERSION,
    Json,
    Workload,
    breaches,
    canonical,
    named,
    of_kind,
    overlay,
    references,
    services,
    workloads,
)

each_overlay = pytest.mark.parametrize("name", OVERLAYS)
SETTINGS: Final[dict[str, type[HttpSettings]]] = {
    **{service.name: service.settings for service in SERVICES},
    "gateway": GatewaySettings,
}
MADE_BY_CLOUDNATIVE_PG: Final = {"postgres-app": ("username", "password", "uri")}


@functools.cache
def _validator(kind: str, api_version: str) -> Draft202012Validator:
    folder = f"kubernetes-json-schema/v{SCHEMA_VERSION}.0-local-strict"
    group = re.sub(r"^([^./]*)(?:\.[^/]*)?/", r"\1-", api_version)
    schema = kubernetes.schema_contents(f"{folder}/{kind.lower()}-{group}.json", SCHEMA_VERSION)
    return Draft202012Validator(schema, registry=Resource.from_contents(schema) @ _definitions(folder))


@functools.cache
def _definitions(folder: str) -> Registry[Any]:
    content = kubernetes.schema_contents(f"{folder}/_definitions.json", SCHEMA_VERSION)
    return Resource.from_contents(content) @ Registry()


def test_every_object_is_what_kubernetes_knows() -> None:
    objects = {canonical(one): one for name in OVERLAYS for one in overlay(name)}
    wrong = []
    for one in objects.values():
        if one["kind"] in CUSTOM:
            assert one["apiVersion"] == CUSTOM[one["kind"]], named(one)
            continue
        errors = _validator(one["kind"], one["apiVersion"]).iter_errors(one)
        wrong += [f"{named(one)} {error.json_path}: {error.message}" for error in errors]
    assert wrong == []


def test_what_kubernetes_does_not_know_is_found() -> None:
    one = copy.deepcopy(services(overlay("minikube"))[0].whole)
    one["spec"]["template"]["spec"]["containers"][0]["readinesProbe"] = {}
    one["spec"]["replicas"] = "two"
    assert len(list(_validator(one["kind"], one["apiVersion"]).iter_errors(one))) == 2


@each_overlay
def test_everything_is_ours_and_in_a_namespace_of_ours(name: str) -> None:
    objects = overlay(name)
    namespaces = {one["metadata"]["name"] for one in of_kind(objects, "Namespace")}
    assert namespaces == {"nats", *(namespace_of(service) for service in SETTINGS)}
    for one in objects:
        assert one["metadata"]["labels"]["app.kubernetes.io/part-of"] == "orderly", named(one)
        assert one["kind"] == "Namespace" or one["metadata"]["namespace"] in namespaces, named(one)
    assert len({named(one) for one in objects}) == len(objects)


@each_overlay
def test_every_service_runs_in_its_namespace_from_one_pinned_image(name: str) -> None:
    found = {one.name: one for one in services(overlay(name))}
    assert {service: one.namespace for service, one in found.items()} == {one: namespace_of(one) for one in SETTINGS}
    for one in found.values():
        assert one.main["args"] == [one.name]
        assert {container["image"] for container in one.containers} == {f"orderly:{current_version()}"}
    for one in workloads(overlay(name)):
        for container in one.containers:
            image, _, tag = container["image"].partition(":")
            assert re.fullmatch(r"\d+\.\d+(\.\d+)?(-[a-z]+)?", tag), f"{one}: {image} is not pinned"
            assert container["imagePullPolicy"] == "IfNotPresent", f"{one}: a loaded image is not pulled"
    for cluster in of_kind(overlay(name), "Cluster"):
        assert re.search(r":18\.\d+-", cluster["spec"]["imageName"]), named(cluster)


def _secrets_of(name: str) -> dict[tuple[str, str], tuple[str, ...]]:
    known = {(secret.namespace, secret.name): secret.keys for secret in all_secrets()}
    for cluster in of_kind(overlay(name), "Cluster"):
        namespace, cluster_name = cluster["metadata"]["namespace"], cluster["metadata"]["name"]
        known[namespace, f"{cluster_name}-app"] = MADE_BY_CLOUDNATIVE_PG["postgres-app"]
    return known


@each_overlay
def test_every_secret_and_config_is_in_the_namespace_where_it_is_read(name: str) -> None:
    objects = overlay(name)
    secrets = _secrets_of(name)
    configs = {
        (one["metadata"]["namespace"], one["metadata"]["name"]): tuple(one["data"])
        for one in of_kind(objects, "ConfigMap")
    }
    read = set()
    for work in workloads(objects):
        for kind, what, key in references(work):
            there = (secrets if kind == "Secret" else configs).get((work.namespace, what))
            assert there is not None, f"{work} reads {kind} {what}, which is not in {work.namespace}"
            assert key is None or key in there, f"{work} reads {key} of {kind} {what}, which has {there}"
            read.add((kind, work.namespace, what))
    assert {("ConfigMap", *one) for one in configs} <= read
    unread = {one for one in secrets if ("Secret", *one) not in read}
    of_databases = {(namespace_of(service), database_secret_of(service)) for service in NAMES}
    assert unread == (of_databases if name == "ha" else set())


@each_overlay
def test_every_volume_is_there_and_keys_are_mounted_as_folders(name: str) -> None:
    for work in workloads(overlay(name)):
        volumes = {volume["name"] for volume in work.spec.get("volumes", ())}
        volumes |= {claim["metadata"]["name"] for claim in work.whole["spec"].get("volumeClaimTemplates", ())}
        mounts = [(one["name"], mount) for one in work.containers for mount in one.get("volumeMounts", ())]
        assert {mount["name"] for _, mount in mounts} == volumes, work
        assert not [container for container, mount in mounts if "subPath" in mount or "subPathExpr" in mount], work


def test_who_verifies_tokens_has_the_keys_and_only_auth_signs() -> None:
    for work in services(overlay("minikube")):
        given = {variable["name"]: variable.get("value") for variable in work.main["env"]}
        wanted = {"JWT_PUBLIC_KEYS": "jwt-validation-key"} | (
            {"JWT_PRIVATE_KEY": "jwt-signing-keys"} if work.name == "auth" else {}
        )
        assert {variable for variable in given if variable.startswith("JWT_")} == set(wanted), work
        by_volume = {
            volume["name"]: volume["secret"]["secretName"] for volume in work.spec["volumes"] if "secret" in volume
        }
        by_path = {mount["mountPath"]: by_volume.get(mount["name"]) for mount in work.main["volumeMounts"]}
        for variable, secret in wanted.items():
            file = Path(str(given[variable]))
            assert by_path[str(file.parent)] == secret, f"{work}: {variable}"
            assert file.name in _secrets_of("minikube")[work.namespace, secret], f"{work}: {variable}"
        assert set(by_volume.values()) == set(wanted.values()), work


@each_overlay
def test_every_pod_is_restricted_and_every_namespace_wants_it_so(name: str) -> None:
    assert {str(one): breaches(one.spec) for one in workloads(overlay(name)) if breaches(one.spec)} == {}
    for namespace in of_kind(overlay(name), "Namespace"):
        assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted", named(namespace)


def test_what_is_not_restricted_is_found() -> None:
    spec = services(overlay("minikube"))[0].spec
    assert breaches(spec) == []
    for path, value in (
        (("securityContext", "runAsNonRoot"), False),
        (("securityContext", "seccompProfile"), {}),
        (("hostNetwork",), True),
        (("automountServiceAccountToken",), True),
        (("volumes", 0), {"name": "host", "hostPath": {"path": "/"}}),
        (("initContainers", 0, "securityContext", "capabilities", "drop"), []),
        (("containers", 0, "securityContext", "allowPrivilegeEscalation"), True),
        (("containers", 0, "securityContext", "readOnlyRootFilesystem"), False),
    ):
        changed: Any = copy.deepcopy(spec)
        place: Any = changed
        for step in path[:-1]:
            place = place[step]
        place[path[-1]] = value
        assert breaches(changed), path


def _wanted_flows(name: str) -> set[Flow]:
    """What the tables say: who asks whom over HTTP, who talks through NATS, and where data is kept."""
    objects = overlay(name)
    wanted = {Flow("gateway", door.service, 8000) for door in DOORS}
    wanted |= {Flow(door.name, "gateway", 8000) for door in flows.DOORS}
    wanted.add(Flow("dns", "gateway", 8000))  # it lives in kube-system, where an ingress may
    for service in SERVICES:
        database = f"postgres of {namespace_of(service.name)}"
        assert service.publishes or service.listens
        wanted |= {Flow(service.name, "nats", 4222), Flow(service.name, database, 5432)}
        if name == "ha":
            wanted |= {Flow("cloudnative-pg", database, 8000), Flow("cloudnative-pg", database, 5432)}
            wanted |= {Flow(database, database, 5432)}
            wanted |= {Flow(database, "api", port) for port in (443, 6443, 8443)}
            wanted.add(Flow(database, "stranger", 443))  # an API server has no labels that would tell it apart
    if name == "ha":
        wanted |= {Flow("nats", "nats", 6222), Flow("keda", "nats", 8222)}
    for one in flows.pods(objects):
        wanted |= {Flow(one.name, "dns", 53, "TCP"), Flow(one.name, "dns", 53, "UDP")}
    return wanted


@each_overlay
def test_whoever_has_to_reach_somebody_may_and_nobody_else(name: str) -> None:
    found, wanted = allowed(overlay(name)), _wanted_flows(name)
    assert sorted(found - wanted) == [], "may, and need not"
    assert sorted(wanted - found) == [], "needs to, and may not"


@pytest.mark.parametrize("name", ["minikube", "ha"])
def test_every_policy_lets_something_through_or_keeps_everything_out(name: str) -> None:
    objects = overlay(name)
    all_of_them = allowed(objects)
    policies = of_kind(objects, "NetworkPolicy")
    kept_out = {one["metadata"]["namespace"] for one in policies if one["metadata"]["name"] == "default-deny"}
    assert kept_out == {one["metadata"]["name"] for one in of_kind(objects, "Namespace")}
    for policy in policies:
        if policy["metadata"]["name"] == "default-deny":
            assert policy["spec"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
        else:
            assert allowed(objects, without=policy, of=all_of_them) < all_of_them, f"{named(policy)} changes nothing"


@each_overlay
def test_probes_ask_what_is_answered(name: str, tmp_path: Path) -> None:
    answered = {"nats": {"/healthz"}} | {one: _routes(one, tmp_path) for one in SETTINGS}
    for work in workloads(overlay(name)):
        for kind in ("startupProbe", "livenessProbe", "readinessProbe"):
            probe = work.main[kind]
            if "exec" in probe:
                assert (work.name, probe["exec"]["command"][0]) == ("postgres", "pg_isready")
                assert "--host=127.0.0.1" in probe["exec"]["command"], "the socket answers before the database is made"
                continue
            asked = probe["httpGet"]
            assert asked["port"] in work.ports, f"{work} {kind}"
            assert urlsplit(asked["path"]).path in answered[work.name], f"{work} {kind}"
        if work.name in SETTINGS:
            asked = {
                kind: work.main[f"{kind}Probe"]["httpGet"]["path"] for kind in ("startup", "liveness", "readiness")
            }
            assert asked == {"startup": "/livez", "liveness": "/livez", "readiness": "/readyz"}
            notes = work.whole["spec"]["template"]["metadata"]["annotations"]
            assert notes["prometheus.io/path"] in answered[work.name]
            assert int(notes["prometheus.io/port"]) == work.ports["http"]


def _routes(service: str, folder: Path) -> set[str]:
    given = {"jwt_public_keys": str(folder / "none.pem"), "database_url": "sqlite:///x", "fingerprint_key": "f" * 16}
    if service == "gateway":
        app = make_gateway(GatewaySettings(jwt_public_keys=folder / "none.pem"))
    else:
        (table,) = (one for one in SERVICES if one.name == service)
        telemetry = Telemetry.of(service, table.settings.model_validate(given))
        nobody: Any = None  # routes are looked at, not called
        app = make_app(table.routes, nobody, nobody, telemetry, requests_at_most=1)
    return {route.resource.canonical for route in app.router.routes() if route.resource is not None}


def _environments(work: Workload, values: "Values") -> list[dict[str, str]]:
    found = []
    for container in work.containers:
        env = {}
        for variable in container["env"]:
            if "value" in variable:
                env[variable["name"]] = variable["value"]
            else:
                source = variable["valueFrom"]["secretKeyRef"]
                env[variable["name"]] = values[work.namespace, source["name"], source["key"]]
        found.append(env)
    return found


Values = dict[tuple[str, str, str], str]


@pytest.fixture(scope="module")
def values(tmp_path_factory: pytest.TempPathFactory) -> Values:
    """What `up` would put into each secret; of CloudNativePG's, what its documentation says."""
    folder = tmp_path_factory.mktemp("keys")
    ensure_secrets(folder)
    values = {}
    for secret in all_secrets():
        if not secret.is_keys:
            for line in (folder / secret.file).read_text().splitlines():
                key, _, value = line.partition("=")
                values[secret.namespace, secret.name, key] = value
    for service in NAMES:
        namespace = namespace_of(service)
        values[namespace, "postgres-app", "uri"] = f"postgresql://{service}:pw@postgres-rw.{namespace}:5432/{service}"
    return values


@each_overlay
def test_every_variable_is_a_setting_and_every_setting_that_is_needed_is_there(name: str, values: Values) -> None:
    for work in services(overlay(name)):
        settings = SETTINGS[work.name]
        known = {field.upper() for field in settings.model_fields}
        needed = {field.upper() for field, about in settings.model_fields.items() if about.is_required()}
        needed |= {"HOST", "PORT", "JWT_PUBLIC_KEYS"}  # whose defaults are for one machine
        if issubclass(settings, ServiceSettings):
            needed |= {"NATS_URL", "NATS_USER", "NATS_PASSWORD"}
        for env in _environments(work, values):
            assert env.keys() <= known, f"{work} sets what nobody reads: {env.keys() - known}"
            assert needed <= env.keys(), f"{work} lacks {needed - env.keys()}"
            read = settings.model_validate({field.lower(): value for field, value in env.items()})
            assert (read.host, read.port) == ("0.0.0.0", work.ports["http"]), work
            if isinstance(read, ServiceSettings):
                nodes = next(one.whole["spec"]["replicas"] for one in workloads(overlay(name)) if one.name == "nats")
                assert (read.nats_user, read.stream_replicas) == (work.name, nodes), work
                assert nodes == (3 if name == "ha" else 1)


def _addresses(objects: tuple[Json, ...]) -> set[tuple[str, str, int]]:
    """Namespace, name and port of everything that can be asked; each leads to a port of one kind of pods."""
    there = set()
    for one in of_kind(objects, "Service"):
        namespace, selected = one["metadata"]["namespace"], one["spec"]["selector"].items()
        (work,) = [
            work for work in workloads(objects) if work.namespace == namespace and selected <= work.labels.items()
        ]
        for port in one["spec"]["ports"]:
            assert port["targetPort"] in work.ports, named(one)
            there.add((namespace, one["metadata"]["name"], port["port"]))
    for cluster in of_kind(objects, "Cluster"):  # whose services its operator makes
        there.add((cluster["metadata"]["namespace"], f"{cluster['metadata']['name']}-rw", 5432))
    return there


@each_overlay
def test_every_address_leads_to_a_service_that_has_pods(name: str, values: Values) -> None:
    objects = overlay(name)
    there = _addresses(objects)
    for work in services(objects):
        env = _environments(work, values)[-1]
        for variable, value in env.items():
            if variable.endswith("_URL"):
                url = urlsplit(value)
                service, namespace, *_ = [*str(url.hostname).split("."), work.namespace]
                assert (namespace, service, url.port) in there, f"{work}: {variable}"
                assert work.name != "gateway" or variable == f"{service.upper()}_URL"
    for work in workloads(objects):
        if work.kind == "StatefulSet":
            own = {service for namespace, service, _ in there if namespace == work.namespace}
            assert work.whole["spec"]["serviceName"] in own, work


def test_outside_leads_to_the_gateway_and_nowhere_else() -> None:
    for name in ("minikube", "ha"):
        (ingress,) = of_kind(overlay(name), "Ingress")
        assert "annotations" not in ingress["metadata"]
        assert ingress["spec"].keys() == {"rules"}  # no class
        (rule,) = ingress["spec"]["rules"]
        (path,) = rule["http"]["paths"]
        assert (ingress["metadata"]["namespace"], rule["host"]) == ("client", "arch.homework")
        assert (path["path"], path["pathType"]) == (BASE, "Prefix")
        assert path["backend"] == {"service": {"name": "gateway", "port": {"name": "http"}}}
        assert of_kind(overlay(name), "HTTPRoute", "Gateway") == []
    assert of_kind(overlay("gateway-api"), "Ingress") == []
    (route,) = of_kind(overlay("gateway-api"), "HTTPRoute")
    (gateway,) = of_kind(overlay("gateway-api"), "Gateway")
    assert {one["metadata"]["namespace"] for one in (route, gateway)} == {"client"}
    (parent,), (rule,) = route["spec"]["parentRefs"], route["spec"]["rules"]
    assert (parent["name"], route["spec"]["hostnames"]) == (gateway["metadata"]["name"], ["arch.homework"])
    assert parent["sectionName"] in {one["name"] for one in gateway["spec"]["listeners"]}
    assert rule["matches"] == [{"path": {"type": "PathPrefix", "value": BASE}}]
    assert rule["backendRefs"] == [{"name": "gateway", "port": 8000}]
    kinds = {one["spec"].get("type") for name in OVERLAYS for one in of_kind(overlay(name), "Service")}
    assert kinds == {None}, "a service that is open to the outside"


@each_overlay
def test_migrations_come_first_from_the_same_image(name: str) -> None:
    for work in services(overlay(name)):
        if work.name == "gateway":
            assert "initContainers" not in work.spec
            continue
        (migrate,) = work.spec["initContainers"]
        assert migrate["args"][:2] == [work.name, "migrate"]
        assert migrate["env"] == work.main["env"], work


@each_overlay
def test_stopping_has_the_time_that_it_takes(name: str) -> None:
    for work in services(overlay(name)):
        waits = work.main["lifecycle"]["preStop"]["sleep"]["seconds"]
        assert work.spec["terminationGracePeriodSeconds"] >= waits + 2 * SHUTDOWN_S + STOP_WITHIN_S, work


def test_what_scales_is_there_and_so_is_what_it_looks_at() -> None:
    objects = overlay("ha")
    deployed = {(one.namespace, one.name): one for one in services(objects)}
    streams = {stream_of(service.name) for service in SERVICES}
    scaled = set()
    for one in of_kind(objects, "HorizontalPodAutoscaler", "ScaledObject"):
        spec = one["spec"]
        scaled.add((one["metadata"]["namespace"], spec["scaleTargetRef"]["name"]))
        assert spec.get("minReplicas", spec.get("minReplicaCount")) >= 2, named(one)
        if one["kind"] == "HorizontalPodAutoscaler":
            assert spec["scaleTargetRef"]["kind"] == "Deployment"
            continue
        (service,) = (known for known in SERVICES if known.name == one["metadata"]["name"])
        lags = [trigger["metadata"] for trigger in spec["triggers"] if trigger["type"] == "nats-jetstream"]
        assert {lag["stream"] for lag in lags} <= streams
        found = {(lag["stream"], lag["consumer"]) for lag in lags}
        assert found == {(one.stream, one.name) for one in durables(service.name, service.listens)}
        for lag in lags:
            host, _, port = lag["natsServerMonitoringEndpoint"].partition(":")
            nats = next(work for work in workloads(objects) if work.name == "nats")
            # KEDA puts a node's name in front, which only a headless service answers to.
            assert host.startswith(f"{nats.whole['spec']['serviceName']}.{nats.namespace}.svc")
            assert (int(port), lag["account"]) == (nats.ports["monitor"], "APP")
    assert scaled == set(deployed)
    assert len(of_kind(objects, "HorizontalPodAutoscaler", "ScaledObject")) == len(scaled), "two would quarrel"
    assert [str(one) for one in deployed.values() if "replicas" in one.whole["spec"]] == []
    parts = yaml.safe_load((ROOT / "manifests/overlays/ha/kustomization.yaml").read_text())["resources"]
    assert parts == ["system", "scaling"], "KEDA takes a consumer that is not there for an endless lag"


def test_in_ha_one_of_each_may_go() -> None:
    objects = overlay("ha")
    guarded = set()
    for budget in of_kind(objects, "PodDisruptionBudget"):
        assert budget["spec"]["maxUnavailable"] == 1
        assert budget["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow"
        namespace, wanted = budget["metadata"]["namespace"], budget["spec"]["selector"]["matchLabels"].items()
        (work,) = [one for one in workloads(objects) if one.namespace == namespace and wanted <= one.labels.items()]
        guarded.add(str(work))
    assert guarded == {str(one) for one in workloads(objects)}
    for work in workloads(objects):
        spread = work.spec["topologySpreadConstraints"]
        assert {one["topologyKey"] for one in spread} == {"kubernetes.io/hostname", "topology.kubernetes.io/zone"}
        assert all(one["labelSelector"]["matchLabels"].items() <= work.labels.items() for one in spread), work
    clusters = of_kind(objects, "Cluster")
    assert {one["metadata"]["namespace"] for one in clusters} == {namespace_of(name) for name in NAMES}
    for cluster in clusters:
        (service,) = (name for name in NAMES if namespace_of(name) == cluster["metadata"]["namespace"])
        assert cluster["spec"]["instances"] == 3
        assert cluster["spec"]["bootstrap"]["initdb"] == {"database": service, "owner": service}


def test_there_is_room_for_every_stream_and_every_connection() -> None:
    (config,) = [one for one in of_kind(overlay("minikube"), "ConfigMap") if one["metadata"]["namespace"] == "nats"]
    room = int(re.search(r"max_file_store: (\d+)GiB", config["data"]["nats.conf"])[1])  # type: ignore[index] # it is there
    reserved = sum(service.settings.model_fields["stream_max_bytes"].default for service in SERVICES)
    (nats,) = (one for one in workloads(overlay("minikube")) if one.name == "nats")
    (claim,) = nats.whole["spec"]["volumeClaimTemplates"]
    disk = int(claim["spec"]["resources"]["requests"]["storage"].removesuffix("Gi"))
    assert reserved < room << 30 < disk << 30
    pool = ServiceSettings.model_fields["pool_size"].default
    most = {
        one["metadata"]["namespace"]: one["spec"]
        for one in of_kind(overlay("ha"), "HorizontalPodAutoscaler", "ScaledObject")
    }
    for cluster in of_kind(overlay("ha"), "Cluster"):
        spec = most[cluster["metadata"]["namespace"]]
        replicas = spec.get("maxReplicas", spec.get("maxReplicaCount")) + 1  # one more while they are exchanged
        allowed_at_all = int(cluster["spec"]["postgresql"]["parameters"]["max_connections"])
        assert replicas * (pool + 1) + 20 <= allowed_at_all, named(cluster)


@pytest.mark.parametrize("name", ["minikube", "ha"])
def test_nats_reads_its_configuration(name: str, tmp_path: Path, values: Values) -> None:
    (config,) = [one for one in of_kind(overlay(name), "ConfigMap") if one["metadata"]["namespace"] == "nats"]
    for file, text in config["data"].items():
        (tmp_path / file).write_text(text)
    passwords = {key: value for (namespace, _, key), value in values.items() if namespace == "nats"}
    server = str(Path(sys.executable).parent / "nats-server")
    command = [server, "-t", "-c", str(tmp_path / "nats.conf")]
    for given, code in ((passwords, 0), ({}, 1)):
        env = environment(POD_NAME="nats-0", **given)
        done = subprocess.run(command, env=env, check=False, capture_output=True, text=True)
        assert done.returncode == code, done.stderr
    assert config["data"]["access.conf"] == (ROOT / "manifests/base/nats/access.conf").read_text()


def test_one_node_has_enough_memory() -> None:
    units = {"Mi": 1, "Gi": 1024}
    asked = [
        one["resources"]["requests"]["memory"]
        for work in workloads(overlay("minikube"))
        for one in work.spec["containers"]
    ]
    assert sum(int(text[:-2]) * units[text[-2:]] for text in asked) < 2048, "minikube is started with 4 GiB"


def test_a_policy_that_is_too_wide_or_missing_is_found() -> None:
    objects = tuple(copy.deepcopy(one) for one in overlay("minikube"))
    (policy,) = [one for one in of_kind(objects, "NetworkPolicy") if one["metadata"]["name"] == "services-to-nats"]
    policy["spec"]["ingress"][0]["from"] = [{"namespaceSelector": {}}]
    policy["spec"]["ingress"][0].pop("ports")
    too_much = allowed(objects) - _wanted_flows("minikube")
    assert {flow.target for flow in too_much} == {"nats"}
    assert {flow.port for flow in too_much if flow.source == "stranger"} == {4222, 8222}
    assert {"impostor", "keda", "api"} <= {flow.source for flow in too_much}
    rest = tuple(one for one in overlay("minikube") if named(one) != "NetworkPolicy billing/service-to-postgres")
    assert _wanted_flows("minikube") - allowed(rest) == {Flow("billing", "postgres of billing", 5432)}
