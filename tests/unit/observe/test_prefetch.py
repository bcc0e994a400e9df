"""Which nodes have image and weights, and what does not fit into a cache."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from spillway.act.status import fetching
from spillway.api import Reason
from spillway.build import nodes_of
from spillway.build.labels import CONTENT_LABEL
from spillway.observe import Objects, Resolved
from spillway.observe.objects import key_of
from spillway.observe.prefetch import Prefetched, prefetched
from tests.unit.observe.cluster_objects import Object, node, objects, pod
from tests.unit.observe.test_resolve import moe, pools, tried

CACHE = {"node": True, "prefetch": True}


def asking(
    name: str = "glm-5", max_gb: int | None = 2000, created: str = "2026-11-26T12:00:00Z", **spec: Any
) -> Resolved:
    obj = moe(model__cache=CACHE, **spec)
    obj["metadata"] |= {"name": name, "creationTimestamp": created}
    cache = {"nodeCache": {"hostPath": "/mnt/nvme/spillway", "maxGB": max_gb}} if max_gb else {}
    found = tried(obj, pools(**cache))
    assert isinstance(found, Resolved)
    return found


def of(*resolved: Resolved, world: Objects | None = None) -> dict[str, Prefetched]:
    found = prefetched(resolved, world if world is not None else objects(node("n1"), node("n2")))
    return {key: one for key, (one, *_) in found.items()}


def holder(one: Prefetched, where: str, *, ready: bool) -> Object:
    assert one.daemonset is not None
    return pod(
        f"p-{where}", node=where, gpus=0, ready=ready, labels=one.daemonset["spec"]["template"]["metadata"]["labels"]
    )


def test_nobody_asks() -> None:
    found = tried(moe(model__cache={"node": True}))
    assert isinstance(found, Resolved)
    assert prefetched([found], objects(node("n1"))) == {}


def test_nodes_count_once_their_pod_is_ready() -> None:
    world = objects(node("n1"), node("n2"), node("n3", cordoned=True))
    (first,) = of(asking(), world=world).values()
    assert first.daemonset is not None
    assert (first.nodes, first.ready, nodes_of(first.daemonset)) == (("n1", "n2"), (), ("n1", "n2"))
    world.daemonsets[key_of(first.daemonset)] = first.daemonset
    stale = holder(first, "n2", ready=True)
    stale["metadata"] |= {"name": "stale", "labels": {**stale["metadata"]["labels"], CONTENT_LABEL: "older"}}
    for one in (holder(first, "n1", ready=True), holder(first, "n2", ready=False), stale):
        world.pods[key_of(one)] = one
    (second,) = of(asking(), world=world).values()
    assert second.ready == ("n1",)
    assert fetching([second]) == (
        False,
        Reason.FETCHING,
        "image and weights are coming: blackwell-b200-nvfp4-vllm on 1 of 2 nodes",
    )
    assert fetching([replace(second, ready=("n1", "n2"))])[:2] == (True, Reason.AS_EXPECTED)


def test_what_does_not_fit_beside_older_ones_is_not_fetched() -> None:
    younger = asking("b", 700, "2026-11-26T13:00:00Z", model__sources={"NVFP4": {"uri": "hf://me/other"}})
    older, same = asking("c", 700), asking("a", 700, "2026-11-26T14:00:00Z")
    found = of(younger, same, older)
    assert [found[f"chat/{name}"].refused == "" for name in "abc"] == [True, False, True], "one checkpoint counts once"
    refused = found["chat/b"]
    assert "hf://me/other (" in refused.refused
    assert "into nodeCache.maxGB 700 of GPUPool blackwell-b200: only the image comes" in refused.refused
    assert refused.daemonset is not None and "initContainers" not in str(refused.daemonset)
    assert fetching([refused])[:2] == (False, Reason.CACHE_TOO_SMALL)


def test_a_pool_without_a_cache_gets_the_image_alone() -> None:
    (found,) = of(asking(max_gb=None)).values()
    assert "has no spec.nodeCache: only the image comes" in found.refused


def test_a_pool_without_nodes_has_nothing_to_hold() -> None:
    (found,) = of(asking(), world=objects()).values()
    assert found.daemonset is None
