"""Pods as replicas, workloads as what is asked for."""

from __future__ import annotations

from datetime import datetime

import pytest

from spillway.api import MoEDeployment, parse
from spillway.decide.snapshot import Asked, Phase
from spillway.observe import cluster
from tests.unit.api.examples import example
from tests.unit.observe.cluster_objects import (
    ASKED,
    OURS,
    READY,
    SCHEDULED,
    VARIANT,
    Object,
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
