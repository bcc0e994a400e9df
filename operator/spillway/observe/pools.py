"""Nodes as pools: what they allocate, who holds it, what is free."""

from __future__ import annotations

from collections.abc import Iterable

from spillway.api import GPUPool, Toleration
from spillway.decide.snapshot import Pool
from spillway.observe.cluster import FINISHED, is_ours, of_pool, of_waiting_groups, requested, whole
from spillway.observe.objects import Object, Objects, condition, has_labels


def pool_nodes(pool: GPUPool, objects: Objects) -> list[Object]:
    """Nodes of the pool that take new replicas."""
    return [node for node in _nodes_of(pool, objects) if not _objection(node, pool)]


def nodes_left_out(pool: GPUPool, objects: Objects) -> list[str]:
    """Nodes of the pool that take no new replicas, each with why in words."""
    return [
        f"{node['metadata']['name']} ({objection})"
        for node in _nodes_of(pool, objects)
        if (objection := _objection(node, pool))
    ]


def _nodes_of(pool: GPUPool, objects: Objects) -> list[Object]:
    nodes = (n for n in objects.nodes.values() if has_labels(n, dict(pool.spec.node_selector)))
    return sorted(nodes, key=lambda n: n["metadata"]["name"])


def _objection(node: Object, pool: GPUPool) -> str:
    """Why a node takes no replicas: lost, cordoned, or a taint that the pool does not tolerate, such as a cloud's
    notice that it takes a spot node away."""
    spec, ready = node.get("spec") or {}, condition(node, "Ready")
    if not ready or ready.get("status") != "True":
        return "not ready"
    if spec.get("unschedulable"):
        return "cordoned"
    for taint in spec.get("taints") or []:
        if taint.get("effect") != "PreferNoSchedule" and not any(_tolerates(o, taint) for o in pool.spec.tolerations):
            return f"taint {taint.get('key')}:{taint.get('effect')} is not tolerated"
    return ""


def _tolerates(toleration: Toleration, taint: Object) -> bool:
    """As the scheduler has it: no key with operator Exists matches every taint, no effect every effect."""
    return (
        toleration.effect in (None, taint.get("effect"))
        and (toleration.key == taint.get("key") or (not toleration.key and toleration.operator == "Exists"))
        and (toleration.operator == "Exists" or toleration.value == taint.get("value", ""))
    )


def allocatable(node: Object, resource: str) -> int:
    return whole(((node.get("status") or {}).get("allocatable") or {}).get(resource))


def gpus_in_use(objects: Objects, resource: str) -> dict[str, int]:
    """GPUs held on each node by all pods that have not finished, ours or not."""
    return _held(objects.pods.values(), resource)


def _held(pods: Iterable[Object], resource: str) -> dict[str, int]:
    used: dict[str, int] = {}
    for pod in pods:
        node = (pod.get("spec") or {}).get("nodeName")
        if node and (pod.get("status") or {}).get("phase") not in FINISHED:
            used[node] = used.get(node, 0) + requested(pod, resource)
    return used


def pool(pool: GPUPool, objects: Objects) -> Pool:
    """The pool's room. With `capacity.maxGPUs` nodes may still come; without it there is what the nodes allocate."""
    spec, resource = pool.spec, pool.spec.gpu.resource_name
    nodes = pool_nodes(pool, objects)
    waiting = of_waiting_groups(objects)
    pods = [pod for key, pod in objects.pods.items() if key not in waiting]
    used = _held(pods, resource)
    free = tuple(max(0, allocatable(n, resource) - used.get(n["metadata"]["name"], 0)) for n in nodes)
    present = sum(allocatable(n, resource) for n in nodes)
    most = spec.capacity.max_gpus
    ours = [pod for pod in pods if of_pool(pod, pool)]
    by_namespace = {
        namespace: sum(_held((pod for pod in ours if pod["metadata"].get("namespace") == namespace), resource).values())
        for namespace in sorted({pod["metadata"].get("namespace", "") for pod in ours})
    }
    foreign = _held((pod for pod in pods if not is_ours(pod)), resource)
    return Pool(
        name=pool.metadata.name,
        free_gpus_by_node=free,
        growable_gpus=max(0, most - present) if most is not None else 0,
        gpus_per_node=spec.gpu.per_node,
        provisioning_timeout_seconds=spec.capacity.provisioning_timeout_seconds,
        max_gpus=most,
        used_gpus=sum(by_namespace.values()),
        used_by_namespace=by_namespace,
        max_gpus_per_namespace=spec.max_gpus_per_namespace,
        foreign_gpus=sum(foreign.get(node["metadata"]["name"], 0) for node in nodes),
        usd_per_gpu_hour=float(spec.price.usd_per_gpu_hour),
        reserved_gpus=reserved(pool, present),
    )


def unclaimed(pool: GPUPool, objects: Objects) -> int:
    """Reserved GPUs that no stranger holds: Spillway's to use or to leave idle. Nodes that take no replicas are paid,
    too, and so are reserved ones that are not there. Strangers are taken to be on what is beyond the reservation."""
    resource = pool.spec.gpu.resource_name
    nodes = _nodes_of(pool, objects)
    strangers = _held((pod for pod in objects.pods.values() if not is_ours(pod)), resource)
    present = sum(allocatable(node, resource) for node in nodes)
    held = sum(strangers.get(node["metadata"]["name"], 0) for node in nodes)
    paid = reserved(pool, present)
    return max(0, min(paid, max(paid, present) - held))


def reserved(pool: GPUPool, present: int) -> int:
    """GPUs of the pool that are paid whether used or not; `present`: those of its nodes."""
    price = pool.spec.price
    if price.billing != "Reserved":
        return 0
    return present if price.reserved_gpus is None else price.reserved_gpus
