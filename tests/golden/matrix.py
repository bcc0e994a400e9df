"""The combinations: a MoEDeployment and the pool that it names, as their owners would write them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from spillway.api import GPUPool, InvalidSpec, MoEDeployment, parse
from spillway.build import BuildSettings, Object, compute_domain, prefetch, workload
from spillway.catalog import ResolvedVariant, load, variants
from tests.unit.api.examples import example

CATALOG = load()
SETTINGS = BuildSettings()
UID = "00000000-0000-4000-8000-000000000000"

Changes = dict[str, Any]


def _pool(product: str, label: str, usd: str, per_node: int = 8, **changes: Any) -> Changes:
    return {
        "nodeSelector": {"nvidia.com/gpu.product": label},
        "gpu__product": product,
        "gpu__perNode": per_node,
        "price__perGPUHour": usd,
        **changes,
    }


GROUPS = {"multiNode": "LeaderWorkerSet"}
RACK: Changes = {"gpu__interconnect": "NVL72", "topology": {**GROUPS, "computeDomain": True}}
RDMA: Changes = {"gpu__rdmaResource": "rdma/ib", "topology": GROUPS}
EFA: Changes = {"gpu__rdmaResource": "vpc.amazonaws.com/efa", "topology": GROUPS}
H100_LABEL = "NVIDIA-H100-80GB-HBM3"
POOLS: Mapping[str, Changes] = {
    "h100": _pool("H100", H100_LABEL, "2.95", **RDMA),
    "h100-tcp": _pool("H100", H100_LABEL, "2.95", topology=GROUPS),
    "h100-efa": _pool("H100", H100_LABEL, "6.88", **EFA),
    "h200": _pool("H200", "NVIDIA-H200", "3.50", **RDMA),
    "b200": _pool("B200", "NVIDIA-B200", "5.50", **RDMA),
    "b200-cache": _pool("B200", "NVIDIA-B200", "5.50", nodeCache={"hostPath": "/mnt/nvme/spillway", "maxGB": 2000}),
    "b300": _pool("B300", "NVIDIA-B300-SXM6-AC", "17.80"),
    "gb200": _pool("GB200", "NVIDIA-GB200", "10.50", 4, **RACK),
    "gb300": _pool("GB300", "NVIDIA-GB300", "12.00", 4, **RACK),
    "rtx": _pool(
        "RTX-PRO-6000",
        "NVIDIA-RTX-PRO-6000-Blackwell-Server-Edition",
        "4.14",
        gpu__interconnect="PCIe",
        priorityClassName="batch-inference",
    ),
}
MODELS = {
    "glm-5": "glm-5",
    "glm-5.2": "glm-5.2",
    "qwen3.5": "qwen3.5-397b-a17b",
    "r1": "deepseek-r1",
    "v3.2": "deepseek-v3.2",
    "v4-pro": "deepseek-v4-pro",
    "v4-flash": "deepseek-v4-flash",
}


@dataclass(frozen=True)
class Case:
    """One combination. ``parallelism``: absent, the catalog's; ``spec``: what else the MoEDeployment says."""

    model: str
    precision: str
    pool: str
    engine: str = "vLLM"
    parallelism: tuple[str, int, int, int] | None = None
    redundant_experts: int = 0
    also: str = ""
    spec: Changes = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Of the file: short, and in the order of a review."""
        parts = [self.model, self.precision.lower(), self.pool, self.engine.lower()]
        if self.parallelism:
            strategy, tensor, data, nodes = self.parallelism
            parts.append(f"dp{data}" if strategy == "DataExpert" else f"tp{tensor}")
            parts += ["ep"] if strategy == "TensorExpert" else []
            parts += [f"{nodes}nodes"] if nodes > 1 else []
        return "-".join([*parts, *([self.also] if self.also else [])])

    def deployment(self) -> MoEDeployment:
        """The MoEDeployment."""
        wanted: Changes = {"pool": self.pool, "precision": self.precision}
        if self.parallelism:
            wanted["parallelism"] = dict(zip(("strategy", "tensor", "data", "nodes"), self.parallelism, strict=True))
        if self.redundant_experts:
            wanted["redundantExperts"] = self.redundant_experts
        changes = {"model__name": MODELS[self.model], "engine__name": self.engine, "placement__variants": [wanted]}
        obj = example("MoEDeployment", self.model.replace(".", "-"), **changes, **self.spec)
        obj["metadata"] |= {"namespace": "chat", "uid": UID}
        parsed = parse(MoEDeployment, obj)
        assert not isinstance(parsed, InvalidSpec), parsed.message
        return parsed

    def gpu_pool(self) -> GPUPool:
        """The pool."""
        parsed = parse(GPUPool, example("GPUPool", self.pool, **POOLS[self.pool]))
        assert not isinstance(parsed, InvalidSpec), parsed.message
        return parsed

    def variant(self) -> ResolvedVariant:
        """What the catalog makes of it. AssertionError with the catalog's words where it does not fit."""
        moe = self.deployment()
        model = CATALOG.model(moe)
        assert not isinstance(model, InvalidSpec), model.message
        found, misfits = variants(moe, model, [self.gpu_pool()], CATALOG)
        assert found, "; ".join(misfit.reason for misfit in misfits)
        return found[0]

    def objects(self) -> list[Object]:
        """What Spillway applies for one replica, beside what every MoEDeployment has."""
        moe, pool, variant = self.deployment(), self.gpu_pool(), self.variant()
        domains = [compute_domain(moe, variant.name)] if pool.spec.topology.compute_domain else []
        across = variant.parallelism.nodes > 1
        brought = [prefetch(moe, variant, pool, ["node-1", "node-2"])] if moe.spec.model.cache.prefetch else []
        return [*(domains if across else []), *brought, workload(moe, variant, pool, 1, SETTINGS)]


def data(ranks: int, nodes: int = 1) -> tuple[str, int, int, int]:
    """Data ranks of one GPU each, experts over all of them."""
    return ("DataExpert", 1, ranks, nodes)


def tensor(gpus: int, nodes: int = 1, *, experts: bool = True) -> tuple[str, int, int, int]:
    """Every layer over all GPUs, whole experts on each or not."""
    return ("TensorExpert" if experts else "Tensor", gpus, 1, nodes)


BOTH = ("vLLM", "SGLang")
PREFETCH = {"node": True, "prefetch": True}
CASES: tuple[Case, ...] = (
    # Each model as the catalog recommends it.
    *(Case("glm-5", "NVFP4", "b200", engine) for engine in BOTH),
    *(Case("glm-5", "FP8", "h200", engine) for engine in BOTH),
    *(Case("glm-5", "FP8", "h100", engine) for engine in BOTH),
    Case("glm-5", "NVFP4", "gb200"),
    Case("glm-5", "BF16", "h200"),
    *(Case("glm-5.2", "NVFP4", "b200", engine) for engine in BOTH),
    Case("glm-5.2", "FP8", "h200"),
    *(Case("qwen3.5", "NVFP4", "b200", engine) for engine in BOTH),
    *(Case("qwen3.5", "NVFP4", "rtx", engine) for engine in BOTH),
    *(Case("qwen3.5", "FP8", "h100", engine) for engine in BOTH),
    Case("qwen3.5", "NVFP4", "b300"),
    *(Case("qwen3.5", "NVFP4", "gb200", engine) for engine in BOTH),
    Case("qwen3.5", "BF16", "h200"),
    *(Case("r1", "NVFP4", "b200", engine) for engine in BOTH),
    *(Case("r1", "FP8", "h200", engine) for engine in BOTH),
    *(Case("r1", "FP8", "h100", engine) for engine in BOTH),
    Case("r1", "NVFP4", "gb300"),
    Case("r1", "FP8", "b300"),
    Case("r1", "NVFP4", "rtx"),
    *(Case("v3.2", "FP8", "h200", engine) for engine in BOTH),
    Case("v3.2", "NVFP4", "b200"),
    *(Case("v4-pro", "NVFP4", "b200", engine) for engine in BOTH),
    Case("v4-pro", "NVFP4", "gb300"),
    *(Case("v4-flash", "NVFP4", "b200", engine) for engine in BOTH),
    Case("v4-flash", "FP8", "h200"),
    # Strategies within a node.
    Case("r1", "FP8", "h200", "vLLM", tensor(8, experts=False)),
    Case("r1", "FP8", "h200", "SGLang", tensor(8, experts=False)),
    *(Case("r1", "FP8", "h200", engine, data(8)) for engine in BOTH),
    *(Case("r1", "FP8", "b200", engine, data(8), 8, also="eplb") for engine in BOTH),
    # Across nodes: RDMA, AWS's cards, neither, and NVLink.
    *(Case("r1", "FP8", "h100", engine, tensor(16, 2, experts=False)) for engine in BOTH),
    *(Case("r1", "FP8", "h200", engine, data(16, 2)) for engine in BOTH),
    *(Case("r1", "FP8", "h200", engine, data(32, 4), 32, also="eplb") for engine in BOTH),
    Case("r1", "FP8", "h100-tcp", "vLLM", tensor(16, 2)),
    *(Case("r1", "FP8", "h100-efa", engine, data(32, 4)) for engine in BOTH),
    *(Case("r1", "NVFP4", "gb200", engine, data(8, 2)) for engine in BOTH),
    Case("v4-pro", "NVFP4", "gb200", "vLLM", data(8, 2)),
    # Engines before a flag or a variable changed.
    Case("r1", "NVFP4", "b200", also="0.32", spec={"engine__version": "0.32.0"}),
    Case("r1", "FP8", "h200", "vLLM", data(16, 2), also="0.32", spec={"engine__version": "0.32.0"}),
    Case("r1", "FP8", "h200", "SGLang", data(8), also="0.5.22", spec={"engine__version": "0.5.22"}),
    # Brought to the nodes beforehand.
    *(
        Case("glm-5", "NVFP4", "b200-cache", engine, also="prefetch", spec={"model__cache": PREFETCH})
        for engine in BOTH
    ),
    Case(
        "r1",
        "NVFP4",
        "b200-cache",
        also="prefetch-oci",
        spec={
            "model__cache": PREFETCH,
            "model__sources": {"NVFP4": {"uri": "oci://registry.example.com/models/deepseek-r1:nvfp4"}},
        },
    ),
    # What owners add.
    Case(
        "r1",
        "FP8",
        "h200",
        also="own",
        spec={
            "engine__extraArgs": ["--max-num-batched-tokens=16384", "--all2all-backend=deepep_high_throughput"],
            "engine__env": [{"name": "NCCL_DEBUG", "value": "INFO"}],
            "engine__overrides": {"maxModelLen": 65536, "maxNumSeqs": 256},
            "model__tokenSecretRef": {"name": "hf-token", "key": "token"},
            "model__sources": {"FP8": {"uri": "pvc://weights/deepseek-r1"}},
        },
    ),
)
