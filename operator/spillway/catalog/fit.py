"""Which pools and precisions a model fits on, and what a replica there looks like and costs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal

from spillway.api import EngineName, GPUPool, MoEDeployment, Precision
from spillway.catalog.facts import PRECISIONS, Catalog, GpuFacts, ModelFacts
from spillway.catalog.parallelism import Parallelism
from spillway.catalog.throughput import prior

WEIGHTS_OVERHEAD = 1.15
"""Activations, CUDA graphs and communication buffers, relative to the checkpoint."""
USABLE_MEMORY = 0.92
"""vLLM's default --gpu-memory-utilization."""
LOAD_BYTES_PER_SECOND = 2e9
"""Checkpoint load from network storage: between 1 and 10 GB/s in public reports."""
START_SECONDS = 180.0
"""Image pull, CUDA graphs and kernel warm-up on a node that is there."""
MINIMUM_COMPUTE_CAPABILITY: Mapping[Precision, tuple[int, int]] = {"NVFP4": (10, 0), "FP8": (8, 9), "BF16": (8, 0)}


@dataclass(frozen=True, slots=True)
class ResolvedVariant:
    """One way to run a model, with everything that is known about a replica of it.

    ``usd_per_hour`` is the price of one replica; the token rates and ``cold_start_seconds`` are priors.
    ``concurrency`` is the number of requests that one replica runs at once.
    """

    name: str
    pool: str
    precision: Precision
    engine: EngineName
    engine_version: str
    image: str
    checkpoint_uri: str
    parallelism: Parallelism
    redundant_experts: int
    usd_per_hour: Decimal
    minimum_billing_seconds: float
    prefill_tokens_per_second: float
    decode_tokens_per_second: float
    concurrency: int
    max_model_len: int | None
    cold_start_seconds: float
    args: tuple[str, ...]
    """The catalog's flags for this model, engine and precision, then the user's extraArgs."""

    @property
    def gpus_per_replica(self) -> int:
        """GPUs of the whole replica, on all of its nodes."""
        return self.parallelism.gpus

    def usd_per_request(self, prompt_tokens: float, completion_tokens: float) -> float:
        """GPU dollars of one request on a busy replica."""
        seconds = prompt_tokens / self.prefill_tokens_per_second + completion_tokens / self.decode_tokens_per_second
        return float(self.usd_per_hour) * seconds / 3600


@dataclass(frozen=True, slots=True)
class Misfit:
    """A pool (and precision) that cannot run the model, with the arithmetic in words."""

    pool: str
    precision: Precision | None
    reason: str


@dataclass(frozen=True, slots=True)
class PoolGpu:
    """The GPU of a pool: catalog facts under the pool's own memory and compute capability."""

    facts: GpuFacts
    memory_gb: float
    compute_capability: tuple[int, int]
    per_node: int

    def runs(self, precision: Precision) -> bool:
        """Whether the hardware computes in that precision."""
        return precision in self.facts.flops and self.compute_capability >= MINIMUM_COMPUTE_CAPABILITY[precision]

    @property
    def precisions(self) -> tuple[Precision, ...]:
        """Precisions that the hardware computes in."""
        return tuple(precision for precision in PRECISIONS if self.runs(precision))


def pool_gpu(pool: GPUPool, catalog: Catalog) -> PoolGpu | None:
    """The GPU of a pool, or None for a product that is not in the catalog."""
    spec = pool.spec.gpu
    facts = catalog.gpu(spec.product)
    if facts is None:
        return None
    major, minor = (spec.compute_capability or facts.compute_capability).split(".")
    return PoolGpu(facts, float(spec.memory_gb or facts.memory_gb), (int(major), int(minor)), spec.per_node)


def variants(
    moe: MoEDeployment, model: ModelFacts, pools: Iterable[GPUPool], catalog: Catalog
) -> tuple[tuple[ResolvedVariant, ...], tuple[Misfit, ...]]:
    """The variants of a MoEDeployment, and the pools that cannot run it.

    With ``placement.variants`` exactly those, in the user's order. Without: on each pool that the namespace may use
    the precision that serves a request of 8k/1k tokens at the lowest price, cheapest pool first.
    """
    by_name = {pool.metadata.name: pool for pool in pools}
    wanted = moe.spec.placement.variants
    if not wanted:
        return _best_of_each_pool(moe, model, by_name, catalog)
    resolved: list[ResolvedVariant] = []
    misfits: list[Misfit] = []
    for choice in wanted:
        pool = by_name.get(choice.pool)
        if pool is None:
            known = ", ".join(sorted(by_name)) or "none"
            misfits.append(Misfit(choice.pool, choice.precision, f"no GPUPool {choice.pool!r} (there are: {known})"))
            continue
        outcome = resolve(moe, model, pool, choice.precision, catalog)
        if isinstance(outcome, Misfit):
            misfits.append(outcome)
        else:
            resolved.append(outcome)
    return tuple(resolved), tuple(misfits)


def resolve(
    moe: MoEDeployment, model: ModelFacts, pool: GPUPool, precision: Precision, catalog: Catalog
) -> ResolvedVariant | Misfit:
    """One pool and precision: the variant, or why it cannot be."""
    name = pool.metadata.name
    if not pool.spec.allows(moe.metadata.namespace):
        return Misfit(name, precision, f"namespace {moe.metadata.namespace} is not in its allowedNamespaces")
    if problem := _engine_problem(moe, model, catalog):
        return Misfit(name, precision, problem)
    gpu = pool_gpu(pool, catalog)
    if gpu is None:
        known = ", ".join(catalog.gpus)
        return Misfit(name, precision, f"GPU {pool.spec.gpu.product!r} is not in the catalog (there are: {known})")
    checkpoint = model.checkpoints.get(precision)
    if checkpoint is None:
        return Misfit(
            name, precision, f"{model.name} has no {precision} checkpoint, only {', '.join(model.checkpoints)}"
        )
    if not gpu.runs(precision):
        have, need = (".".join(map(str, cc)) for cc in (gpu.compute_capability, MINIMUM_COMPUTE_CAPABILITY[precision]))
        return Misfit(name, precision, f"{precision} needs compute capability {need}, {gpu.facts.name} has {have}")
    max_model_len = moe.spec.engine.overrides.max_model_len
    parallelism = _parallelism(model, precision, gpu, min(max_model_len or model.context_length, model.context_length))
    if isinstance(parallelism, str):
        return Misfit(name, precision, parallelism)
    rates = prior(model, precision, gpu.facts, parallelism.gpus)
    engine = moe.spec.engine
    version = engine.version or catalog.engines[engine.name].version
    return ResolvedVariant(
        name=f"{name}-{precision.lower()}-{engine.name.lower()}",
        pool=name,
        precision=precision,
        engine=engine.name,
        engine_version=version,
        image=engine.image or catalog.engines[engine.name].image.format(version=version),
        checkpoint_uri=moe.spec.model.sources.uri(precision) or checkpoint.uri,
        parallelism=parallelism,
        redundant_experts=0,
        usd_per_hour=pool.spec.price.usd_per_gpu_hour * parallelism.gpus,
        minimum_billing_seconds=pool.spec.price.minimum_billing_seconds,
        prefill_tokens_per_second=rates.prefill_tokens_per_second,
        decode_tokens_per_second=rates.decode_tokens_per_second,
        concurrency=engine.overrides.max_num_seqs or rates.concurrency,
        max_model_len=max_model_len,
        cold_start_seconds=checkpoint.gigabytes * 1e9 / LOAD_BYTES_PER_SECOND + START_SECONDS,
        args=(
            *catalog.engines[engine.name].precision_args.get(precision, ()),
            *model.engines[engine.name].args,
            *model.engines[engine.name].precision_args.get(precision, ()),
            *engine.extra_args,
        ),
    )


def _best_of_each_pool(
    moe: MoEDeployment, model: ModelFacts, pools: Mapping[str, GPUPool], catalog: Catalog
) -> tuple[tuple[ResolvedVariant, ...], tuple[Misfit, ...]]:
    best: list[ResolvedVariant] = []
    misfits: list[Misfit] = []
    for name in sorted(pools):
        outcomes = [resolve(moe, model, pools[name], precision, catalog) for precision in model.checkpoints]
        fitting = [outcome for outcome in outcomes if isinstance(outcome, ResolvedVariant)]
        if fitting:
            best.append(min(fitting, key=_price_of_a_request))
        else:
            misfits.append(_merged([outcome for outcome in outcomes if isinstance(outcome, Misfit)]))
    return tuple(sorted(best, key=lambda variant: (_price_of_a_request(variant), variant.name))), tuple(misfits)


def _price_of_a_request(variant: ResolvedVariant) -> float:
    return variant.usd_per_request(8192, 1024)


def _merged(misfits: Sequence[Misfit]) -> Misfit:
    reasons = dict.fromkeys(misfit.reason for misfit in misfits)
    return replace(misfits[0], precision=None, reason="; ".join(reasons))


def _parallelism(model: ModelFacts, precision: Precision, gpu: PoolGpu, context_length: int) -> Parallelism | str:
    """What is recommended where it fits, else TP+EP over the least power of two of GPUs that does; on one node.

    Fit rule: checkpoint × 1.15 + KV cache of one request of full context ≤ GPUs × memory × 0.92. (vLLM refuses to
    start with less KV cache than that.) Returns words where no number on one node does.
    """
    recommended = model.parallelism.get(precision, {}).get(gpu.facts.name)
    if recommended is not None and recommended.gpus > gpu.per_node:
        return (
            f"{model.name} {precision} needs {recommended.gpus} {gpu.facts.name}, a node has {gpu.per_node}: "
            "replicas across nodes are not supported"
        )
    weights = model.checkpoints[precision].gigabytes
    kv = context_length * model.kv_bytes_per_token / 1e9
    needed = weights * WEIGHTS_OVERHEAD + kv
    sizes = [
        1 << power
        for power in range(8)
        if 1 << power <= gpu.per_node and 1 << power >= (recommended.gpus if recommended else 1)
    ]
    for gpus in sizes:
        if needed <= gpus * gpu.memory_gb * USABLE_MEMORY:
            if recommended is not None and recommended.gpus == gpus:
                return recommended
            return Parallelism("TensorExpert" if gpus > 1 else "Tensor", gpus)
    most = sizes[-1] if sizes else gpu.per_node
    return (
        f"{model.name} {precision} needs {weights:g} GB × {WEIGHTS_OVERHEAD} + {kv:.0f} GB KV cache = {needed:.0f} GB, "
        f"{most} × {gpu.facts.name} on one node give {most} × {gpu.memory_gb:g} GB × {USABLE_MEMORY} = "
        f"{most * gpu.memory_gb * USABLE_MEMORY:.0f} GB"
    )


def _engine_problem(moe: MoEDeployment, model: ModelFacts, catalog: Catalog) -> str | None:
    engine = moe.spec.engine
    facts = model.engines.get(engine.name)
    if facts is None:
        return f"{model.name} runs on {', '.join(model.engines)}, not on {engine.name}"
    version = engine.version or catalog.engines[engine.name].version
    if _version(version) < _version(facts.minimum_version):
        return f"{model.name} needs {engine.name} {facts.minimum_version} or newer, spec.engine.version is {version}"
    return None


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", text)[:3])
