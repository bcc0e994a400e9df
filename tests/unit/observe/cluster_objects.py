"""Pods and nodes as the API server gives them, as plain data."""

from __future__ import annotations

from typing import Any

from spillway.observe import Objects

Object = dict[str, Any]

ASKED, SCHEDULED, READY = "2026-11-23T12:00:00Z", "2026-11-23T12:00:10Z", "2026-11-23T12:05:00Z"
B200 = {"nvidia.com/gpu.product": "NVIDIA-B200"}
VARIANT = "blackwell-b200-nvfp4-vllm"
OURS = {
    "spillway.dev/deployment": "glm-5",
    "spillway.dev/variant": VARIANT,
    "spillway.dev/revision": "abc",
}


def node(
    name: str, gpus: int = 8, ready: bool = True, cordoned: bool = False, labels: dict[str, str] | None = None
) -> Object:
    return {
        "kind": "Node",
        "metadata": {"name": name, "labels": B200 if labels is None else labels},
        "spec": {"unschedulable": True} if cordoned else {},
        "status": {
            "allocatable": {"nvidia.com/gpu": str(gpus), "cpu": "64"},
            "conditions": [{"type": "Ready", "status": "True" if ready else "Unknown"}],
        },
    }


def pod(
    name: str,
    node: str | None = "n1",
    gpus: int = 4,
    ready: bool = False,
    phase: str = "Running",
    deleted: bool = False,
    labels: dict[str, str] | None = None,
    namespace: str = "chat",
    annotations: dict[str, str] | None = None,
    containers: int = 1,
) -> Object:
    conditions: list[Object] = [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}]
    if node:
        conditions = [{"type": "PodScheduled", "status": "True", "lastTransitionTime": SCHEDULED}]
    state = {"status": "True", "lastTransitionTime": READY} if ready else {"status": "False"}
    conditions.append({"type": "Ready"} | state)
    meta: Object = {
        "name": name,
        "namespace": namespace,
        "uid": f"uid-{name}",
        "creationTimestamp": ASKED,
        "labels": OURS if labels is None else labels,
    }
    if deleted:
        meta["deletionTimestamp"] = READY
    if annotations:
        meta["annotations"] = annotations
    spec: Object = {
        "nodeSelector": dict(B200),
        "containers": [{"resources": {"requests": {"nvidia.com/gpu": str(gpus)}}}] * containers,
    }
    if node:
        spec["nodeName"] = node
    return {
        "kind": "Pod",
        "metadata": meta,
        "spec": spec,
        "status": {"phase": phase if node else "Pending", "podIP": "10.0.0.1", "conditions": conditions},
    }


def workload(
    variant: str = VARIANT,
    revision: str = "abc",
    replicas: int = 1,
    refused: str = "",
    deployment: str = "glm-5",
    namespace: str = "chat",
    kind: str = "Deployment",
) -> Object:
    conditions = [{"type": "ReplicaFailure", "status": "True", "message": refused}] if refused else []
    return {
        "kind": kind,
        "metadata": {
            "name": f"{deployment}-{variant}-{revision}",
            "namespace": namespace,
            "labels": {
                "spillway.dev/deployment": deployment,
                "spillway.dev/variant": variant,
                "spillway.dev/revision": revision,
            },
        },
        "spec": {"replicas": replicas},
        "status": {"conditions": conditions},
    }


def group(index: int, *members: Object, size: int = 2) -> list[Object]:
    """Pods as one group of a LeaderWorkerSet, the leader first."""
    for worker, member in enumerate(members):
        lws = "leaderworkerset.sigs.k8s.io"
        places = {f"{lws}/name": "r1", f"{lws}/group-index": str(index), f"{lws}/worker-index": str(worker)}
        member["metadata"]["labels"] = member["metadata"]["labels"] | places
        member["metadata"]["annotations"] = {f"{lws}/size": str(size)}
    return list(members)


def objects(*items: Object) -> Objects:
    found = Objects()
    for item in items:
        meta = item["metadata"]
        store = {
            "Pod": found.pods,
            "Node": found.nodes,
            "Deployment": found.deployments,
            "LeaderWorkerSet": found.leaderworkersets,
        }[item["kind"]]
        store[f"{meta['namespace']}/{meta['name']}" if "namespace" in meta else meta["name"]] = item
    return found
