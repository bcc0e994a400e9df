"""The NetworkPolicies of the replicas."""

from __future__ import annotations

from spillway.api import MoEDeployment
from spillway.build.labels import ENGINE_PORT_NAME, GROUP_KEY_LABEL, Object, metadata, object_labels, pod_selector
from spillway.build.settings import BuildSettings

GATEWAY_LABELS = {"app.kubernetes.io/name": "spillway-gateway"}
NAMESPACE_LABEL = "kubernetes.io/metadata.name"


def network_policy(moe: MoEDeployment, settings: BuildSettings) -> Object:
    """The gateways and the scraper reach the serving port, and nobody else, so that nobody goes round the budgets.

    What replicas may reach themselves (weights, the cluster's DNS) is the platform's to say.
    """
    gateway = {
        "namespaceSelector": {"matchLabels": {NAMESPACE_LABEL: settings.gateway_namespace}},
        "podSelector": {"matchLabels": GATEWAY_LABELS},
    }
    scraper = {"namespaceSelector": {"matchLabels": {NAMESPACE_LABEL: settings.scraper_namespace}}}
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": metadata(moe, f"{moe.metadata.name}-engine", object_labels(moe)),
        "spec": {
            "podSelector": {"matchLabels": pod_selector(moe.metadata.name)},
            "policyTypes": ["Ingress"],
            "ingress": [{"from": [gateway, scraper], "ports": [{"port": ENGINE_PORT_NAME, "protocol": "TCP"}]}],
        },
    }


def group_network_policy(moe: MoEDeployment) -> Object:
    """The pods of replicas across nodes reach each other on every port: rendezvous, NCCL, RPC between data ranks.

    A policy cannot say "of the same group"; pods of other replicas of the same MoEDeployment are let in too.
    """
    group = {
        "matchLabels": pod_selector(moe.metadata.name),
        "matchExpressions": [{"key": GROUP_KEY_LABEL, "operator": "Exists"}],
    }
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": metadata(moe, f"{moe.metadata.name}-group", object_labels(moe)),
        "spec": {"podSelector": group, "policyTypes": ["Ingress"], "ingress": [{"from": [{"podSelector": group}]}]},
    }
