"""The API server's objects as the informers last saw them: plain dicts, by `namespace/name` (or `name`)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

Object = dict[str, Any]

GATEWAY_LABELS = {"app.kubernetes.io/name": "spillway-gateway"}


def key_of(obj: Object) -> str:
    meta = obj["metadata"]
    return f"{meta['namespace']}/{meta['name']}" if meta.get("namespace") else str(meta["name"])


def has_labels(obj: Object, wanted: dict[str, str]) -> bool:
    labels = obj["metadata"].get("labels") or {}
    return all(labels.get(key) == value for key, value in wanted.items())


def seconds(timestamp: str | None) -> float | None:
    """Unix seconds of a Kubernetes timestamp."""
    return datetime.fromisoformat(timestamp.replace("Z", "+00:00")).timestamp() if timestamp else None


def condition(obj: Object, kind: str) -> Object | None:
    """The status condition of that type."""
    conditions: Iterable[Object] = (obj.get("status") or {}).get("conditions") or ()
    return next((c for c in conditions if c.get("type") == kind), None)


@dataclass
class Objects:
    """One dict per kind that is watched."""

    moedeployments: dict[str, Object] = field(default_factory=dict)
    gpupools: dict[str, Object] = field(default_factory=dict)
    externalproviders: dict[str, Object] = field(default_factory=dict)
    costpolicies: dict[str, Object] = field(default_factory=dict)
    deployments: dict[str, Object] = field(default_factory=dict)  # ours
    daemonsets: dict[str, Object] = field(default_factory=dict)  # ours
    leaderworkersets: dict[str, Object] = field(default_factory=dict)  # ours
    services: dict[str, Object] = field(default_factory=dict)
    serviceaccounts: dict[str, Object] = field(default_factory=dict)  # ours
    poddisruptionbudgets: dict[str, Object] = field(default_factory=dict)  # ours
    networkpolicies: dict[str, Object] = field(default_factory=dict)  # ours
    podmonitors: dict[str, Object] = field(default_factory=dict)  # ours
    horizontalpodautoscalers: dict[str, Object] = field(default_factory=dict)  # that target a MoEDeployment
    computedomains: dict[str, Object] = field(default_factory=dict)  # ours
    pods: dict[str, Object] = field(default_factory=dict)
    nodes: dict[str, Object] = field(default_factory=dict)
    namespaces: dict[str, Object] = field(default_factory=dict)
    extensions: set[str] = field(default_factory=set)
    """Which kinds the cluster has of those that are not Kubernetes' own, by their plurals."""

    def store(self, plural: str) -> dict[str, Object]:
        store: dict[str, Object] = getattr(self, plural)
        return store

    def workloads(self) -> Iterator[Object]:
        """Deployments and LeaderWorkerSets of ours."""
        yield from self.deployments.values()
        yield from self.leaderworkersets.values()

    def gateways(self) -> Iterator[Object]:
        """Gateway pods that run."""
        for pod in self.pods.values():
            status = pod.get("status") or {}
            if has_labels(pod, GATEWAY_LABELS) and status.get("podIP") and status.get("phase") == "Running":
                yield pod

    def namespace_labels(self, name: str) -> dict[str, str]:
        labels: dict[str, str] = (self.namespaces.get(name) or {"metadata": {}})["metadata"].get("labels") or {}
        return labels
