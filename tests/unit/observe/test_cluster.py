"""Pods as replicas, workloads as what is asked for."""

from __future__ import annotations

from datetime import datetime

import pytest

from spillway.api import GPUPool, MoEDeployment, parse
from spillway.decide.snapshot import Asked, Phase, Retired
from spillway.observe import cluster
from spillway.observe.load import PodLoad, RankLoad
from tests.unit.api.examples import example
from tests.unit.observe.cluster_objects import (
    ASKED,
    OURS,
    READY,
    SCHEDULED,
    VARIANT,
    Object,
    group,
    objects,
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
        {"chat/ready": PodLoad({"0": RankLoad(5, 2, 0.5)}), "chat/foreign": PodLoad({"0": RankLoad(9, 9, 0.9)})},
    )
    assert [r.name for r in found] == ["ready", "starting", "waiting"]
    ready, starting, waiting = found
    assert (ready.variant, ready.revision, ready.in_flight) == (VARIANT, "abc", 7)
    assert (ready.asked_at, ready.scheduled_at, ready.ready_at) == (at(ASKED), at(SCHEDULED), at(READY))
    assert (starting.scheduled_at, starting.ready_at, starting.in_flight) == (at(SCHEDULED), None, None)
    assert (waiting.scheduled_at, waiting.ready_at) == (None, None)
    assert (ready.waiting, ready.kv_use, ready.saturated) == (2, 0.5, True)
    assert (starting.waiting, starting.kv_use, starting.saturated) == (None, None, False)


@pytest.mark.parametrize(
    ("waiting", "kv_use", "saturated"), [(0, 0.8, False), (1, 0.1, True), (0, 0.81, True), (0, 0.0, False)]
)
def test_a_replica_is_saturated_when_requests_wait_or_its_cache_is_nearly_full(
    waiting: int, kv_use: float, saturated: bool
) -> None:
    load = {"chat/a": PodLoad({"0": RankLoad(5, waiting, kv_use)})}
    (found,) = cluster.replicas(moe(), objects(pod("a", ready=True)), load)
    assert found.saturated is saturated


def test_the_pods_of_a_group_are_one_load() -> None:
    group = {cluster.SET_NAME_LABEL: "s", cluster.GROUP_INDEX_LABEL: "0"}
    worker = OURS | group | {cluster.WORKER_INDEX_LABEL: "1"}
    load = {"chat/leader": PodLoad({"0": RankLoad(5, 0, 0.4)}), "chat/worker": PodLoad({"1": RankLoad(4, 1, 0.9)})}
    load |= {"search/worker": PodLoad({"2": RankLoad(9, 9, 0.9)})}
    found = cluster.replicas(
        moe(),
        objects(
            pod("leader", ready=True, labels=OURS | group),
            pod("worker", ready=True, labels=worker),
            pod("worker", ready=True, labels=worker, namespace="search"),
        ),
        load,
    )
    assert [(r.name, r.in_flight, r.waiting, r.kv_use) for r in found] == [("leader", 10, 1, 0.9)]


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        ([pod("r1-0", ready=True), pod("r1-0-1", ready=True)], Phase.READY),
        ([pod("r1-0", ready=True), pod("r1-0-1")], Phase.STARTING),
        ([pod("r1-0"), pod("r1-0-1", ready=True)], Phase.STARTING),
        ([pod("r1-0"), pod("r1-0-1", node=None)], Phase.PENDING),
        ([pod("r1-0", node=None), pod("r1-0-1")], Phase.PENDING),
        # Its workers are created after it.
        ([pod("r1-0")], Phase.PENDING),
        # One that ends takes all with it.
        ([pod("r1-0", ready=True), pod("r1-0-1", ready=True, deleted=True)], Phase.STOPPING),
        ([pod("r1-0", ready=True, deleted=True), pod("r1-0-1", node=None)], Phase.STOPPING),
        ([pod("r1-0", ready=True), pod("r1-0-1", phase="Failed")], Phase.STOPPING),
    ],
)
def test_a_group_is_as_far_as_its_last_pod(members: list[Object], expected: Phase) -> None:
    (found,) = cluster.replicas(moe(), objects(*group(0, *members)), {"chat/r1-0": PodLoad({"0": RankLoad(2, 1, 0.5)})})
    assert (found.name, found.group, found.phase, found.in_flight) == ("r1-0", 0, expected, 3)
    assert (found.ready_at is not None) == (expected is Phase.READY)


def test_groups_are_told_apart_and_have_the_times_of_their_last_pod() -> None:
    late = pod("r1-1-1", ready=True)
    late["status"]["conditions"][0]["lastTransitionTime"] = READY
    groups = [
        *group(0, pod("r1-0", ready=True), pod("r1-0-1", node=None)),
        *group(1, pod("r1-1", ready=True), late),
    ]
    found = cluster.replicas(moe(), objects(*groups, pod("single")), {})
    assert [(r.name, r.group, r.phase) for r in found] == [
        ("r1-0", 0, Phase.PENDING),
        ("r1-1", 1, Phase.READY),
        ("single", None, Phase.STARTING),
    ]
    assert [r.scheduled_at for r in found] == [None, at(READY), at(SCHEDULED)]


def test_a_worker_whose_leader_is_gone_is_no_replica() -> None:
    assert cluster.replicas(moe(), objects(*group(0, pod("r1-0"), pod("r1-0-1"))[1:]), {}) == ()


@pytest.mark.parametrize(
    ("condition", "found"),
    [
        ({"status": "True", "observedGeneration": 3}, [0]),
        ({"status": "True", "observedGeneration": 2}, []),  # of what was asked before
        ({"status": "False", "observedGeneration": 3}, []),
    ],
)
def test_a_group_that_nobody_may_create_waits_since_it_is_being_tried(condition: Object, found: list[int]) -> None:
    asks = workload(replicas=2, kind="LeaderWorkerSet")
    asks["metadata"] |= {"name": "r1", "generation": 3}
    asks["status"] = {"conditions": [{"type": "Progressing", "lastTransitionTime": SCHEDULED} | condition]}
    other = workload(deployment="glm-4", kind="LeaderWorkerSet")
    there = group(1, pod("r1-1", ready=True), pod("r1-1-1", ready=True))
    missing = [r for r in cluster.replicas(moe(), objects(asks, other, *there), {}) if r.name != "r1-1"]
    assert [(r.name, r.group, r.phase, r.asked_at) for r in missing] == [
        (f"r1-{index}", index, Phase.PENDING, at(SCHEDULED)) for index in found
    ]


def test_groups_are_asked_for_by_a_leader_worker_set() -> None:
    asks = objects(workload(replicas=2, kind="LeaderWorkerSet"), workload(variant="h200-fp8-vllm"))
    assert cluster.asked(moe(), asks) == (Asked(VARIANT, "abc", 2), Asked("h200-fp8-vllm", "abc", 1))


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


@pytest.mark.parametrize(
    ("waiting", "restarts", "expected"),
    [
        (
            {"reason": "CrashLoopBackOff", "message": "back-off 20s"},
            2,
            "p: CrashLoopBackOff after exit code 2 (back-off",
        ),
        ({"reason": "CrashLoopBackOff", "message": "back-off 10s"}, 1, ""),
        (
            {"reason": "ImagePullBackOff", "message": "no such tag"},
            0,
            "p: ImagePullBackOff after exit code 2 (no such tag)",
        ),
        ({"reason": "InvalidImageName"}, 0, "p: InvalidImageName"),
        ({"reason": "ContainerCreating"}, 0, ""),
        ({}, 9, ""),
    ],
)
@pytest.mark.parametrize("statuses", ["containerStatuses", "initContainerStatuses"])
def test_a_pod_whose_container_cannot_run_has_failed(
    statuses: str, waiting: Object, restarts: int, expected: str
) -> None:
    one = pod("p")
    last = {"terminated": {"exitCode": 2}}
    one["status"][statuses] = [{"state": {"waiting": waiting}, "restartCount": restarts, "lastState": last}]
    assert cluster.failure(one).startswith(expected) and bool(cluster.failure(one)) == bool(expected)
    (replica,) = cluster.replicas(moe(), objects(one), {})
    assert replica.failure == cluster.failure(one)


def test_variants_that_the_spec_no_longer_has_are_what_their_pods_ask_for() -> None:
    template = {"spec": pod("x", node=None, gpus=4)["spec"]}
    current, single, gone = workload(), workload(variant="old-fp8", replicas=0), workload(variant="elsewhere")
    single["spec"]["template"] = template
    gone["spec"]["template"] = {"spec": {**template["spec"], "nodeSelector": {"nvidia.com/gpu.product": "NVIDIA-H100"}}}
    across = workload(variant="wide-fp8", kind="LeaderWorkerSet")
    across["spec"]["leaderWorkerTemplate"] = {"size": 2, "workerTemplate": template}
    found = cluster.retired(moe(), {VARIANT}, objects(current, single, gone, across), {"b200": b200()})
    assert found == (
        Retired("elsewhere", "", 0, 0.0),
        Retired("old-fp8", "b200", 4, 16.8),
        Retired("wide-fp8", "b200", 8, 33.6),
    )


def b200() -> GPUPool:
    parsed = parse(
        GPUPool,
        example("GPUPool", "b200")
        | {
            "spec": {
                "nodeSelector": {"nvidia.com/gpu.product": "NVIDIA-B200"},
                "gpu": {"product": "B200", "perNode": 8},
                "price": {"perGPUHour": "4.20"},
            }
        },
    )
    assert isinstance(parsed, GPUPool)
    return parsed
