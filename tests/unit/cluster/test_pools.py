from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from e2e.cluster.kubeapi import Obj
from e2e.cluster.pools import fits, is_unschedulable, node_object, nodes_wanted
from e2e.cluster.settings import DEFAULT_POOLS

B200, H200 = DEFAULT_POOLS


def pod(gpus: int = 4, **spec: Any) -> Obj:
    tolerations = [{"key": "nvidia.com/gpu", "operator": "Exists"}]
    container = {"name": "c", "resources": {"requests": {"nvidia.com/gpu": str(gpus)}}}
    return {"metadata": {}, "spec": {"containers": [container], "tolerations": tolerations, **spec}}


def affinity(operator: str, *values: str) -> Obj:
    expression = {"key": "nvidia.com/gpu.product", "operator": operator, "values": list(values)}
    terms = {"nodeSelectorTerms": [{"matchExpressions": [expression]}]}
    return {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": terms}}


@pytest.mark.parametrize(
    ("candidate", "fitting"),
    [
        (pod(), True),
        (pod(gpus=9), False),
        (pod(gpus=0), False),
        (pod(tolerations=[]), False),
        (pod(nodeSelector={"nvidia.com/gpu.product": "NVIDIA-B200"}), True),
        (pod(nodeSelector={"nvidia.com/gpu.product": "NVIDIA-H200"}), False),
        (pod(affinity=affinity("In", "NVIDIA-B200", "NVIDIA-B300")), True),
        (pod(affinity=affinity("NotIn", "NVIDIA-B200")), False),
        (pod(affinity=affinity("DoesNotExist")), False),
    ],
)
def test_fits_looks_at_gpus_selector_affinity_and_taint(candidate: Obj, fitting: bool) -> None:
    assert fits(candidate, B200) is fitting


@given(st.lists(st.integers(1, 8), max_size=20), st.lists(st.integers(0, 8), max_size=6))
def test_wanted_nodes_suffice_and_are_not_wasted(pending: list[int], free: list[int]) -> None:
    wanted = nodes_wanted(pending, free, 8)
    assert 8 * wanted + sum(free) >= sum(pending)
    assert wanted <= len(pending)
    assert nodes_wanted(pending, [*free, *[8] * wanted], 8) == 0


def test_node_carries_what_gpu_feature_discovery_would_say() -> None:
    node = node_object("n", B200)
    assert node["metadata"]["labels"]["nvidia.com/gpu.compute.major"] == "10"
    assert node["status"]["allocatable"]["nvidia.com/gpu"] == "8"
    assert "nvidia.com/gpu" not in node_object("cpu", None)["status"]["allocatable"]


def test_only_pods_the_scheduler_gave_up_on_are_unschedulable() -> None:
    unschedulable = {"conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}]}
    assert is_unschedulable({**pod(), "status": unschedulable})
    assert not is_unschedulable({**pod(nodeName="n"), "status": unschedulable})
    assert not is_unschedulable({**pod(), "status": {}})
