"""What kustomize gives: strictly valid, restricted, and in agreement with itself and with the code."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
from typer.main import get_command

from e2e.packaging.render import BASE, COMPONENTS, INSTALL, MANIFESTS, Object, key_of, load, render, version
from spillway.build.labels import ENGINE_PORT
from spillway.cli.main import app
from spillway.controller.certificates import AUTHORITY, GATEWAY
from spillway.controller.settings import OperatorSettings

REPOSITORY = MANIFESTS.parent
OVERLAYS = ("local", "kind", "production")
SOURCES = {"base": BASE, **{name: MANIFESTS / "overlays" / name for name in OVERLAYS}}
FOREIGN = ("monitoring.coreos.com/v1",)  # kinds that Kubernetes itself does not know


@cache
def objects(source: str) -> list[Object]:
    return load(INSTALL.read_text()) if source == "install.yaml" else render(SOURCES[source])


def only(source: str, kind: str, name: str) -> Object:
    return next(o for o in objects(source) if (o["kind"], o["metadata"]["name"]) == (kind, name))


def deployments(source: str) -> Iterator[Object]:
    return (o for o in objects(source) if o["kind"] == "Deployment")


def environment(source: str, name: str) -> dict[str, Any]:
    container = only(source, "Deployment", f"spillway-{name}")["spec"]["template"]["spec"]["containers"][0]
    return {variable["name"]: variable.get("value") for variable in container["env"]}


@pytest.mark.parametrize("release", ["1.34", "1.37"])
@pytest.mark.parametrize("source", [*SOURCES, "install.yaml"])
def test_all_objects_are_strictly_valid(source: str, release: str) -> None:
    checked = [obj for obj in objects(source) if obj["apiVersion"] not in FOREIGN]
    for obj in checked:
        kubernetes_validate.validate(obj, release, strict=True)
    assert len(checked) > 20


@pytest.mark.parametrize("source", [*SOURCES, "install.yaml"])
def test_objects_are_ours_and_told_apart(source: str) -> None:
    found = objects(source)
    keys = [key_of(obj) for obj in found]
    assert len(set(keys)) == len(keys)
    for obj in found:
        assert obj["metadata"]["labels"]["app.kubernetes.io/part-of"] == "spillway", key_of(obj)
        assert obj["kind"] not in ("MoEDeployment", "GPUPool", "ExternalProvider", "CostPolicy")
    secrets = {o["metadata"]["name"]: o for o in found if o["kind"] == "Secret"}
    assert secrets.keys() == {AUTHORITY, GATEWAY}
    assert not any({"data", "stringData"} & secret.keys() for secret in secrets.values())  # an upgrade keeps what is in


@pytest.mark.parametrize("source", SOURCES)
def test_pods_meet_the_restricted_level(source: str) -> None:
    """The level's rules: kubernetes.io/docs/concepts/security/pod-security-standards."""
    namespace = only(source, "Namespace", "spillway-system")["metadata"]["labels"]
    for mode in ("enforce", "audit", "warn"):
        assert namespace[f"pod-security.kubernetes.io/{mode}"] == "restricted"
    for deployment in deployments(source):
        pod = deployment["spec"]["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] > 0
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC", "hostUsers"} & pod.keys()
        assert all(volume.keys() & {"emptyDir", "secret", "configMap"} for volume in pod.get("volumes", []))
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert not any("hostPort" in port for port in container["ports"])


@pytest.mark.parametrize("source", SOURCES)
def test_who_mounts_which_secret(source: str) -> None:
    mounted = {
        deployment["metadata"]["name"]: {v["name"]: v["secret"] for v in pod.get("volumes", []) if "secret" in v}
        for deployment in deployments(source)
        for pod in [deployment["spec"]["template"]["spec"]]
    }
    assert mounted["spillway-operator"] == {}
    keys, ads = mounted["spillway-gateway"].pop("keys"), mounted["spillway-gateway"].pop("ads")
    assert mounted["spillway-gateway"] == {}
    assert keys["optional"] is True
    # Without them no gateway starts, and the kubelet tries again within seconds of their being written.
    assert "optional" not in ads
    assert [item["key"] for item in ads["items"]] == ["tls.crt", "tls.key", "ca.crt"]
    assert ads["secretName"] == GATEWAY
    assert {secret["defaultMode"] for secret in (keys, ads)} == {0o440}


@pytest.mark.parametrize("source", SOURCES)
def test_every_program_is_guarded(source: str) -> None:
    for deployment in deployments(source):
        name, spec = deployment["metadata"]["name"], deployment["spec"]
        assert spec["replicas"] >= 2
        container = spec["template"]["spec"]["containers"][0]
        assert {"startupProbe", "readinessProbe", "livenessProbe"} <= container.keys()
        assert container["resources"]["requests"].keys() == {"cpu", "memory"}
        assert only(source, "PodDisruptionBudget", name)["spec"]["maxUnavailable"] == 1
        assert spec["template"]["spec"]["topologySpreadConstraints"]


@pytest.mark.parametrize("source", SOURCES)
def test_selectors_select_pods(source: str) -> None:
    pods = [d["spec"]["template"]["metadata"]["labels"] for d in deployments(source)]
    leader = {"spillway.dev/leader": "true"}  # the operator labels the pod that leads
    selectors: list[tuple[str, dict[str, str]]] = []
    for obj in objects(source):
        spec, name = obj.get("spec") or {}, f"{obj['kind']}/{obj['metadata']['name']}"
        if obj["kind"] == "Service":
            selectors.append((name, spec["selector"]))
        elif obj["kind"] in ("PodDisruptionBudget", "Deployment"):
            selectors.append((name, spec["selector"]["matchLabels"]))
        elif obj["kind"] == "NetworkPolicy":
            selectors.append((name, spec["podSelector"].get("matchLabels", {})))
        if obj["kind"] == "Deployment":
            for spread in spec["template"]["spec"]["topologySpreadConstraints"]:
                selectors.append((f"{name} spread", spread["labelSelector"]["matchLabels"]))
    assert len(selectors) >= 8
    lost = [name for name, wanted in selectors if not any(wanted.items() <= (pod | leader).items() for pod in pods)]
    assert lost == []


@pytest.mark.parametrize("source", SOURCES)
def test_the_environment_is_what_the_programs_read(source: str) -> None:
    command: Any = get_command(app)
    known = {option.envvar for option in command.commands["operator"].params}
    assert environment(source, "operator").keys() <= known
    told = set(re.findall(r"`([A-Z_]+)`", (REPOSITORY / "docs/development.md").read_text()))
    assert environment(source, "gateway").keys() <= told
    assert {"POD_NAME", "POD_IP", "SPILLWAY_ADS_ADDRESS"} <= environment(source, "gateway").keys()


def test_the_base_states_the_defaults_of_the_settings() -> None:
    found = environment("base", "operator")
    defaults = OperatorSettings()
    assert found["SPILLWAY_PROMETHEUS_URL"] == defaults.prometheus_url
    assert found["SPILLWAY_GATEWAY_HOST"] == defaults.gateway_host
    gateway = only("base", "Service", "spillway-gateway")["metadata"]
    assert defaults.gateway_host == f"{gateway['name']}.{gateway['namespace']}.svc.cluster.local"
    operator = only("base", "Deployment", "spillway-operator")["spec"]["template"]["spec"]["containers"][0]
    ports = {port["name"]: port["containerPort"] for port in operator["ports"]}
    assert ports == {"ads": defaults.ads_port, "metrics": defaults.health_port}


def test_images_have_the_projects_version() -> None:
    for deployment in deployments("base"):
        image = deployment["spec"]["template"]["spec"]["containers"][0]["image"]
        assert image == f"{deployment['metadata']['name'].replace('-', '/')}:{version()}"


def test_simulated_times_are_the_same_on_both_clusters() -> None:
    base = environment("base", "operator")
    times = {
        name: value
        for name, value in environment("local", "operator").items()
        if name not in base and name.endswith(("_SECONDS", "_PER_SECOND"))
    }
    assert len(times) > 8
    assert times.items() <= environment("kind", "operator").items()
    assert not times.keys() & environment("production", "operator").keys()


def test_kind_serves_the_gateway_at_the_nodes() -> None:
    service = only("kind", "Service", "spillway-gateway")["spec"]
    assert service["type"] == "NodePort"
    assert [(p["port"], p["nodePort"], p["targetPort"]) for p in service["ports"]] == [(80, 30080, "http")]
    assert environment("kind", "operator")["SPILLWAY_PROMETHEUS_URL"] == "http://prometheus.monitoring.svc:9090"


def test_production_has_every_component_that_needs_nothing_of_yours() -> None:
    present = {key_of(obj) for obj in objects("production")}
    names = sorted(path.name for path in COMPONENTS.iterdir())
    assert names == ["gateway-tls", "network-policies", "pod-monitors", "prometheus-rules", "simulated-times"]
    for name in names[1:-1]:
        assert {key_of(obj) for obj in render(COMPONENTS / name)} <= present


def test_production_spreads_over_nodes_and_zones_and_goes_before_models() -> None:
    priority = only("production", "PriorityClass", "spillway")
    assert 0 < priority["value"] <= 1_000_000_000  # what is above is Kubernetes' own
    for deployment in deployments("production"):
        pod = deployment["spec"]["template"]["spec"]
        keys = [spread["topologyKey"] for spread in pod["topologySpreadConstraints"]]
        assert keys == ["kubernetes.io/hostname", "topology.kubernetes.io/zone"]
        assert pod["priorityClassName"] == priority["metadata"]["name"]


# ---- network policies ------------------------------------------------------------------------------------------------


def policy(name: str) -> Any:
    found = render(COMPONENTS / "network-policies")
    return next(o for o in found if o["metadata"]["name"] == f"spillway-{name}")["spec"]


def allowed(rules: list[Object], program: str) -> set[int]:
    """Ports of rules whose only peers are that program's pods."""
    selector = {"matchLabels": {"app.kubernetes.io/name": f"spillway-{program}"}}
    found: set[int] = set()
    for rule in rules:
        if {"podSelector": selector} in [*rule.get("from", []), *rule.get("to", [])]:
            found |= {port["port"] for port in rule["ports"]}
    return found


def container_ports(name: str) -> dict[str, int]:
    container = only("base", "Deployment", f"spillway-{name}")["spec"]["template"]["spec"]["containers"][0]
    return {port["name"]: port["containerPort"] for port in container["ports"]}


def test_nobody_may_talk_unless_a_policy_says_so() -> None:
    assert policy("default-deny") == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    for name in ("operator", "gateway"):
        assert policy(name)["policyTypes"] == ["Ingress", "Egress"]


def test_what_one_program_sends_the_other_receives() -> None:
    operator, gateway = container_ports("operator"), container_ports("gateway")
    assert allowed(policy("gateway")["egress"], "operator") == {operator["ads"]}
    assert allowed(policy("operator")["ingress"], "gateway") == {operator["ads"]}
    assert allowed(policy("operator")["egress"], "gateway") == {gateway["metrics"]}
    assert allowed(policy("gateway")["ingress"], "operator") == {gateway["metrics"]}


def test_policies_name_the_ports_that_pods_have() -> None:
    operator, gateway = container_ports("operator"), container_ports("gateway")
    inward = {
        name: {p["port"] for r in policy(name)["ingress"] for p in r["ports"]} for name in ("operator", "gateway")
    }
    assert inward == {"operator": set(operator.values()), "gateway": set(gateway.values())}
    engines = [r for r in policy("gateway")["egress"] if "engine" in str(r.get("to"))]
    assert [r["ports"] for r in engines] == [[{"port": ENGINE_PORT}]]


def test_only_the_gateway_reaches_external_apis() -> None:
    external = [r for r in policy("gateway")["egress"] if any("ipBlock" in to for to in r["to"])]
    ports = {p["port"] for r in external for p in r["ports"]}
    assert ports == {53, 443}
    open_to_all = [r for r in policy("operator")["egress"] if "to" not in r]
    assert [sorted(p["port"] for p in r["ports"]) for r in open_to_all] == [[443, 6443]]  # the API server


def test_paths_named_in_manifests_exist() -> None:
    for path in MANIFESTS.rglob("*.yaml"):
        if "helm" in path.parts or path == INSTALL:
            continue
        for named in re.findall(r"\b(?:docs|manifests|e2e|tests|operator)/[\w/.-]+\w", path.read_text()):
            assert Path(REPOSITORY, named).exists(), f"{path.name} names {named}"
