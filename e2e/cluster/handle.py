"""What scenarios know of a cluster: a kubeconfig, addresses, and Spillway on it. They do not know which kind it is."""

from __future__ import annotations

import json
import subprocess
import urllib.error
import urllib.request
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from e2e.cluster.controlplane import run_kubectl
from e2e.cluster.kubeapi import Obj
from e2e.cluster.settings import KEYS_FILE, SYSTEM_NAMESPACE

WORKLOADS = ("spillway-operator", "spillway-gateway")


class ClusterHandle(ABC):
    """A running cluster. Synchronous; addresses are loopback addresses of this machine."""

    directory: Path  # logs, kubeconfig, keys
    kubeconfig: Path
    prometheus_url: str | None
    providers: dict[str, dict[str, str]]  # by name: base_url (seen from the gateway), server_name, control_url
    overlay: Path  # the kustomize overlay that installs Spillway here
    audit_log: Path  # requests of Spillway's accounts (audit.py)

    @abstractmethod
    def operator_manifests(self) -> str:
        """What installs Spillway: the overlay as YAML."""

    @abstractmethod
    def client_urls(self, gateways: Sequence[Obj]) -> list[str]:
        """Base URLs that clients spread over, when these gateway pods are ready."""

    @abstractmethod
    def kill_pod(self, namespace: str, name: str) -> None:
        """SIGKILL to the pod's processes: a crash."""

    @abstractmethod
    def heal(self) -> None:
        """Undo what scenarios did to the clouds behind the pools."""

    def kubectl(
        self, *arguments: str, input: str | None = None, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """kubectl as administrator; with check a failure raises RuntimeError with kubectl's words."""
        return run_kubectl(self.kubeconfig, *arguments, input=input, check=check)

    def deploy_operator(self) -> None:
        """Install operator_manifests()."""
        self.install(self.operator_manifests())

    def install(self, manifests: str) -> None:
        """Apply manifests and the provider keys; returns when the API server serves the four kinds."""
        self.apply(manifests)
        if self.providers:
            keys = str(self.directory / KEYS_FILE)
            self.kubectl("apply", "--server-side", "--field-manager=e2e-cluster", "-f", keys)
        self.kubectl("wait", "--for=condition=Established", "crd", "-l", "app.kubernetes.io/part-of=spillway")

    def wait_for_operator(self, seconds: int = 180) -> None:
        """Return when all replicas of operator and gateway are ready; RuntimeError if they are not in time."""
        for name in WORKLOADS:
            deployment = f"deployment/{name}"
            self.kubectl("rollout", "status", deployment, "-n", SYSTEM_NAMESPACE, f"--timeout={seconds}s")

    def delete_operator(self) -> None:
        """Delete operator_manifests() and wait until all is gone.

        Pods first: a namespace that finds pods in itself looks again only after half of their longest grace period.
        """
        options = ["--cascade=foreground", "--ignore-not-found", "--timeout=180s"]
        self.kubectl("delete", "deployments", *WORKLOADS, "-n", SYSTEM_NAMESPACE, *options)
        self.kubectl("delete", "--ignore-not-found", "--timeout=180s", "-f", "-", input=self.operator_manifests())

    def apply(self, manifests: str) -> None:
        """Server-side apply, taking over what others wrote."""
        self.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", input=manifests)

    def provider_bill(self, provider: str) -> dict[str, Any]:
        """What the provider simulator has charged: its own truth."""
        return ask("GET", f"{self.providers[provider]['control_url']}/bill")

    def provider_faults(self, provider: str, **faults: object) -> None:
        """Switch the provider's faults, for example mode="outage" (e2e/simulators/provider/faults.py)."""
        ask("POST", f"{self.providers[provider]['control_url']}/faults", faults)


def ask(method: str, url: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    """One JSON request to a control port; RuntimeError with its words when it refuses."""
    data = None if method == "GET" else json.dumps(body).encode()
    request = urllib.request.Request(url, data=data, method=method, headers={"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            answer: dict[str, Any] = json.loads(response.read() or b"{}")
            return answer
    except urllib.error.HTTPError as error:
        raise RuntimeError(f"{method} {url}: {error.read().decode(errors='replace')}") from error
