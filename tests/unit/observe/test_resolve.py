"""What a spec comes to, or why it cannot be served."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from spillway.api import GPUPool, Reason
from spillway.build import BuildSettings
from spillway.catalog import Parallelism, load
from spillway.observe import Objects, Problem, Resolved, resolve
from spillway.observe.resolve import runnable, valid
from tests.unit.api.examples import example

CATALOG = load()
Object = dict[str, Any]


def moe(**changes: Any) -> Object:
    obj = example("MoEDeployment", "glm-5", **changes)
    obj["metadata"] |= {"namespace": "chat", "uid": "uid-1", "generation": 2}
    return obj


def pools(**changes: Any) -> dict[str, GPUPool]:
    return valid(GPUPool, {"blackwell-b200": example("GPUPool", "blackwell-b200", **changes)})


def tried(obj: Object, offered: dict[str, GPUPool] | None = None, objects: Objects | None = None) -> Resolved | Problem:
    given = pools() if offered is None else offered
    return resolve(obj, given, objects or Objects(), CATALOG, BuildSettings())


def problem(obj: Object, offered: dict[str, GPUPool] | None = None, objects: Objects | None = None) -> Problem:
    found = tried(obj, offered, objects)
    assert isinstance(found, Problem)
    return found


@pytest.mark.parametrize(
    ("extensions", "domain", "words"),
    [
        (set(), False, "leaderworkersets.leaderworkerset.x-k8s.io"),
        ({"computedomains"}, True, "leaderworkersets.leaderworkerset.x-k8s.io"),
        ({"leaderworkersets"}, True, "computedomains.resource.nvidia.com"),
        ({"leaderworkersets"}, False, ""),
        ({"leaderworkersets", "computedomains"}, True, ""),
    ],
)
def test_replicas_across_nodes_need_kinds_that_not_every_cluster_has(
    extensions: set[str], domain: bool, words: str
) -> None:
    rack = pools(
        gpu__product="GB200", gpu__perNode=4, topology={"multiNode": "LeaderWorkerSet", "computeDomain": domain}
    )
    wanted = {"pool": "blackwell-b200", "precision": "NVFP4"}
    wanted["parallelism"] = {"strategy": "TensorExpert", "tensor": 8, "nodes": 2}  # type: ignore[assignment]
    found = tried(moe(placement__variants=[wanted]), rack, Objects(extensions=extensions))
    if words:
        assert isinstance(found, Problem)
        assert words in found.message and "TP8+EP on 2 nodes" in found.message
    else:
        assert isinstance(found, Resolved)


def test_three_lines_resolve_to_the_variants_that_fit() -> None:
    found = tried(moe())
    assert isinstance(found, Resolved)
    assert [v.name for v in found.variants] == ["blackwell-b200-nvfp4-vllm"]
    assert set(found.revisions) == {"blackwell-b200-nvfp4-vllm"}


@pytest.mark.parametrize(
    ("obj", "offered", "reason", "words"),
    [
        (moe(minReplicas=9, maxReplicas=2), None, Reason.INVALID_SPEC, ["minReplicas", "maxReplicas"]),
        (moe(engine__name="TGI"), None, Reason.INVALID_SPEC, ["spec.engine.name", "'TGI'"]),
        (moe(model__name="glm-99"), None, Reason.UNKNOWN_MODEL, ["glm-99"]),
        (moe(), {}, Reason.NO_POOL_FITS, ["glm-5", "no GPUPool"]),
        (moe(), pools(gpu__perNode=1), Reason.NO_POOL_FITS, ["blackwell-b200", "GB"]),
        (moe(), pools(allowedNamespaces=["search"]), Reason.NO_POOL_FITS, ["chat", "allowedNamespaces"]),
        (
            moe(placement__variants=[{"pool": "ghost", "precision": "FP8"}]),
            None,
            Reason.NO_POOL_FITS,
            ["no GPUPool 'ghost'", "blackwell-b200"],
        ),
    ],
)
def test_problems_name_field_value_and_way_out(
    obj: Object, offered: dict[str, GPUPool] | None, reason: str, words: list[str]
) -> None:
    found = problem(obj, offered)
    assert found.reason == reason
    assert found.metadata.generation == 2
    for word in words:
        assert word in found.message


def test_a_replica_on_several_nodes_needs_leader_worker_sets() -> None:
    found = tried(moe())
    assert isinstance(found, Resolved)
    (single,) = found.variants
    group = replace(single, pool="hopper-h100", parallelism=Parallelism("TensorExpert", 16, nodes=2))
    objects, offered = Objects(), {**pools(), "hopper-h100": pools()["blackwell-b200"]}
    possible, misfits = runnable((single, group), (), offered, objects)
    assert possible == (single,)
    assert [m.pool for m in misfits] == ["hopper-h100"]
    for word in ("TP16+EP on 2 nodes", "install LeaderWorkerSet", "topology.multiNode"):
        assert word in misfits[0].reason
    objects.extensions.add("leaderworkersets")
    assert runnable((single, group), misfits, offered, objects) == ((single, group), misfits)


def service(*owners: Object) -> Objects:
    objects = Objects()
    objects.services["chat/glm-5"] = {"metadata": {"name": "glm-5", "namespace": "chat", "ownerReferences": [*owners]}}
    return objects


@pytest.mark.parametrize("owners", [[], [{"uid": "somebody-else"}]])
def test_a_foreign_service_takes_the_name(owners: list[Object]) -> None:
    found = problem(moe(), None, service(*owners))
    assert found.reason == Reason.NAME_TAKEN
    assert "Service chat/glm-5" in found.message


def test_the_own_service_does_not() -> None:
    assert isinstance(tried(moe(), None, service({"uid": "uid-1"})), Resolved)


def test_objects_that_do_not_validate_are_left_out() -> None:
    good, bad = example("GPUPool", "good"), example("GPUPool", "bad")
    bad["spec"]["price"] = {"perGPUHour": "free"}
    assert set(valid(GPUPool, {"good": good, "bad": bad})) == {"good"}
