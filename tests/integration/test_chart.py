"""The chart with Helm: what it renders, what it refuses, and a life of it on a real API server."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
from typer.main import get_command

from e2e.cluster import ControlPlane
from e2e.cluster.processes import wait_until
from e2e.cluster.settings import REPOSITORY
from e2e.packaging import Helm, find_helm, render
from e2e.packaging.chart import CHART, COMPONENTS, NAMESPACE
from e2e.packaging.compare import difference
from e2e.packaging.helm import HelmError
from e2e.packaging.render import BASE, Object
from e2e.packaging.render import COMPONENTS as SOURCES
from spillway.cli.main import app

ALL = {value: {"enabled": True} for value in COMPONENTS.values()}
NAMESPACE_FILE = str(BASE / "namespace.yaml")


@pytest.fixture(scope="module")
def helm() -> Helm:
    return Helm(find_helm())


def rendered(helm: Helm, values: object = None, namespace: str = NAMESPACE) -> dict[tuple[str, str], Any]:
    objects = helm.template(CHART, namespace=namespace, values=values)
    return {(obj["kind"], obj["metadata"]["name"]): obj for obj in objects}


def container(objects: dict[tuple[str, str], Any], name: str) -> Any:
    return pod(objects, name)["containers"][0]


def pod(objects: dict[tuple[str, str], Any], name: str) -> Any:
    return objects["Deployment", f"spillway-{name}"]["spec"]["template"]["spec"]


def source(*components: str) -> list[Object]:
    base = [obj for obj in render(BASE) if obj["kind"] != "Namespace"]
    return [*base, *(obj for name in components for obj in render(SOURCES / name))]


def test_helm_has_nothing_to_say_against_it(helm: Helm) -> None:
    helm.lint(CHART)


def test_the_defaults_render_the_base(helm: Helm) -> None:
    assert difference(source(), helm.template(CHART, namespace=NAMESPACE)) == ""


@pytest.mark.parametrize("component", COMPONENTS)
def test_a_switch_renders_its_component(helm: Helm, component: str) -> None:
    values = {COMPONENTS[component]: {"enabled": True}}
    assert difference(source(component), helm.template(CHART, namespace=NAMESPACE, values=values)) == ""


def in_order(objects: list[Object]) -> list[Object]:
    """Named lists by name: kustomize puts what a component adds before what there is, the chart behind it."""

    def ordered(node: Any) -> Any:
        if isinstance(node, dict):
            return {key: ordered(value) for key, value in node.items()}
        if isinstance(node, list):
            items = [ordered(item) for item in node]
            named = items and all(isinstance(item, dict) and "name" in item for item in items)
            return sorted(items, key=lambda item: item["name"]) if named else items
        return node

    return [ordered(obj) for obj in objects]


def test_tls_for_clients_is_what_its_component_makes(helm: Helm, tmp_path: Path) -> None:
    overlay = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": [os.path.relpath(BASE, tmp_path)],
        "components": [os.path.relpath(SOURCES / "gateway-tls", tmp_path)],
    }
    (tmp_path / "kustomization.yaml").write_text(json.dumps(overlay))
    wanted = [obj for obj in render(tmp_path) if obj["kind"] != "Namespace"]
    found = helm.template(CHART, namespace=NAMESPACE, values={"gateway": {"tlsSecret": "spillway-gateway-tls"}})
    assert difference(in_order(wanted), in_order(found)) == ""
    assert any(obj["kind"] == "Service" and len(obj["spec"]["ports"]) == 2 for obj in found)
    for obj in found:
        kubernetes_validate.validate(obj, "1.34", strict=True)


def test_everything_on_is_strictly_valid(helm: Helm) -> None:
    values = ALL | {
        "operator": {
            "settings": {"tickSeconds": 5, "logLevel": "debug"}, "nodeSelector": {"a": "b"}, "priorityClassName": "x",
            "tolerations": [{"key": "a", "operator": "Exists"}], "podAnnotations": {"a": "b"},
            "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
                {"matchExpressions": [{"key": "a", "operator": "Exists"}]}]}}},
        },
        "gateway": {"service": {"type": "NodePort", "nodePort": 30080, "annotations": {"a": "b"}}, "resources": {}},
        "imagePullSecrets": [{"name": "registry"}],
    }  # fmt: skip
    objects = helm.template(CHART, namespace="elsewhere", values=values)
    checked = [obj for obj in objects if obj["apiVersion"] != "monitoring.coreos.com/v1"]
    for obj in checked:
        kubernetes_validate.validate(obj, "1.34", strict=True)
    assert len(checked) > 20


def test_values_reach_their_places(helm: Helm) -> None:
    digest = "sha256:" + "ab" * 32
    found = rendered(helm, {
        "operator": {
            "replicas": 3,
            "image": {"repository": "r/operator", "tag": "t", "digest": digest},
            "settings": {"tickSeconds": 2.5, "workers": 8, "fastestStreamTokensPerSecond": 1000000,
                         "logLevel": "debug"},
            "extraEnv": [{"name": "EXTRA", "value": "1"}],
        },
        "gateway": {
            "image": {"repository": "r/gateway", "tag": "t", "pullPolicy": "Always"},
            "terminationGracePeriodSeconds": 600,
            "providerKeysSecret": "keys",
            "resources": {"requests": {"cpu": "2"}, "limits": None},
            "service": {"type": "NodePort", "nodePort": 30080},
        },
        "prometheusUrl": "http://p:1",
    })  # fmt: skip
    operator, gateway = container(found, "operator"), container(found, "gateway")
    environment = {variable["name"]: variable.get("value") for variable in operator["env"]}
    assert found["Deployment", "spillway-operator"]["spec"]["replicas"] == 3
    assert operator["image"] == f"r/operator@{digest}"
    assert {name: environment.get(name) for name in (
        "SPILLWAY_TICK_SECONDS", "SPILLWAY_WORKERS", "SPILLWAY_FASTEST_STREAM_TOKENS_PER_SECOND",
        "SPILLWAY_LOG_LEVEL", "SPILLWAY_PROMETHEUS_URL", "EXTRA",
    )} == {
        "SPILLWAY_TICK_SECONDS": "2.5", "SPILLWAY_WORKERS": "8",
        "SPILLWAY_FASTEST_STREAM_TOKENS_PER_SECOND": "1000000", "SPILLWAY_LOG_LEVEL": "debug",
        "SPILLWAY_PROMETHEUS_URL": "http://p:1", "EXTRA": "1",
    }  # fmt: skip
    assert (gateway["image"], gateway["imagePullPolicy"]) == ("r/gateway:t", "Always")
    assert gateway["resources"]["requests"]["cpu"] == "2"
    assert pod(found, "gateway")["terminationGracePeriodSeconds"] == 600
    assert pod(found, "gateway")["volumes"][1]["secret"]["secretName"] == "keys"
    service = found["Service", "spillway-gateway"]["spec"]
    assert (service["type"], service["ports"][0]["nodePort"]) == ("NodePort", 30080)


def test_settings_are_what_the_operator_reads(helm: Helm) -> None:
    command: Any = get_command(app)
    known = {option.envvar for option in command.commands["operator"].params}
    schema = json.loads((CHART / "values.schema.json").read_text())
    typed = schema["properties"]["operator"]["properties"]["settings"]["properties"]
    settings = {name: found["default"] for name, found in typed.items()}
    environment = container(rendered(helm, {"operator": {"settings": settings}}), "operator")["env"]
    names = {variable["name"] for variable in environment}
    assert len(names) > len(settings)
    assert names <= known


def test_another_namespace_and_domain_reach_all_names(helm: Helm) -> None:
    objects = helm.template(CHART, namespace="elsewhere", values=ALL | {"clusterDomain": "example.org"})
    text = str([obj for obj in objects if obj["kind"] != "CustomResourceDefinition"])
    assert "spillway-system" not in text
    assert "cluster.local" not in text
    assert "spillway-ads.elsewhere.svc.example.org:18000" in text
    assert "spillway-gateway.elsewhere.svc.example.org" in text


def test_network_policies_follow_their_values(helm: Helm) -> None:
    peers = [{"namespaceSelector": {"matchLabels": {"team": "chat"}}}]
    values = {"enabled": True, "monitoringNamespace": "observe", "prometheusPort": 9091, "clients": peers}
    found = rendered(helm, {"networkPolicies": values})
    gateway, operator = found["NetworkPolicy", "spillway-gateway"], found["NetworkPolicy", "spillway-operator"]
    assert {"ports": [{"port": 8080}, {"port": 8443}], "from": peers} in gateway["spec"]["ingress"]
    assert "'monitoring'" not in str([gateway, operator])
    prometheus = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "observe"}}}
    assert {"to": [prometheus], "ports": [{"port": 9091}]} in operator["spec"]["egress"]


def test_labels_for_ones_own_prometheus(helm: Helm) -> None:
    chosen = {"enabled": True, "labels": {"release": "stack"}}
    found = rendered(helm, {"podMonitors": chosen, "prometheusRules": chosen})
    monitored = [obj for (kind, _), obj in found.items() if kind in ("PodMonitor", "PrometheusRule")]
    assert len(monitored) == 3
    assert all(obj["metadata"]["labels"]["release"] == "stack" for obj in monitored)


def test_the_kinds_can_be_kept_let_go_and_left_out(helm: Helm) -> None:
    def policies(values: object) -> list[str | None]:
        found = rendered(helm, values)
        kinds = [obj for (kind, _), obj in found.items() if kind == "CustomResourceDefinition"]
        return [obj["metadata"].get("annotations", {}).get("helm.sh/resource-policy") for obj in kinds]

    assert policies({}) == ["keep"] * 4
    assert policies({"crds": {"keep": False}}) == [None] * 4
    assert policies({"crds": {"enabled": False}}) == []


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"operators": {}}, "operators"),
        ({"operator": {"replica": 2}}, "replica"),
        ({"operator": {"replicas": "two"}}, "/operator/replicas"),
        ({"operator": {"replicas": 0}}, "/operator/replicas"),
        ({"operator": {"settings": {"tickSeconds": 0}}}, "/operator/settings/tickSeconds"),
        ({"operator": {"settings": {"tickSecond": 1}}}, "tickSecond"),
        ({"operator": {"settings": {"workers": 1.5}}}, "/operator/settings/workers"),
        ({"operator": {"settings": {"logLevel": "loud"}}}, "/operator/settings/logLevel"),
        ({"operator": {"resources": {"request": {}}}}, "request"),
        ({"gateway": {"image": {"digest": "sha256:short"}}}, "/gateway/image/digest"),
        ({"gateway": {"service": {"type": "ExternalName"}}}, "/gateway/service/type"),
        ({"gateway": {"service": {"nodePort": 70000}}}, "/gateway/service/nodePort"),
        ({"gateway": {"extraEnv": {"A": "b"}}}, "/gateway/extraEnv"),
        ({"prometheusUrl": "prometheus:9090"}, "/prometheusUrl"),
        ({"networkPolicies": {"enabled": "yes"}}, "/networkPolicies/enabled"),
        ({"podMonitors": {"labels": {"release": 1}}}, "/podMonitors/labels/release"),
    ],
)
def test_a_wrong_value_is_refused_by_name(helm: Helm, values: object, field: str) -> None:
    with pytest.raises(HelmError) as refused:
        helm.template(CHART, namespace=NAMESPACE, values=values)
    assert f"'{field}'" in str(refused.value)


def test_a_helm_that_is_named_must_be_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HELM_BIN", str(tmp_path / "helm"))
    with pytest.raises(HelmError, match="HELM_BIN"):
        find_helm()


def test_without_helm_and_npm_the_message_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("HELM_BIN", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("SPILLWAY_CACHE", str(tmp_path))
    with pytest.raises(HelmError, match=r"install Helm 3\.17 or newer, or set HELM_BIN"):
        find_helm()


# ---- on a real API server --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    with ControlPlane(tmp_path_factory.mktemp("chart"), controllers=True) as found:
        yield found


def run(helm: Helm, plane: ControlPlane, *arguments: str) -> str:
    environment = {**os.environ, "KUBECONFIG": str(plane.kubeconfig)}
    command = [helm.program, *arguments, "--namespace", NAMESPACE]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def named(plane: ControlPlane, what: str) -> list[str]:
    found = plane.kubectl("get", what, "-A", "-l", "app.kubernetes.io/part-of=spillway", "-o", "name")
    return sorted(found.stdout.split())


def use(plane: ControlPlane) -> None:
    """Ask for objects of every kind, as the guide's first step of removing does. The API server opens a kind's storage
    when first asked; where its own clean-up of a deleted kind is the first to ask, it tries again after five minutes.
    """
    for kind in ("moedeployments", "gpupools", "externalproviders", "costpolicies"):
        plane.kubectl("delete", kind, "--all", "-A")


def test_from_install_to_the_last_trace(helm: Helm, plane: ControlPlane, tmp_path: Path) -> None:
    old = tmp_path / "spillway"  # a release from before a kind got its short name
    shutil.copytree(CHART, old)
    kinds = old / "templates" / "crds.yaml"
    before = kinds.read_text()
    kinds.write_text(before.replace("    - gpool\n", "    - oldpool\n"))
    assert kinds.read_text() != before

    plane.kubectl("apply", "-f", NAMESPACE_FILE)
    notes = run(helm, plane, "install", "spillway", str(old))
    assert "Spillway" in notes
    assert "helm uninstall" in notes
    assert len(named(plane, "crd")) == 4

    run(helm, plane, "upgrade", "spillway", str(CHART), "--reset-then-reuse-values", "--set", "operator.replicas=3")
    names = plane.kubectl("get", "crd/gpupools.spillway.dev", "-o", "jsonpath={.spec.names.shortNames}")
    assert names.stdout == '["gpool"]'
    deployment = plane.kubectl(
        "get", "deployment/spillway-operator", "-n", NAMESPACE, "-o", "jsonpath={.spec.replicas}"
    )
    assert deployment.stdout == "3"

    run(helm, plane, "uninstall", "spillway")
    wait_until("deployments to go", lambda: not named(plane, "deployments"), 30)
    left = {what: named(plane, what) for what in ("crd", "clusterroles", "clusterrolebindings", "services")}
    assert left == {"crd": left["crd"], "clusterroles": [], "clusterrolebindings": [], "services": []}
    assert len(left["crd"]) == 4, "the kinds, and so the models, outlive a mistaken uninstall"

    run(helm, plane, "install", "spillway", str(CHART))  # it takes its kinds up again
    run(helm, plane, "uninstall", "spillway")
    use(plane)
    plane.kubectl("delete", "-k", str(REPOSITORY / "crds"), "--ignore-not-found", "--timeout=60s")
    plane.kubectl("delete", "namespace", NAMESPACE, "--timeout=60s")
    assert named(plane, "crd,clusterroles,clusterrolebindings,namespaces") == []


def test_it_takes_over_what_kustomize_installed(helm: Helm, plane: ControlPlane) -> None:
    plane.kubectl("apply", "--server-side", "-k", str(BASE))
    run(helm, plane, "install", "spillway", str(CHART), "--take-ownership")
    run(helm, plane, "uninstall", "spillway")
    use(plane)
    plane.kubectl("delete", "-k", str(BASE), "--ignore-not-found", "--timeout=60s")
    assert named(plane, "crd,clusterroles,clusterrolebindings,namespaces") == []
