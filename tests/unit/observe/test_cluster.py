"""Pods and nodes as replicas and pools."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest

from spillway.api import GPUPool, MoEDeployment, parse
from spillway.decide.snapshot import Asked, Phase
from spillway.observe import Objects, cluster
from tests.unit.api.examples import example
from tests.unit.observe.cluster_objects import (
    ASKED,
    OURS,
    READY,
    SCHEDULED,
    VARIANT,
    Object,
    node,
    pod,
    workload,
)


def at(stamp: str) -> float:
    return datetime.fromisoformat(stamp.replace("Z", "+00:00")).timestamp()


def moe() -> MoEDeployment:
    obj = example("MoEDeployment", "glm-5")
    obj["metadata"]["namespace"] = "chat"
    parsed = parse(MoEDeployment, obj)
    assert isinstance(parsed, MoEDeployment)
    return parsed


def pool(**changes: Any) -> GPUPool:
    parsed = parse(GPUPool, example("GPUPool", "blackwell-b200", **changes))
    assert isinstance(parsed, GPUPool)
    return parsed


def objects(*items: Object) -> Objects:
    found = Objects()
    for item in items:
        meta = item["metadata"]
        store = {"Pod": found.pods, "Node": found.nodes, "Deployment": found.deployments}[item["kind"]]
        store[f"{meta['namespace']}/{meta['name']}" if "namespace" in meta else meta["name"]] = item
    return found


@pytest.mark.parametrize(
    ("obj", "expected"),
    [
        (pod("p", node=None), Phase.PENDING),
        (pod("p"), Phase.STARTING),
        (pod("p", ready=True), Phase.READY),
        (pod("p", ready=True, deleted=True), Phase.STOPPING),
        (pod("p", node=None, deleted=True), Phase.STOPPING),
        (pod("p", phase="Failed"), Phase.STOPPING),
        (pod("p", phase="Succeeded"), Phase.STOPPING),
        ({"metadata": {"name": "p"}}, Phase.PENDING),
    ],
)
def test_phase(obj: Object, expected: Phase) -> None:
    assert cluster.phase(obj) is expected


def test_replicas_are_the_deployments_own_pods_with_their_times() -> None:
    found = cluster.replicas(
        moe(),
        objects(
            pod("ready", ready=True, annotations={cluster.DELETION_COST: "-1000"}),
            pod("starting"),
            pod("waiting", node=None),
            pod("other-namespace", namespace="search"),
            pod("other-deployment", labels=OURS | {"spillway.dev/deployment": "glm-4"}),
            pod("no-variant", labels={"spillway.dev/deployment": "glm-5"}),
            pod("foreign", labels={}),
        ),
        {"chat/ready": 7},
    )
    assert [r.name for r in found] == ["ready", "starting", "waiting"]
    ready, starting, waiting = found
    assert (ready.variant, ready.revision, ready.in_flight) == (VARIANT, "abc", 7)
    assert (ready.asked_at, ready.scheduled_at, ready.ready_at) == (at(ASKED), at(SCHEDULED), at(READY))
    assert (starting.scheduled_at, starting.ready_at, starting.in_flight) == (at(SCHEDULED), None, None)
    assert (waiting.scheduled_at, waiting.ready_at) == (None, None)


def test_asked_is_what_the_own_workloads_say() -> None:
    gone = workload(revision="old")
    gone["metadata"]["deletionTimestamp"] = READY
    found = cluster.asked(
        moe(),
        objects(
            workload(replicas=2),
            workload(variant="h200-fp8-vllm", replicas=1, refused="exceeded quota"),
            workload(deployment="glm-4"),
            workload(namespace="search"),
            gone,
        ),
    )
    assert found == (Asked(VARIANT, "abc", 2), Asked("h200-fp8-vllm", "abc", 1, "exceeded quota"))


def test_foreign_pods_take_the_room_of_replicas() -> None:
    found = cluster.pool(
        pool(),
        objects(
            node("n1"),
            node("n2"),
            pod("ours", node="n1", gpus=4),
            pod("foreign", node="n1", gpus=1, labels={}, namespace="kube-system"),
            pod("foreign-with-two-containers", node="n2", gpus=3, containers=2, labels={}),
            pod("ended", node="n2", gpus=2, phase="Succeeded", labels={}),
        ),
    )
    assert found.free_gpus_by_node == (3, 2)
    assert found.used_gpus == 4
    assert found.growable_gpus == 0
    assert [found.free_slots(n) for n in (1, 2, 3, 4)] == [5, 2, 1, 0]


def test_a_pod_that_ends_still_holds_its_gpus() -> None:
    found = cluster.pool(pool(), objects(node("n1"), pod("ours", deleted=True, gpus=8)))
    assert found.free_gpus_by_node == (0,)


def test_nodes_that_cannot_take_pods_are_no_room() -> None:
    found = cluster.pool(
        pool(),
        objects(node("lost", ready=False), node("cordoned", cordoned=True), node("other", labels={"a": "b"})),
    )
    assert found.free_gpus_by_node == ()
    assert found.free_slots(1) == 0


@pytest.mark.parametrize(
    ("most", "growable", "slots"),
    [(None, 0, 1), (0, 0, 0), (4, 0, 0), (8, 0, 1), (12, 4, 1), (16, 8, 3), (32, 24, 7)],
)
def test_a_pool_with_a_maximum_may_still_grow(most: int | None, growable: int, slots: int) -> None:
    changes = {} if most is None else {"capacity__maxGPUs": most}
    found = cluster.pool(pool(**changes), objects(node("n1"), pod("ours", gpus=4)))
    assert (found.growable_gpus, found.max_gpus, found.used_gpus) == (growable, most, 4)
    assert found.free_slots(4) == slots


def test_pods_of_ours_in_another_pool_do_not_count() -> None:
    other = pod("ours-elsewhere", node="h1")
    other["spec"]["nodeSelector"] = {"nvidia.com/gpu.product": "NVIDIA-H200"}
    found = cluster.pool(pool(), objects(node("n1"), other))
    assert found.used_gpus == 0


@pytest.mark.parametrize(("quantity", "expected"), [(None, 0), ("8", 8), (8, 8), ("1k", 1000)])
def test_quantities_of_gpus_are_whole(quantity: str | int | None, expected: int) -> None:
    assert cluster.whole(quantity) == expected
