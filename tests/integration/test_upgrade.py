"""Objects stored under the CRDs of the first slice, after the CRDs of now took their place on a real API server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from e2e.cluster.processes import wait_until
from spillway.api import KINDS, InvalidSpec, MoEDeployment, dump, parse
from tests.integration.conftest import Kube
from tests.unit.api.examples import ONE_BUDGET, Object, example

HERE = Path(__file__).parent
BY_KIND = {kind.definition.kind: kind for kind in KINDS}

FULL: tuple[Object, ...] = (
    example(
        "MoEDeployment",
        "stored",
        model={
            "name": "glm-5",
            "servedName": "glm",
            "sources": {"NVFP4": {"uri": "hf://nvidia/GLM-5-NVFP4"}, "FP8": {"uri": "pvc://weights/glm-5-fp8"}},
            "tokenSecretRef": {"name": "hf"},
        },
        engine={"name": "SGLang", "version": "0.5.23", "extraArgs": ["--x"], "env": [{"name": "A", "value": "b"}]},
        placement={"variants": [{"pool": "b200", "precision": "NVFP4"}]},
        spill={"providers": [{"name": "zai", "model": "glm-5"}]},
        slo={"queueSeconds": 600},
        minReplicas=0,
        maxReplicas=0,
    ),
    example(
        "GPUPool",
        "stored",
        gpu={"product": "B200", "memoryGB": 180, "computeCapability": "10.0", "perNode": 8},
        price={"perGPUHour": "4.20", "minimumBilling": "1d"},
        capacity={"maxGPUs": 0},
        allowedNamespaces=[],
    ),
    example(
        "ExternalProvider", "stored", limits={"concurrent": 1}, allowedNamespaces=["chat"], tls={"serverName": "x"}
    ),
    example("CostPolicy", "stored", budgets=[{**ONE_BUDGET, "warnAt": [1]}], valuePerRequest="0.1", suspend=True),
)
OUTDATED = example("MoEDeployment", "outdated", model={"name": "glm-5", "sources": {"FP8": {"uri": "hf://zai/glm:5"}}})
STATUS = {"replicas": 2, "summary": "2/2", "conditions": []}


def run(kube: Kube, *arguments: str, input: Object | None = None) -> str:
    done = kube.kubectl(*arguments, input=None if input is None else json.dumps(input))
    assert done.returncode == 0, done.stderr
    return done.stdout


def stored(kube: Kube, kind: str, name: str = "stored") -> Any:
    return json.loads(run(kube, "get", BY_KIND[kind].definition.plural, name, "-o", "json"))


@pytest.fixture(scope="module")
def upgraded(kube: Kube) -> Iterator[Kube]:
    force = ("apply", "--server-side", "--force-conflicts")
    run(kube, *force, "-f", str(HERE / "previous" / "crds.yaml"))
    names = [f"crd/{kind.definition.crd_name}" for kind in KINDS]
    run(kube, "wait", "--for=condition=Established", "--timeout=60s", *names)
    wait_until("the previous CRDs", lambda: not _knows(kube, "balancing"), 60)
    for obj in (*FULL, OUTDATED):
        run(kube, "create", "--validate=ignore", "-f", "-", input=obj)
    run(kube, "patch", "moe", "stored", "--subresource=status", "--type=merge", "-p", json.dumps({"status": STATUS}))
    run(kube, *force, "-k", str(HERE.parents[1] / "crds"))
    wait_until("the new CRDs", lambda: _knows(kube, "balancing"), 60)
    yield kube
    for kind in KINDS:
        run(kube, "delete", kind.definition.plural, "--all", "--all-namespaces")


def _knows(kube: Kube, field: str) -> bool:
    """Whether the API server keeps a field that only the new CRD has."""
    probe = example("MoEDeployment", "probe", **{field: "LeastRequest"})
    answer = kube.kubectl(
        "create", "--validate=ignore", "--dry-run=server", "-o", "json", "-f", "-", input=json.dumps(probe)
    )
    return answer.returncode == 0 and field in json.loads(answer.stdout)["spec"]


@pytest.mark.parametrize("before", FULL, ids=lambda obj: obj["kind"])
def test_stored_objects_mean_what_they_meant(upgraded: Kube, before: Object) -> None:
    model = parse(BY_KIND[before["kind"]], stored(upgraded, before["kind"]))
    assert not isinstance(model, InvalidSpec), model.message
    assert dump(model)["spec"] == dump(parse(BY_KIND[before["kind"]], before))["spec"]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("kind", "patch"),
    [
        (
            "MoEDeployment",
            {"spec": {"maxReplicas": 4, "rollout": {"strategy": "Surge"}, "model": {"cache": {"node": True}}}},
        ),
        ("GPUPool", {"spec": {"capacity": {"maxGPUs": 8}, "topology": {"multiNode": "LeaderWorkerSet"}}}),
        ("ExternalProvider", {"spec": {"suspend": True, "limits": {"requestsPerMinute": 9}}}),
        ("CostPolicy", {"spec": {"suspend": False, "pacing": "Even"}}),
    ],
)
def test_stored_objects_take_old_and_new_fields(upgraded: Kube, kind: str, patch: Object) -> None:
    run(upgraded, "patch", BY_KIND[kind].definition.plural, "stored", "--type=merge", "-p", json.dumps(patch))
    after = stored(upgraded, kind)
    assert not isinstance(parse(BY_KIND[kind], after), InvalidSpec)
    assert _holds(after["spec"], patch["spec"])


def _holds(value: Any, asked: Any) -> bool:
    if isinstance(asked, dict):
        return all(_holds(value[name], part) for name, part in asked.items())
    return bool(value == asked)


def test_a_stored_status_stays(upgraded: Kube) -> None:
    model = parse(MoEDeployment, stored(upgraded, "MoEDeployment"))
    assert isinstance(model, MoEDeployment)
    assert (model.status.replicas, model.status.summary) == (2, "2/2")


def test_what_the_new_rules_refuse_is_told_and_can_still_be_changed(upgraded: Kube) -> None:
    outcome = parse(MoEDeployment, stored(upgraded, "MoEDeployment", "outdated"))
    assert isinstance(outcome, InvalidSpec) and "spec.model.sources.FP8.uri is 'hf://zai/glm:5'" in outcome.message
    run(upgraded, "annotate", "moe", "outdated", "a=b")
    run(upgraded, "patch", "moe", "outdated", "--type=merge", "-p", '{"spec": {"maxReplicas": 2}}')
    run(
        upgraded,
        "patch",
        "moe",
        "outdated",
        "--subresource=status",
        "--type=merge",
        "-p",
        '{"status": {"replicas": 1}}',
    )
