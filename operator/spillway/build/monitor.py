"""The PodMonitor of the replicas, for clusters with Prometheus Operator."""

from __future__ import annotations

from spillway.api import MoEDeployment
from spillway.build.labels import (
    DEPLOYMENT_LABEL,
    ENGINE_PORT_NAME,
    VARIANT_LABEL,
    Object,
    metadata,
    object_labels,
    pod_selector,
)
from spillway.build.settings import BuildSettings


def pod_monitor(moe: MoEDeployment, settings: BuildSettings) -> Object:
    """Every pod that serves is scraped, under the labels that the operator asks for: namespace, pod, deployment,
    variant. The settings' labels are those by which a Prometheus selects PodMonitors. Rates are taken over 60 s: at
    least four scrapes."""
    relabelings = [
        {"sourceLabels": ["__meta_kubernetes_pod_phase"], "regex": "Running", "action": "keep"},
        {"sourceLabels": [_meta(DEPLOYMENT_LABEL)], "targetLabel": "deployment"},
        {"sourceLabels": [_meta(VARIANT_LABEL)], "targetLabel": "variant"},
    ]
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PodMonitor",
        "metadata": metadata(
            moe, f"{moe.metadata.name}-engine", {**dict(settings.pod_monitor_labels), **object_labels(moe)}
        ),
        "spec": {
            "selector": {"matchLabels": pod_selector(moe.metadata.name)},
            "podMetricsEndpoints": [{"port": ENGINE_PORT_NAME, "interval": "15s", "relabelings": relabelings}],
        },
    }


def _meta(label: str) -> str:
    """Prometheus' name of a pod's label."""
    return "__meta_kubernetes_pod_label_" + "".join(c if c.isalnum() else "_" for c in label)
