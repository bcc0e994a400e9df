"""What stands around Spillway on a kind cluster, as objects: a Prometheus and the simulated providers. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import yaml

from e2e.cluster.kubeapi import Obj
from e2e.cluster.pools import node_labels
from e2e.cluster.prometheus import configuration, reader
from e2e.cluster.settings import Pool, Provider

MONITORING, PROVIDERS = "monitoring", "providers"
PROMETHEUS_PORT = 30090  # node ports; the gateway's is in manifests/overlays/kind
GATEWAY_PORT = 30080
_TARGETS = "/targets/targets.json"
# Node drains are for Spillway's pods: what the scenarios observe it with stays on the control plane.
_PINNED = {"node-role.kubernetes.io/control-plane": ""}
_TOLERATED = [{"key": next(iter(_PINNED)), "operator": "Exists"}]
_SAFE: Obj = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}
_POD_SAFE: Obj = {
    "runAsNonRoot": True,
    "runAsUser": 65532,
    "runAsGroup": 65532,
    "fsGroup": 65532,
    "seccompProfile": {"type": "RuntimeDefault"},
}


def control_port(provider: Provider) -> int:
    """The node port of a provider's control port."""
    return 30000 + provider.host


def service_name(provider: Provider) -> str:
    """The host name under which gateways reach a provider."""
    return f"{provider.name}.{PROVIDERS}.svc.cluster.local"


def base_url(provider: Provider) -> str:
    return f"https://{service_name(provider)}:{provider.port}{provider.config.get('basePath', '/v1')}"


def gpu_node_labels(pool: Pool) -> dict[str, str]:
    """Labels of a pool's nodes, without those that the kubelet sets itself."""
    return {key: value for key, value in node_labels(pool).items() if not key.startswith("kubernetes.io/")}


def providers(items: list[Provider], image: str, certificates: Mapping[str, tuple[str, str]]) -> list[Obj]:
    """One Deployment, Service and Secret for each; `certificates` are (certificate, key) in PEM by name."""
    objects: list[Obj] = [_namespace(PROVIDERS)]
    for item in items:
        certificate, key = certificates[item.name]
        files = {
            "config.json": json.dumps({**item.config, "keys": [item.api_key]}),
            "tls.crt": certificate,
            "tls.key": key,
        }
        container = {
            "name": "provider",
            "image": image,
            "command": ["python3", "-m", "e2e.simulators.provider"],
            "args": [
                *("--address=0.0.0.0", f"--port={item.port}", f"--control-port={item.control_port}"),
                *("--cert=/files/tls.crt", "--key=/files/tls.key", "--config=/files/config.json"),
            ],
            "ports": [
                {"name": "https", "containerPort": item.port},
                {"name": "control", "containerPort": item.control_port},
            ],
            "readinessProbe": {"httpGet": {"path": "/bill", "port": "control"}, "periodSeconds": 1},
            "resources": {"requests": {"cpu": "20m", "memory": "64Mi"}},
            "securityContext": _SAFE,
            "volumeMounts": [{"name": "files", "mountPath": "/files", "readOnly": True}],
        }
        volume = {"name": "files", "secret": {"secretName": item.name, "defaultMode": 0o440}}
        ports = [
            {"name": "https", "port": item.port, "targetPort": "https"},
            {"name": "control", "port": item.control_port, "targetPort": "control", "nodePort": control_port(item)},
        ]
        objects += [
            {"apiVersion": "v1", "kind": "Secret", "metadata": _meta(item.name, PROVIDERS), "stringData": files},
            _deployment(item.name, PROVIDERS, [container], [volume]),
            _node_port(item.name, PROVIDERS, ports),
        ]
    return objects


def prometheus(image: str, side_car: str, scrape_seconds: float) -> list[Obj]:
    """Prometheus with its targets from a side-car, so that a build without Kubernetes discovery does as well."""
    config = yaml.safe_dump(configuration({"file_sd_configs": [{"files": [_TARGETS]}]}, scrape_seconds))
    server = {
        "name": "prometheus",
        "image": image,
        "command": ["prometheus"],
        "args": [
            *("--config.file=/config/prometheus.yml", "--storage.tsdb.path=/data", "--storage.tsdb.retention.time=2d"),
            *("--web.listen-address=0.0.0.0:9090", "--log.level=warn"),
        ],
        "ports": [{"name": "http", "containerPort": 9090}],
        "readinessProbe": {"httpGet": {"path": "/-/ready", "port": "http"}, "periodSeconds": 1},
        "resources": {"requests": {"cpu": "50m", "memory": "128Mi"}},
        "securityContext": _SAFE,
        "volumeMounts": [
            {"name": "config", "mountPath": "/config", "readOnly": True},
            {"name": "data", "mountPath": "/data"},
            {"name": "targets", "mountPath": "/targets", "readOnly": True},
        ],
    }
    discovery = {
        "name": "discovery",
        "image": side_car,
        "command": ["python3", "-m", "e2e.cluster.discovery", _TARGETS],
        "resources": {"requests": {"cpu": "20m", "memory": "64Mi"}},
        "securityContext": _SAFE,
        "volumeMounts": [{"name": "targets", "mountPath": "/targets"}],
    }
    volumes: list[Obj] = [
        {"name": "config", "configMap": {"name": "prometheus"}},
        {"name": "data", "emptyDir": {}},
        {"name": "targets", "emptyDir": {}},
    ]
    return [
        _namespace(MONITORING),
        *reader(_meta("prometheus", MONITORING)),
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": _meta("prometheus", MONITORING),
            "data": {"prometheus.yml": config},
        },
        _deployment("prometheus", MONITORING, [server, discovery], volumes, account="prometheus"),
        _node_port(
            "prometheus",
            MONITORING,
            [{"name": "http", "port": 9090, "targetPort": "http", "nodePort": PROMETHEUS_PORT}],
        ),
    ]


def python_pod(namespace: str, image: str, script: str, arguments: Sequence[str]) -> Obj:
    """A pod that runs a Python script once, where the simulators' image is."""
    container = {
        "name": "python",
        "image": image,
        "command": ["python3", "-c", script, *arguments],
        "securityContext": _SAFE,
    }
    spec = {
        "restartPolicy": "Never",
        "nodeSelector": _PINNED,
        "tolerations": _TOLERATED,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": _POD_SAFE,
        "containers": [container],
    }
    return {"apiVersion": "v1", "kind": "Pod", "metadata": _meta("python", namespace), "spec": spec}


def _namespace(name: str) -> Obj:
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}


def _meta(name: str, namespace: str) -> Obj:
    return {"name": name, "namespace": namespace, "labels": {"app": name}}


def _deployment(
    name: str, namespace: str, containers: list[Obj], volumes: list[Obj], account: str | None = None
) -> Obj:
    pod: Obj = {
        "nodeSelector": _PINNED,
        "tolerations": _TOLERATED,
        "enableServiceLinks": False,
        "automountServiceAccountToken": account is not None,
        "terminationGracePeriodSeconds": 2,
        "securityContext": _POD_SAFE,
        "containers": containers,
        "volumes": volumes,
    }
    if account:
        pod["serviceAccountName"] = account
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": _meta(name, namespace),
        "spec": {
            "replicas": 1,
            "strategy": {"type": "Recreate"},
            "selector": {"matchLabels": {"app": name}},
            "template": {"metadata": {"labels": {"app": name}}, "spec": pod},
        },
    }


def _node_port(name: str, namespace: str, ports: list[Obj]) -> Obj:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": _meta(name, namespace),
        "spec": {"type": "NodePort", "selector": {"app": name}, "ports": ports},
    }
