"""Replicas across nodes: LeaderWorkerSets, their pods' roles, and what each engine is told on each node."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import kubernetes_validate
import pytest

from e2e.cluster.environment import expand
from e2e.simulators.engine import sglang_flags, vllm_flags
from e2e.simulators.engine.settings import Settings, Surroundings
from spillway.api import EngineName, MoEDeployment
from spillway.build import BuildSettings, Object, revision, workload
from spillway.catalog import Parallelism, ResolvedVariant
from tests.unit.build.test_objects import container, first, moe, pool

TENSOR = Parallelism("Tensor", 16, nodes=2)
TENSOR_EXPERT = Parallelism("TensorExpert", 16, nodes=2)
DATA_EXPERT = Parallelism("DataExpert", 1, 16, nodes=2)
WIDE = Parallelism("DataExpert", 1, 32, nodes=4)


def owner(engine: EngineName = "vLLM", **changes: Any) -> MoEDeployment:
    return moe(model__name="deepseek-r1", engine__name=engine, **changes)


def variant(parallelism: Parallelism, engine: EngineName = "vLLM", **changes: Any) -> ResolvedVariant:
    return replace(first(owner(engine), pool("H200")), parallelism=parallelism, **changes)


def group(parallelism: Parallelism, engine: EngineName = "vLLM", **changes: Any) -> Object:
    return workload(owner(engine), variant(parallelism, engine, **changes), pool("H200"), 2, BuildSettings())


def part(obj: Object, template: str) -> Object:
    """A template of the group, shaped so that `container` and `flag` read it."""
    return {"spec": {"template": obj["spec"]["leaderWorkerTemplate"][f"{template}Template"]}}


def started(obj: Object, index: int) -> list[str]:
    """The arguments that the engine gets on the replica's pod of that index, after kubelet and shell."""
    whole = obj["kind"] == "Deployment"
    engine = container(obj if whole else part(obj, "worker" if index else "leader"))
    variables = {"LWS_LEADER_ADDRESS": "leader.chat", "LWS_WORKER_INDEX": str(index), "LWS_GROUP_SIZE": "9"}
    args = [expand(arg, variables) for arg in engine["args"]]
    if engine["command"][0] != "sh":
        return args
    start, script, name = engine["command"][1:]
    before, expression = script.split(' "$@" ')
    assert (start, before, name) == ("-c", "exec vllm serve", "vllm")
    flag, _, product = expression.partition(" ")
    ranks = product.removeprefix('"$((LWS_WORKER_INDEX * ').removesuffix('))"')
    return [*args, flag, str(index * int(ranks))]


def understood(obj: Object, index: int, engine: EngineName, gpus: int = 8) -> Settings:
    around = Surroundings.from_environment({"SIM_GPUS": str(gpus), "SIM_GPU_PRODUCT": "NVIDIA-H200"})
    read = vllm_flags.read if engine == "vLLM" else sglang_flags.read
    return read(started(obj, index), around)


def value(args: list[str], flag: str) -> str:
    return args[args.index(flag) + 1]


def test_a_replica_across_nodes_is_a_group_with_a_pod_on_each() -> None:
    obj = group(TENSOR_EXPERT)
    assert (obj["apiVersion"], obj["kind"]) == ("leaderworkerset.x-k8s.io/v1", "LeaderWorkerSet")
    assert obj["spec"]["replicas"] == 2
    template = obj["spec"]["leaderWorkerTemplate"]
    assert (template["size"], template["restartPolicy"]) == (2, "RecreateGroupOnPodRestart")
    for role in ("leader", "worker"):
        assert container(part(obj, role))["resources"]["limits"] == {"nvidia.com/gpu": "8"}, "of 16, on two nodes"
        labels = template[f"{role}Template"]["metadata"]["labels"]
        assert labels == obj["metadata"]["labels"] and labels["spillway.dev/revision"]
    assert (
        workload(owner(), variant(Parallelism("Tensor", 8)), pool("H200"), 1, BuildSettings())["kind"] == "Deployment"
    )


def test_only_the_leader_answers() -> None:
    obj = group(TENSOR_EXPERT)
    leader, worker = (container(part(obj, role)) for role in ("leader", "worker"))
    for answering in ("ports", "startupProbe", "readinessProbe", "livenessProbe", "lifecycle"):
        assert answering in leader and answering not in worker


@pytest.mark.parametrize("parallelism", [TENSOR, TENSOR_EXPERT, DATA_EXPERT, WIDE], ids=str)
@pytest.mark.parametrize("engine", ["vLLM", "SGLang"])
def test_engines_take_the_arguments_on_each_node(parallelism: Parallelism, engine: EngineName) -> None:
    obj = group(parallelism, engine)
    for index in range(parallelism.nodes):
        settings = understood(obj, index, engine)
        assert settings.gpus == 8
        assert settings.headless == (index > 0)
    running, wanted = understood(obj, 0, engine).max_running, variant(parallelism, engine).concurrency
    assert wanted <= running < wanted + parallelism.data, "vLLM counts by data rank"


def test_vllm_tensor_ranks_meet_at_the_leader() -> None:
    for index in range(2):
        args = started(group(TENSOR_EXPERT), index)
        assert value(args, "--tensor-parallel-size") == "16"
        assert value(args, "--nnodes") == "2" and value(args, "--node-rank") == str(index)
        assert value(args, "--master-addr") == "leader.chat"
        assert "--enable-expert-parallel" in args
        assert ("--headless" in args) == (index == 1)
    assert "--enable-expert-parallel" not in started(group(TENSOR), 0)


def test_vllm_data_ranks_of_all_nodes_are_served_by_the_leader() -> None:
    for index in range(4):
        args = started(group(WIDE), index)
        assert value(args, "--data-parallel-size") == "32" and value(args, "--data-parallel-size-local") == "8"
        assert value(args, "--data-parallel-address") == "leader.chat"
        assert value(args, "--tensor-parallel-size") == "1"
        assert "--nnodes" not in args
        if index:
            assert value(args, "--data-parallel-start-rank") == str(8 * index) and "--headless" in args
        else:
            assert not {"--data-parallel-start-rank", "--headless"} & set(args), "a start rank means hybrid balancing"
            assert value(args, "--api-server-count") == "1", "so that the limit of waiting requests is one"


def test_vllm_is_told_its_address_in_a_group() -> None:
    for role in ("leader", "worker"):
        env = {entry["name"]: entry for entry in container(part(group(TENSOR), role))["env"]}
        assert env["VLLM_HOST_IP"]["valueFrom"] == {"fieldRef": {"fieldPath": "status.podIP"}}


def test_sglang_says_the_same_on_every_node() -> None:
    obj = group(DATA_EXPERT, "SGLang")
    leader, worker = (container(part(obj, role)) for role in ("leader", "worker"))
    assert (leader["command"], leader["args"]) == (worker["command"], worker["args"])
    args = started(obj, 1)
    assert value(args, "--dist-init-addr") == "leader.chat:20000"
    assert value(args, "--nnodes") == "2" and value(args, "--node-rank") == "1"
    assert value(args, "--tp-size") == value(args, "--ep-size") == value(args, "--attn-dp-size") == "16"
    assert "--enable-metrics-for-all-schedulers" in args


def test_sglang_before_it_had_attention_data_parallelism() -> None:
    args = started(group(DATA_EXPERT, "SGLang", engine_version="0.5.22"), 0)
    assert value(args, "--dp-size") == "16" and "--enable-dp-attention" in args and "--attn-dp-size" not in args


@pytest.mark.parametrize("engine", ["vLLM", "SGLang"])
def test_redundant_experts_are_balanced(engine: EngineName) -> None:
    obj = group(DATA_EXPERT, engine, redundant_experts=32)
    assert "--enable-eplb" in started(obj, 0) and "--enable-eplb" not in started(group(DATA_EXPERT, engine), 0)
    assert "32" in "".join(started(obj, 0)[started(obj, 0).index("--enable-eplb") :][:3])
    understood(obj, 0, engine)


def test_the_pods_of_a_group_keep_together_and_groups_apart_are_free() -> None:
    for role in ("leader", "worker"):
        template = part(group(TENSOR), role)["spec"]["template"]
        (near,) = template["spec"]["affinity"]["podAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"]
        term = near["podAffinityTerm"]
        assert term["matchLabelKeys"] == ["leaderworkerset.sigs.k8s.io/group-key"]
        # A key in both is refused when the pod is created.
        assert term["labelSelector"] == {"matchLabels": {"spillway.dev/deployment": owner().metadata.name}}
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": template["spec"]}
        kubernetes_validate.validate(pod, "1.34", strict=True)


def test_the_revision_is_of_both_templates() -> None:
    target, settings = pool("H200"), BuildSettings()
    before = revision(owner(), variant(TENSOR), target, settings)
    assert group(TENSOR)["metadata"]["labels"]["spillway.dev/revision"] == before
    assert revision(owner(), variant(TENSOR_EXPERT), target, settings) != before
    slower = replace(settings, probe_period_seconds=20)
    assert revision(owner(), variant(TENSOR), target, slower) != before, "probes are the leader's alone"


def test_names_leave_room_for_what_statefulsets_append() -> None:
    long = moe("m" * 40, model__name="deepseek-r1")
    obj = workload(long, variant(TENSOR), pool("H200"), 1, BuildSettings())
    assert len(f"{obj['metadata']['name']}-100-0123456789") <= 63
