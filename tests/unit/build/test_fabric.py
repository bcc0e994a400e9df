"""What joins the nodes of a replica: devices, capabilities, environment, place, and the engines' way to experts on
other nodes."""

from __future__ import annotations

from typing import Any

import pytest

from spillway.api import EngineName, GPUPool, Precision
from spillway.build import BuildSettings, Object, compute_domain, workload
from spillway.catalog import Parallelism
from tests.unit.build.test_groups import DATA_EXPERT, TENSOR_EXPERT, owner, part, started, value, variant
from tests.unit.build.test_objects import container, pool

GROUPS = {"multiNode": "LeaderWorkerSet"}
TCP = pool("H200", topology=GROUPS)
RDMA = pool("H200", topology=GROUPS, gpu__rdmaResource="rdma/ib")
EFA = pool("H200", topology=GROUPS, gpu__rdmaResource="vpc.amazonaws.com/efa")
RACK = pool("H200", topology={**GROUPS, "computeDomain": True}, gpu__rdmaResource="rdma/ib")


def group(target: GPUPool, parallelism: Parallelism, engine: EngineName = "vLLM", **changes: Any) -> Object:
    return workload(owner(engine), variant(parallelism, engine, **changes), target, 1, BuildSettings())


def environment(obj: Object, role: str = "worker") -> dict[str, str]:
    return {entry["name"]: entry.get("value", "") for entry in container(part(obj, role))["env"]}


@pytest.mark.parametrize("role", ["leader", "worker"])
@pytest.mark.parametrize(
    ("target", "devices", "capability"),
    [
        (TCP, {}, None),
        (RDMA, {"rdma/ib": "8"}, ["IPC_LOCK"]),
        (EFA, {"vpc.amazonaws.com/efa": "8"}, ["IPC_LOCK"]),
        (RACK, {}, None),
    ],
    ids=["tcp", "rdma", "efa", "rack"],
)
def test_a_pod_holds_a_network_card_for_each_of_its_gpus(
    role: str, target: GPUPool, devices: dict[str, str], capability: list[str] | None
) -> None:
    engine = container(part(group(target, TENSOR_EXPERT), role))
    gpus = {"nvidia.com/gpu": "8"}
    assert engine["resources"]["limits"] == {**gpus, **devices}
    assert engine["resources"]["requests"].items() >= {**gpus, **devices}.items()
    assert engine["securityContext"]["capabilities"].get("add") == capability


def test_a_replica_on_one_node_asks_for_no_network() -> None:
    obj = workload(owner(), variant(Parallelism("DataExpert", 1, 8)), RACK, 1, BuildSettings())
    engine = container(obj)
    assert engine["resources"]["limits"] == {"nvidia.com/gpu": "8"}
    assert not any(entry["name"].startswith(("NCCL", "GLOO", "NVSHMEM", "FI_")) for entry in engine["env"])
    assert not {"resourceClaims", "affinity"} & obj["spec"]["template"]["spec"].keys()
    assert "--all2all-backend" not in engine["args"]


def test_ranks_meet_over_the_pod_network() -> None:
    for target in (TCP, RDMA, EFA, RACK):
        env = environment(group(target, TENSOR_EXPERT))
        assert env["NCCL_SOCKET_IFNAME"] == env["GLOO_SOCKET_IFNAME"] == "eth0"


def test_nvshmem_is_for_deepep_alone() -> None:
    assert environment(group(RDMA, DATA_EXPERT))["NVSHMEM_REMOTE_TRANSPORT"] == "ibgda"
    for target, parallelism in ((RDMA, TENSOR_EXPERT), (EFA, DATA_EXPERT), (TCP, DATA_EXPERT), (RACK, DATA_EXPERT)):
        assert "NVSHMEM_REMOTE_TRANSPORT" not in environment(group(target, parallelism))
    assert environment(group(EFA, TENSOR_EXPERT))["FI_PROVIDER"] == "efa"


@pytest.mark.parametrize(
    ("target", "backend", "before"),
    [
        (RDMA, "deepep_low_latency", "deepep_low_latency"),
        (RACK, "flashinfer_nvlink_two_sided", "flashinfer_all2allv"),
        (EFA, None, None),
        (TCP, None, None),
    ],
    ids=["rdma", "rack", "efa", "tcp"],
)
def test_vllm_exchanges_tokens_by_flag_or_before_0_33_by_variable(
    target: GPUPool, backend: str | None, before: str | None
) -> None:
    for index, role in enumerate(("leader", "worker")):
        new, old = group(target, DATA_EXPERT), group(target, DATA_EXPERT, engine_version="0.32.0")
        args = started(new, index)
        assert (value(args, "--all2all-backend") if "--all2all-backend" in args else None) == backend
        assert "VLLM_ALL2ALL_BACKEND" not in environment(new, role)
        assert "--all2all-backend" not in started(old, index)
        assert environment(old, role).get("VLLM_ALL2ALL_BACKEND") == before


@pytest.mark.parametrize(
    ("precision", "runner"), [("FP8", "deep_gemm"), ("NVFP4", "flashinfer_cutedsl"), ("BF16", "auto")]
)
def test_sglang_exchanges_tokens_by_deepep_with_kernels_that_take_them(precision: Precision, runner: str) -> None:
    catalog = ("--moe-runner-backend", "flashinfer_trtllm")
    args = started(group(RDMA, DATA_EXPERT, "SGLang", precision=precision, args=catalog), 0)
    assert value(args, "--moe-a2a-backend") == "deepep"
    last = len(args) - 1 - args[::-1].index("--moe-runner-backend")
    assert args[last + 1] == runner, "the last one counts: the catalog's is for one node"
    assert "--moe-a2a-backend" not in started(group(TCP, DATA_EXPERT, "SGLang"), 0)
    assert "--moe-a2a-backend" not in started(group(RDMA, TENSOR_EXPERT, "SGLang"), 0)


@pytest.mark.parametrize(
    ("engine", "own"), [("vLLM", "--all2all-backend=naive"), ("SGLang", "--moe-a2a-backend=mooncake")]
)
def test_the_owners_way_to_experts_stands(engine: EngineName, own: str) -> None:
    flag = own.partition("=")[0]
    args = started(group(RDMA, DATA_EXPERT, engine, args=(own,)), 0)
    assert [arg for arg in args if arg.startswith(flag)] == [own]


def test_the_owners_arguments_come_last() -> None:
    moe = owner("SGLang", engine__extraArgs=["--moe-runner-backend=triton"])
    resolved = variant(DATA_EXPERT, "SGLang", args=("--reasoning-parser", "x", "--moe-runner-backend=triton"))
    obj = workload(moe, resolved, RDMA, 1, BuildSettings())
    assert started(obj, 0)[-1] == "--moe-runner-backend=triton"


def test_a_rack_gives_nvlink_across_nodes() -> None:
    obj = group(RACK, DATA_EXPERT)
    domain = compute_domain(owner(), variant(DATA_EXPERT).name)
    (template,) = {domain["spec"]["channel"]["resourceClaimTemplate"]["name"]}
    for role in ("leader", "worker"):
        pod = part(obj, role)["spec"]["template"]["spec"]
        (claim,) = pod["resourceClaims"]
        assert claim["resourceClaimTemplateName"] == template
        assert pod["containers"][0]["resources"]["claims"] == [{"name": claim["name"]}]
        assert {"key": "kubernetes.io/arch", "operator": "Equal", "value": "arm64", "effect": "NoSchedule"} in pod[
            "tolerations"
        ]
        (near,) = pod["affinity"]["podAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
        assert near["topologyKey"] == "nvidia.com/gpu.clique"
    env = environment(obj)
    assert env["NCCL_MNNVL_ENABLE"] == env["VLLM_USE_NCCL_SYMM_MEM"] == "1"
    assert "VLLM_USE_NCCL_SYMM_MEM" not in environment(group(RACK, DATA_EXPERT, "SGLang"))


def test_a_compute_domain_outlives_revisions() -> None:
    before = compute_domain(owner(), variant(DATA_EXPERT).name)
    assert compute_domain(owner(engine__version="0.34.0"), variant(DATA_EXPERT).name) == before
    assert before["spec"]["numNodes"] == 0, "pods do not wait for a number of nodes"


def test_without_a_rack_zones_are_a_wish() -> None:
    pod = part(group(RDMA, TENSOR_EXPERT), "worker")["spec"]["template"]["spec"]
    (wish,) = pod["affinity"]["podAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"]
    assert wish["podAffinityTerm"]["topologyKey"] == "topology.kubernetes.io/zone"


def test_the_pools_priority_class() -> None:
    obj = workload(
        owner(), variant(Parallelism("TensorExpert", 8)), pool("H200", priorityClassName="gold"), 1, BuildSettings()
    )
    assert obj["spec"]["template"]["spec"]["priorityClassName"] == "gold"
    plain = workload(owner(), variant(Parallelism("TensorExpert", 8)), pool("H200"), 1, BuildSettings())
    assert "priorityClassName" not in plain["spec"]["template"]["spec"]


def test_shared_memory_grows_with_data_ranks() -> None:
    for engine in ("vLLM", "SGLang"):
        sizes = []
        for parallelism in (TENSOR_EXPERT, DATA_EXPERT):
            pod = part(group(RDMA, parallelism, engine), "leader")["spec"]["template"]["spec"]
            sizes.append(int(pod["volumes"][0]["emptyDir"]["sizeLimit"].removesuffix("Gi")))
        assert sizes[0] < sizes[1]
