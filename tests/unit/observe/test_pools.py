"""Nodes as pools: what is free, and for whom."""

from __future__ import annotations

from typing import Any

import pytest

from spillway.api import GPUPool, parse
from spillway.observe import cluster, pools
from tests.unit.api.examples import example
from tests.unit.observe.cluster_objects import group, node, objects, pod


def pool(**changes: Any) -> GPUPool:
    parsed = parse(GPUPool, example("GPUPool", "blackwell-b200", **changes))
    assert isinstance(parsed, GPUPool)
    return parsed


def test_foreign_pods_take_the_room_of_replicas() -> None:
    found = pools.pool(
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
    found = pools.pool(pool(), objects(node("n1"), pod("ours", deleted=True, gpus=8)))
    assert found.free_gpus_by_node == (0,)


def test_what_a_part_of_a_group_holds_is_room_for_the_whole_of_it() -> None:
    nodes = [node("n1"), node("n2")]
    waits = group(0, pod("r1-0", gpus=8), pod("r1-0-1", gpus=8, node=None))
    found = pools.pool(pool(capacity__maxGPUs=16), objects(*nodes, *waits))
    assert (found.free_slots(16, 2), found.used_gpus) == (1, 0)
    placed = group(0, pod("r1-0", gpus=8), pod("r1-0-1", gpus=8, node="n2"))
    found = pools.pool(pool(capacity__maxGPUs=16), objects(*nodes, *placed))
    assert (found.free_slots(16, 2), found.used_gpus) == (0, 16)
    other = group(0, pod("r1-0", gpus=8, namespace="search"), pod("r1-0-1", gpus=8, node="n2", namespace="search"))
    assert pools.pool(pool(), objects(*nodes, *waits, *other)).free_slots(16, 2) == 0


@pytest.mark.parametrize(
    ("price", "unclaimed"),
    [
        ({"price__billing": "Reserved"}, 16 + 8 - 3),  # all that the nodes have, the cordoned one included
        ({"price__billing": "Reserved", "price__reservedGPUs": 4}, 4),  # strangers have room beyond
        ({"price__billing": "Reserved", "price__reservedGPUs": 22}, 21),
        ({"price__billing": "Reserved", "price__reservedGPUs": 32}, 29),  # paid although the nodes are not there
        ({}, 0),
    ],
)
def test_reserved_gpus_are_ours_unless_strangers_hold_them(price: dict[str, Any], unclaimed: int) -> None:
    seen = objects(
        node("n1"),
        node("n2"),
        node("cordoned", cordoned=True),
        node("other", labels={"a": "b"}),
        pod("ours", node="n1", gpus=4),
        pod("foreign", node="n2", gpus=3, labels={}, namespace="kube-system"),
        pod("ended", node="n2", gpus=2, phase="Succeeded", labels={}),
        pod("elsewhere", node="other", gpus=8, labels={}),
    )
    assert pools.unclaimed(pool(**price), seen) == unclaimed


def test_nodes_that_cannot_take_pods_are_no_room() -> None:
    found = pools.pool(
        pool(),
        objects(node("lost", ready=False), node("cordoned", cordoned=True), node("other", labels={"a": "b"})),
    )
    assert found.free_gpus_by_node == ()
    assert found.free_slots(1) == 0


def test_nodes_that_take_no_replicas_are_told_with_why() -> None:
    tainted = node("tainted")
    tainted["spec"]["taints"] = [{"key": "team", "value": "search", "effect": "NoSchedule"}]
    seen = objects(node("lost", ready=False), node("cordoned", cordoned=True), tainted, node("well"))
    assert pools.nodes_left_out(pool(), seen) == [
        "cordoned (cordoned)",
        "lost (not ready)",
        "tainted (taint team:NoSchedule is not tolerated)",
    ]


@pytest.mark.parametrize(
    ("taint", "free"),
    [
        ({"key": "nvidia.com/gpu", "effect": "NoSchedule", "value": "present"}, (8,)),
        ({"key": "nvidia.com/gpu", "effect": "NoExecute"}, ()),
        ({"key": "cloud.google.com/impending-node-termination", "effect": "NoSchedule"}, ()),
        ({"key": "team", "value": "search", "effect": "PreferNoSchedule"}, (8,)),
        ({"key": "team", "value": "search", "effect": "NoSchedule"}, ()),
        ({"key": "team", "value": "chat", "effect": "NoSchedule"}, (8,)),
    ],
    ids=["tolerated", "another effect", "taken away soon", "only preferred", "another value", "this value"],
)
def test_a_node_with_a_taint_that_is_not_tolerated_is_no_room(taint: dict[str, str], free: tuple[int, ...]) -> None:
    tolerations = [
        {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"},
        {"key": "team", "operator": "Equal", "value": "chat"},
    ]
    tainted = node("n1")
    tainted["spec"]["taints"] = [taint]
    assert pools.pool(pool(tolerations=tolerations), objects(tainted)).free_gpus_by_node == free


@pytest.mark.parametrize(
    ("price", "expected"),
    [({}, 0), ({"billing": "Spot"}, 0), ({"billing": "Reserved"}, 16), ({"billing": "Reserved", "reservedGPUs": 4}, 4)],
)
def test_reserved_gpus(price: dict[str, Any], expected: int) -> None:
    found = pools.pool(
        pool(**{f"price__{key}": value for key, value in price.items()}), objects(node("n1"), node("n2"))
    )
    assert (found.reserved_gpus, found.usd_per_gpu_hour) == (expected, 4.2)


def test_who_holds_what() -> None:
    found = pools.pool(
        pool(maxGPUsPerNamespace=8),
        objects(
            node("n1"),
            node("n2"),
            pod("a", gpus=4),
            pod("b", node="n2", gpus=2, namespace="search"),
            pod("c", node="n2", gpus=1, namespace="search"),
            pod("foreign", node="n2", gpus=3, labels={}),
        ),
    )
    assert found.used_by_namespace == {"chat": 4, "search": 3}
    assert (found.used_gpus, found.foreign_gpus) == (7, 3)
    assert [found.namespace_gpus(n) for n in ("chat", "search", "new")] == [4, 5, 8]


@pytest.mark.parametrize(
    ("most", "growable", "slots"),
    [(None, 0, 1), (0, 0, 0), (4, 0, 0), (8, 0, 1), (12, 4, 1), (16, 8, 3), (32, 24, 7)],
)
def test_a_pool_with_a_maximum_may_still_grow(most: int | None, growable: int, slots: int) -> None:
    changes = {} if most is None else {"capacity__maxGPUs": most}
    found = pools.pool(pool(**changes), objects(node("n1"), pod("ours", gpus=4)))
    assert (found.growable_gpus, found.max_gpus, found.used_gpus) == (growable, most, 4)
    assert found.free_slots(4) == slots


def test_pods_of_ours_in_another_pool_do_not_count() -> None:
    other = pod("ours-elsewhere", node="h1")
    other["spec"]["nodeSelector"] = {"nvidia.com/gpu.product": "NVIDIA-H200"}
    found = pools.pool(pool(), objects(node("n1"), other))
    assert found.used_gpus == 0


@pytest.mark.parametrize(("quantity", "expected"), [(None, 0), ("8", 8), (8, 8), ("1k", 1000)])
def test_quantities_of_gpus_are_whole(quantity: str | int | None, expected: int) -> None:
    assert cluster.whole(quantity) == expected
