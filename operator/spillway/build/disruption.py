"""The PodDisruptionBudget of the replicas."""

from __future__ import annotations

from spillway.api import MoEDeployment
from spillway.build.labels import Object, metadata, object_labels, pod_selector


def disruption_budget(moe: MoEDeployment) -> Object:
    """One replica of the whole MoEDeployment at a time; replicas that are not ready may always be evicted.

    One budget for all variants and revisions: two on the same pod would block every eviction. Workers of a group count
    like their leader: without one of them the replica is gone.
    """
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": metadata(moe, moe.metadata.name, object_labels(moe)),
        "spec": {
            "maxUnavailable": 1,
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
            "selector": {"matchLabels": pod_selector(moe.metadata.name)},
        },
    }
