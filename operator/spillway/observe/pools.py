"""Nodes as pools: what they allocate, who holds it, what is free."""

from __future__ import annotations

from collections.abc import Iterable

from kubernetes.utils.quantity import parse_quantity

from spillway.api import GPUPool
from spillway.decide.snapshot import Pool
from spillway.observe.cluster import FINISHED, is_ours, of_waiting_groups
from spillway.observe.objects import Object, Objects, condition, has_labels


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
    return _held(objects.pods.values(), resource)


def _held(pods: Iterable[Object], resource: str) -> dict[str, int]:
    used: dict[str, int] = {}
    for pod in pods:
        node = (pod.get("spec") or {}).get("nodeName")
        if node and (pod.get("status") or {}).get("phase") not in FINISHED:
            used[node] = used.get(node, 0) + requested(pod, resource)
    return used


def of_pool(pod: Object, pool: GPUPool) -> bool:
    """Whether a replica was asked for in that pool: builders copy the pool's selector into the pod."""
    selector = (pod.get("spec") or {}).get("nodeSelector") or {}
    return is_ours(pod) and all(selector.get(k) == v for k, v in pool.spec.node_selector.items())


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
    ours = sum(_held((pod for pod in pods if of_pool(pod, pool)), resource).values())
    return Pool(
        name=pool.metadata.name,
        free_gpus_by_node=free,
        growable_gpus=max(0, most - present) if most is not None else 0,
        gpus_per_node=spec.gpu.per_node,
        provisioning_timeout_seconds=spec.capacity.provisioning_timeout_seconds,
        max_gpus=most,
        used_gpus=ours,
    )
