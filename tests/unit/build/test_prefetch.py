"""What brings image and weights to nodes, and in which order the nodes come."""

from __future__ import annotations

from typing import Any

import kubernetes_validate
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spillway.build import DEPLOYMENT_LABEL, VARIANT_LABEL, Object, next_nodes, nodes_of, prefetch
from spillway.build.prefetch import FETCHES_AT_ONCE
from tests.golden.matrix import CASES, PREFETCH, Case

CACHED = next(case for case in CASES if case.also == "prefetch")
NODES = ("n1", "n2")


def daemonset(case: Case = CACHED, nodes: tuple[str, ...] = NODES, *, weights: bool = True) -> Object:
    return prefetch(case.deployment(), case.variant(), case.gpu_pool(), nodes, weights=weights)


def changed(**spec: Any) -> Case:
    return Case("glm-5", "NVFP4", "b200-cache", spec={"model__cache": PREFETCH, **spec})


def containers(obj: Object, kind: str = "containers") -> list[Object]:
    found: list[Object] = obj["spec"]["template"]["spec"].get(kind, [])
    return found


@pytest.mark.parametrize("case", [c for c in CASES if c.also.startswith("prefetch")], ids=lambda c: c.name)
def test_it_is_valid_and_no_replica(case: Case) -> None:
    obj = daemonset(case)
    kubernetes_validate.validate(obj, "1.34", strict=True)
    assert len(obj["metadata"]["name"]) <= 63
    assert obj["spec"]["updateStrategy"] == {"type": "OnDelete"}
    labels = obj["spec"]["template"]["metadata"]["labels"]
    assert not {DEPLOYMENT_LABEL, VARIANT_LABEL} & labels.keys(), "no budget, policy or gateway may take it for one"
    assert "nvidia.com/gpu" not in str(containers(obj))
    engine = case.objects()[-1]["spec"]["template"]["spec"]
    assert containers(obj)[0]["image"] == engine["containers"][0]["image"]
    assert (engine["nodeSelector"], engine["tolerations"]) == tuple(
        obj["spec"]["template"]["spec"][key] for key in ("nodeSelector", "tolerations")
    )
    (wish,) = engine["affinity"]["podAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"]
    selected = wish["podAffinityTerm"]["labelSelector"]["matchLabels"]
    assert selected.items() <= labels.items()


def test_what_it_fetches_lies_where_the_engine_looks() -> None:
    (fetch,) = containers(daemonset(), "initContainers")
    assert fetch["command"] == ["hf", "download", "nvidia/GLM-5-NVFP4"]
    engine = CACHED.objects()[-1]["spec"]["template"]["spec"]
    mounts = {m["mountPath"]: m["name"] for m in engine["containers"][0]["volumeMounts"]}
    volumes = {v["name"]: v for v in engine["volumes"]}
    (mount,) = fetch["volumeMounts"]
    (volume,) = daemonset()["spec"]["template"]["spec"]["volumes"]
    assert volumes[mounts[mount["mountPath"]]] == volume
    assert {"name": "HF_HOME", "value": mount["mountPath"]} in fetch["env"]


def test_the_token_and_the_revision_go_along() -> None:
    own = changed(
        model__sources={"NVFP4": {"uri": "hf://me/glm@v2"}}, model__tokenSecretRef={"name": "hf", "key": "token"}
    )
    (fetch,) = containers(daemonset(own), "initContainers")
    assert fetch["command"] == ["hf", "download", "me/glm", "--revision", "v2"]
    assert {"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": {"name": "hf", "key": "token"}}} in fetch["env"]


@pytest.mark.parametrize("uri", ["s3://bucket/x", "pvc://weights/x", "oci://r.example/x:1"])
def test_what_is_not_fetched_into_the_cache_leaves_the_image(uri: str) -> None:
    obj = daemonset(changed(model__sources={"NVFP4": {"uri": uri}}))
    assert containers(obj, "initContainers") == []
    assert containers(obj)[0]["command"] == ["sleep", "infinity"]
    assert containers(daemonset(weights=False), "initContainers") == []


def test_other_content_is_another_daemonset_and_other_nodes_are_not() -> None:
    names = {
        daemonset(case)["metadata"]["name"]
        for case in (CACHED, changed(engine__version="0.33.1"), changed(model__sources={"NVFP4": {"uri": "hf://a/b"}}))
    }
    assert len(names) == 3
    wider = daemonset(nodes=("n1", "n2", "n3"))
    assert wider["metadata"] == daemonset()["metadata"]
    assert (nodes_of(wider), nodes_of(daemonset())) == (("n1", "n2", "n3"), NODES)


@given(st.lists(st.integers(0, 30), unique=True), st.data())
def test_few_nodes_fetch_at_once_and_all_get_it_in_the_end(numbers: list[int], data: st.DataObject) -> None:
    nodes = [f"n{number}" for number in numbers]
    started: tuple[str, ...] = ()
    ready: set[str] = set()
    for _ in range(len(nodes) + 1):
        before, started = started, next_nodes(nodes, started, ready)
        assert set(before) <= set(started) <= set(nodes)
        fetching = set(started) - ready
        assert len(fetching) <= FETCHES_AT_ONCE
        if fetching:
            ready |= {data.draw(st.sampled_from(sorted(fetching)))}
    assert ready == set(nodes)


def test_nodes_that_cannot_fetch_keep_nobody_waiting() -> None:
    nodes = [f"n{n}" for n in range(6)]
    first = nodes[:FETCHES_AT_ONCE]
    assert next_nodes(nodes, first, ()) == tuple(first)
    assert next_nodes(nodes, first, (), stuck=first) == tuple(nodes)


def test_nodes_that_are_gone_are_forgotten() -> None:
    assert next_nodes(["n2", "n3"], ("n1", "n2"), {"n1", "n2"}) == ("n2", "n3")
