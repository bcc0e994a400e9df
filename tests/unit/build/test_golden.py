"""The golden manifests: enough of them, valid in their core parts, and their command lines taken by the engines.

That they are what the code builds is `make verify`'s to say."""

from __future__ import annotations

from dataclasses import replace

import kubernetes_validate
import pytest

from e2e.simulators.engine import sglang_flags, vllm_flags
from e2e.simulators.engine.settings import Settings, Surroundings
from spillway.build import Object
from tests.golden.matrix import CASES, CATALOG, Case
from tests.unit.build.test_groups import started

IDS = [case.name for case in CASES]


def workload_of(case: Case) -> Object:
    """The Deployment or LeaderWorkerSet; it comes last."""
    return case.objects()[-1]


def templates(obj: Object) -> list[Object]:
    """Pod templates by the pod's index in its replica, one for each kind of pod."""
    if obj["kind"] == "Deployment":
        return [obj["spec"]["template"]]
    group = obj["spec"]["leaderWorkerTemplate"]
    return [group["leaderTemplate"], group["workerTemplate"]]


def test_the_matrix_is_wide() -> None:
    assert len(set(IDS)) == len(CASES) >= 40
    found = [case.variant() for case in CASES]
    assert {v.engine for v in found} == {"vLLM", "SGLang"}
    assert {v.precision for v in found} == {"NVFP4", "FP8", "BF16"}
    assert {case.deployment().spec.model.name for case in CASES} == set(CATALOG.models)
    assert {case.gpu_pool().spec.gpu.product for case in CASES} == set(CATALOG.gpus)
    spread = {(v.engine, v.parallelism.strategy, v.parallelism.nodes > 1) for v in found}
    strategies = ("Tensor", "TensorExpert", "DataExpert")
    assert spread == {(e, s, across) for e in ("vLLM", "SGLang") for s in strategies for across in (False, True)}


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_core_parts_are_valid(case: Case) -> None:
    obj = workload_of(case)
    if obj["kind"] == "Deployment":
        kubernetes_validate.validate(obj, "1.34", strict=True)
    for template in templates(obj):
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x", **template["metadata"]}}
        kubernetes_validate.validate({**pod, "spec": template["spec"]}, "1.34", strict=True)


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_engines_take_the_arguments_on_every_node(case: Case) -> None:
    obj, variant = workload_of(case), case.variant()
    gpu = CATALOG.gpus[case.gpu_pool().spec.gpu.product]
    spread = variant.parallelism
    around = Surroundings.from_environment({"SIM_GPUS": str(spread.gpus_per_node), "SIM_GPU_PRODUCT": gpu.products[0]})
    for index in range(spread.nodes):
        settings = parsed(obj, index, variant.engine, around)
        assert settings.gpus == spread.gpus_per_node
        assert settings.headless == (index > 0)
        assert settings.metrics
    leader = parsed(obj, 0, variant.engine, around)
    assert variant.concurrency <= leader.max_running < variant.concurrency + spread.data
    assert leader.max_queued_requests


def parsed(obj: Object, index: int, engine: str, around: Surroundings) -> Settings:
    """What the engine of that pod of a replica makes of its command line."""
    read = vllm_flags.read if engine == "vLLM" else sglang_flags.read
    return read(started(obj, index), around)


def test_the_engines_would_refuse_a_wrong_argument() -> None:
    case = replace(CASES[0], spec={"engine__extraArgs": ["--no-such-flag"]})
    with pytest.raises(SystemExit):
        parsed(workload_of(case), 0, "vLLM", Surroundings.from_environment({}))
