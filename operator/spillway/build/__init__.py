"""Pure builders: from a MoEDeployment and a resolved variant to the Kubernetes objects, one module per kind and per
engine. The result is what server-side apply takes: complete, deterministic, without anything that the API server adds.
"""

from spillway.build.account import account, account_name
from spillway.build.computedomain import compute_domain
from spillway.build.disruption import disruption_budget
from spillway.build.labels import (
    DEPLOYMENT_LABEL,
    ENGINE_CONTAINER,
    ENGINE_PORT,
    ENGINE_PORT_NAME,
    REVISION_LABEL,
    VARIANT_LABEL,
    Object,
    pod_selector,
    selector_text,
    workload_name,
)
from spillway.build.monitor import pod_monitor
from spillway.build.network import group_network_policy, network_policy
from spillway.build.prefetch import keeps_weights, next_nodes, nodes_of, prefetch
from spillway.build.service import endpoint, service
from spillway.build.settings import BuildSettings
from spillway.build.weights import caution
from spillway.build.workload import revision, workload

__all__ = [
    "DEPLOYMENT_LABEL",
    "ENGINE_CONTAINER",
    "ENGINE_PORT",
    "ENGINE_PORT_NAME",
    "REVISION_LABEL",
    "VARIANT_LABEL",
    "BuildSettings",
    "Object",
    "account",
    "account_name",
    "caution",
    "compute_domain",
    "disruption_budget",
    "endpoint",
    "group_network_policy",
    "keeps_weights",
    "network_policy",
    "next_nodes",
    "nodes_of",
    "pod_monitor",
    "pod_selector",
    "prefetch",
    "revision",
    "selector_text",
    "service",
    "workload",
    "workload_name",
]
