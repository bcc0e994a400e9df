"""HorizontalPodAutoscalers that target a MoEDeployment, among all that a cluster has."""

from __future__ import annotations

from typing import Any

import pytest

from spillway.api import MoEDeployment
from spillway.controller.informer import listed
from spillway.observe import Objects
from spillway.observe.autoscalers import Autoscaler, autoscalers, targets_moedeployment
from spillway.observe.objects import key_of
from spillway.observe.resolve import valid
from tests.unit.api.examples import example

Object = dict[str, Any]


def hpa(name: str, target: str = "glm-5", namespace: str = "chat", **meta: Any) -> Object:
    reference = {"apiVersion": "spillway.dev/v1alpha1", "kind": "MoEDeployment", "name": target}
    return {
        "metadata": {"name": name, "namespace": namespace, **meta},
        "spec": {"scaleTargetRef": reference, "minReplicas": 2, "maxReplicas": 9},
    }


def moe() -> MoEDeployment:
    obj = example("MoEDeployment", "glm-5")
    obj["metadata"]["namespace"] = "chat"
    [found] = valid(MoEDeployment, {"chat/glm-5": obj}).values()
    return found


@pytest.mark.parametrize(
    ("api_version", "kind", "ours"),
    [
        ("spillway.dev/v1alpha1", "MoEDeployment", True),
        ("spillway.dev/v2", "MoEDeployment", True),
        ("apps/v1", "Deployment", False),
        ("example.com/v1", "MoEDeployment", False),
        (None, "MoEDeployment", False),
    ],
)
def test_only_those_of_our_group_and_kind(api_version: str | None, kind: str, ours: bool) -> None:
    one = hpa("a")
    one["spec"]["scaleTargetRef"] = {"kind": kind, "name": "glm-5"} | (
        {"apiVersion": api_version} if api_version else {}
    )
    assert targets_moedeployment(one) is ours


def test_those_of_the_deployment_with_what_made_them() -> None:
    keda = [{"kind": "ScaledObject", "name": "queue", "controller": True}]
    objects = Objects()
    for one in (
        hpa("web"),
        hpa("keda-hpa-queue", ownerReferences=keda),
        hpa("other", target="glm-6"),
        hpa("web", namespace="search"),
        hpa("leaving", deletionTimestamp="2026-11-23T12:00:00Z"),
    ):
        objects.horizontalpodautoscalers[key_of(one)] = one
    assert autoscalers(moe(), objects) == (
        Autoscaler("keda-hpa-queue", 2, 9, "ScaledObject/queue"),
        Autoscaler("web", 2, 9),
    )


async def test_those_of_others_are_not_cached() -> None:
    foreign = hpa("web")
    foreign["spec"]["scaleTargetRef"] = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "glm-5"}

    async def get(where: str, params: dict[str, str]) -> Object:
        assert (where, params) == ("/apis/autoscaling/v2/horizontalpodautoscalers", {})
        items = [foreign, hpa("glm-5")]
        return {"kind": "HorizontalPodAutoscalerList", "apiVersion": "autoscaling/v2", "items": items}

    objects = Objects()
    await listed(objects, get, [("autoscaling", "v2", "horizontalpodautoscalers")])
    assert list(objects.horizontalpodautoscalers) == ["chat/glm-5"]
