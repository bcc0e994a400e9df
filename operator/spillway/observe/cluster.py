"""Pods as replicas, workloads as what is asked for."""

from __future__ import annotations

from collections.abc import Mapping

from spillway.api import MoEDeployment
from spillway.build import DEPLOYMENT_LABEL, REVISION_LABEL, VARIANT_LABEL
from spillway.decide.snapshot import Asked, Phase, Replica
from spillway.observe.objects import Object, Objects, condition, seconds

DELETION_COST = "controller.kubernetes.io/pod-deletion-cost"
FINISHED = ("Succeeded", "Failed")


def phase(pod: Object) -> Phase:
    status = pod.get("status") or {}
    if pod["metadata"].get("deletionTimestamp") or status.get("phase") in FINISHED:
        return Phase.STOPPING
    if not (pod.get("spec") or {}).get("nodeName"):
        return Phase.PENDING
    ready = condition(pod, "Ready")
    return Phase.READY if ready and ready.get("status") == "True" else Phase.STARTING


def replicas(moe: MoEDeployment, objects: Objects, in_flight: Mapping[str, int]) -> tuple[Replica, ...]:
    """The deployment's pods. `in_flight`: requests in the engine, by namespace/pod."""
    found = []
    for key, pod in sorted(objects.pods.items()):
        meta = pod["metadata"]
        labels = meta.get("labels") or {}
        if meta.get("namespace") != moe.metadata.namespace or labels.get(DEPLOYMENT_LABEL) != moe.metadata.name:
            continue
        if VARIANT_LABEL not in labels:
            continue
        where, scheduled, ready = phase(pod), condition(pod, "PodScheduled"), condition(pod, "Ready")
        has_node = scheduled is not None and scheduled.get("status") == "True"
        found.append(
            Replica(
                name=meta["name"],
                variant=labels[VARIANT_LABEL],
                revision=labels.get(REVISION_LABEL, ""),
                phase=where,
                asked_at=seconds(meta.get("creationTimestamp")) or 0.0,
                scheduled_at=seconds(scheduled.get("lastTransitionTime")) if has_node and scheduled else None,
                ready_at=seconds(ready.get("lastTransitionTime")) if where is Phase.READY and ready else None,
                in_flight=in_flight.get(key),
            )
        )
    return tuple(found)


def asked(moe: MoEDeployment, objects: Objects) -> tuple[Asked, ...]:
    """What the deployment's workloads ask for now."""
    found = []
    for workload in objects.deployments.values():
        meta = workload["metadata"]
        labels = meta.get("labels") or {}
        if meta.get("namespace") != moe.metadata.namespace or labels.get(DEPLOYMENT_LABEL) != moe.metadata.name:
            continue
        if VARIANT_LABEL not in labels or meta.get("deletionTimestamp"):
            continue
        failure = condition(workload, "ReplicaFailure")
        refused = failure.get("message", "") if failure and failure.get("status") == "True" else ""
        found.append(
            Asked(labels[VARIANT_LABEL], labels.get(REVISION_LABEL, ""), workload["spec"].get("replicas", 1), refused)
        )
    return tuple(sorted(found, key=lambda a: (a.variant, a.revision)))


def is_ours(pod: Object) -> bool:
    return VARIANT_LABEL in (pod["metadata"].get("labels") or {})
