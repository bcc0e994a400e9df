"""A real Prometheus that finds Spillway's pods by Kubernetes service discovery (see discovery.py)."""

from __future__ import annotations

from pathlib import Path

import yaml

from e2e.cluster import debian
from e2e.cluster.controlplane import ControlPlane, answers
from e2e.cluster.discovery import supports_kubernetes
from e2e.cluster.kubeapi import Obj
from e2e.cluster.processes import Process, Say, StartError, free_port, named_program, wait_until

_ACCOUNT: Obj = {"name": "prometheus", "namespace": "kube-system"}
_RBAC = "rbac.authorization.k8s.io"


def find_prometheus(say: Say = print) -> str:
    """PROMETHEUS_BIN, PATH, or Debian's package (its own service is kept from starting)."""
    return named_program("PROMETHEUS_BIN", StartError) or debian.provide("prometheus", ["prometheus"], say)


class Prometheus:
    """Prometheus as a child process that can be stopped and started again with its data."""

    def __init__(self, plane: ControlPlane, directory: Path, address: str, scrape_seconds: float, say: Say) -> None:
        self._directory, self._program = directory, find_prometheus(say)
        port = 9090 if address != "127.0.0.1" else free_port()
        self._listen = f"{address}:{port}"
        self.url = f"http://{self._listen}"
        self._process: Process | None = None
        directory.mkdir(parents=True, exist_ok=True)
        plane.kubectl("apply", "-f", "-", input=yaml.safe_dump_all(reader(_ACCOUNT)))
        token = directory / "token"
        minted = plane.kubectl("create", "token", _ACCOUNT["name"], "-n", _ACCOUNT["namespace"], "--duration=720h")
        token.write_text(minted.stdout.strip())
        token.chmod(0o600)
        self._configuration = directory / "prometheus.yml"
        self.targets: Path | None = None  # the node agent writes it when Prometheus cannot ask Kubernetes itself
        discovery = _ask_kubernetes(plane.server, plane.authority.certificate, token)
        if not supports_kubernetes(Path(self._program)):
            self.targets = directory / "targets.json"
            discovery = {"file_sd_configs": [{"files": [str(self.targets)]}]}
        self._configuration.write_text(yaml.safe_dump(configuration(discovery, scrape_seconds)))

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.exit_code is None

    def launch(self) -> None:
        """Start it, if it does not run; it answers a moment later."""
        if self.running:
            return
        self._process = Process(
            "prometheus",
            [
                self._program,
                f"--config.file={self._configuration}",
                f"--storage.tsdb.path={self._directory / 'data'}",
                "--storage.tsdb.retention.time=2d",
                f"--web.listen-address={self._listen}",
                "--log.level=warn",
            ],
            self._directory.parent / "logs" / "prometheus.log",
        ).start()

    def wait(self) -> None:
        """Return when it answers; StartError if it does not."""
        wait_until("prometheus", lambda: answers(f"{self.url}/-/ready"), 30, self._process)

    def stop(self) -> None:
        """End it; its data stays."""
        if self._process:
            self._process.stop()
            self._process = None


def _ask_kubernetes(server: str, authority: Path, token: Path) -> dict[str, object]:
    return {
        "kubernetes_sd_configs": [
            {
                "role": "pod",
                "api_server": server,
                "authorization": {"credentials_file": str(token)},
                "tls_config": {"ca_file": str(authority)},
                "selectors": [{"role": "pod", "label": "app.kubernetes.io/part-of=spillway"}],
            }
        ]
    }


def reader(metadata: Obj) -> list[Obj]:
    """A ServiceAccount of this metadata and its right to watch pods everywhere, which discovery asks for."""
    subject = {"kind": "ServiceAccount", "name": metadata["name"], "namespace": metadata["namespace"]}
    role = {"apiGroup": _RBAC, "kind": "ClusterRole", "name": "e2e-prometheus"}
    rules = [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]}]
    named = {"apiVersion": f"{_RBAC}/v1", "metadata": {"name": role["name"]}}
    return [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata},
        {**named, "kind": "ClusterRole", "rules": rules},
        {**named, "kind": "ClusterRoleBinding", "roleRef": role, "subjects": [subject]},
    ]


def configuration(discovery: dict[str, object], scrape_seconds: float) -> dict[str, object]:
    """Scrape pods of Spillway: engines at their port `http`, everything else at its port `metrics`."""
    interval = f"{round(scrape_seconds * 1000)}ms"
    meta = "__meta_kubernetes_pod"
    part_of = f"{meta}_label_app_kubernetes_io_part_of"
    component = f"{meta}_label_app_kubernetes_io_component"

    def copy(source: str, target: str) -> dict[str, object]:
        return {"source_labels": [source], "target_label": target}

    return {
        "global": {"scrape_interval": interval, "scrape_timeout": interval, "evaluation_interval": "10s"},
        "scrape_configs": [
            {
                "job_name": "spillway",
                **discovery,
                "relabel_configs": [
                    {"source_labels": [part_of], "regex": "spillway", "action": "keep"},
                    {"source_labels": [f"{meta}_phase"], "regex": "Running", "action": "keep"},
                    {
                        "source_labels": [component, f"{meta}_container_port_name"],
                        "regex": "engine;http|.*;metrics",
                        "action": "keep",
                    },
                    copy("__meta_kubernetes_namespace", "namespace"),
                    copy(f"{meta}_name", "pod"),
                    copy(f"{meta}_label_spillway_dev_deployment", "deployment"),
                    copy(f"{meta}_label_spillway_dev_variant", "variant"),
                ],
            }
        ],
    }
