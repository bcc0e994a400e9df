"""Pods and nodes as replicas and pools."""

from __future__ import annotations

from collections.abc import Mapping

from kubernetes.utils.quantity import parse_quantity

from spillway.api import GPUPool, MoEDeployment
from spillway.build import DEPLOYMENT_LABEL, REVISION_LABEL, VARIANT_LABEL
from spillway.decide.snapshot import Asked, Phase, Pool, Replica
from spillway.observe.objects import Object, Objects, condition, has_labels, seconds

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


def requested(pod: Object, resource: str) -> int:
    """Units of an extended resource that a pod holds."""
    containers = (pod.get("spec") or {}).get("containers") or []
    return sum(whole(((c.get("resources") or {}).get("requests") or {}).get(resource)) for c in containers)


def whole(quantity: str | int | None) -> int:
    """A Kubernetes quantity of something that comes in whole units; extended resources do."""
    return int(parse_quantity(quantity)) if quantity is not None else 0  # type: ignore[no-untyped-call]


def pool_nodes(pool: GPUPool, objects: Objects) -> list[Object]:
    """Ready, schedulable nodes of the pool."""
    nodes = [n for n in objects.nodes.values() if has_labels(n, dict(pool.spec.node_selector))]
    ready = [n for n in nodes if (c := condition(n, "Ready")) and c.get("status") == "True"]
    return sorted(
        (n for n in ready if not (n.get("spec") or {}).get("unschedulable")), key=lambda n: n["metadata"]["name"]
    )


def allocatable(node: Object, resource: str) -> int:
    return whole(((node.get("status") or {}).get("allocatable") or {}).get(resource))


def gpus_in_use(objects: Objects, resource: str) -> dict[str, int]:
    """GPUs held on each node by all pods that have not finished, ours or not."""
    used: dict[str, int] = {}
    for pod in objects.pods.values():
        node = (pod.get("spec") or {}).get("nodeName")
        if node and (pod.get("status") or {}).get("phase") not in FINISHED:
            used[node] = used.get(node, 0) + requested(pod, resource)
    return used


def is_ours(pod: Object) -> bool:
    return VARIANT_LABEL in (pod["metadata"].get("labels") or {})


def of_pool(pod: Object, pool: GPUPool) -> bool:
    """Whether a replica was asked for in that pool: builders copy the pool's selector into the pod."""
    selector = (pod.get("spec") or {}).get("nodeSelector") or {}
    return is_ours(pod) and all(selector.get(k) == v for k, v in pool.spec.node_selector.items())


def pool(pool: GPUPool, objects: Objects) -> Pool:
    """The pool's room. With `capacity.maxGPUs` nodes may still come; without it there is what the nodes allocate."""
    spec, resource = pool.spec, pool.spec.gpu.resource_name
    nodes = pool_nodes(pool, objects)
    used = gpus_in_use(objects, resource)
    free = tuple(max(0, allocatable(n, resource) - used.get(n["metadata"]["name"], 0)) for n in nodes)
    present = sum(allocatable(n, resource) for n in nodes)
    most = spec.capacity.max_gpus
    ours = sum(
        requested(p, resource)
        for p in objects.pods.values()
        if of_pool(p, pool) and (p["spec"].get("nodeName")) and (p.get("status") or {}).get("phase") not in FINISHED
    )
    return Pool(
        name=pool.metadata.name,
        free_gpus_by_node=free,
        growable_gpus=max(0, most - present) if most is not None else 0,
        gpus_per_node=spec.gpu.per_node,
        provisioning_timeout_seconds=spec.capacity.provisioning_timeout_seconds,
        max_gpus=most,
        used_gpus=ours,
    )
