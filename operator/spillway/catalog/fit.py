"""Which pools and precisions a model fits on, and what a replica there looks like and costs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from spillway.api import GPUPool, Precision
from spillway.catalog.gpus import GpuFacts
from spillway.catalog.load import Catalog
from spillway.catalog.memory import Footprint, footprint
from spillway.catalog.models import PRECISIONS, ModelFacts
from spillway.catalog.parallelism import Parallelism

MINIMUM_COMPUTE_CAPABILITY: dict[Precision, tuple[int, int]] = {"NVFP4": (10, 0), "FP8": (8, 9), "BF16": (8, 0)}
MOST_NODES = 4
"""Nodes of a replica that Spillway chooses by itself; more can be asked for."""


@dataclass(frozen=True, slots=True)
class PoolGpu:
    """GPUs that a replica may be put on: catalog facts under a pool's own memory and compute capability.

    ``most_gpus``: what the pool may hold at most; None: unknown.
    """

    facts: GpuFacts
    memory_gb: float
    compute_capability: tuple[int, int]
    per_node: int
    multi_node: bool = False
    most_gpus: int | None = None

    def runs(self, precision: Precision) -> bool:
        """Whether the hardware computes in that precision."""
        return precision in self.facts.flops and self.compute_capability >= MINIMUM_COMPUTE_CAPABILITY[precision]

    @property
    def precisions(self) -> tuple[Precision, ...]:
        """Precisions that the hardware computes in."""
        return tuple(precision for precision in PRECISIONS if self.runs(precision))


@dataclass(frozen=True, slots=True)
class Wish:
    """What a replica is to be: the model and precision, the longest request, the engine's arguments.

    ``parallelism``: None lets the catalog choose.
    """

    model: ModelFacts
    precision: Precision
    context_length: int | None = None
    args: tuple[str, ...] = ()
    parallelism: Parallelism | None = None
    redundant_experts: int = 0

    def footprint(self, memory_gb: float, parallelism: Parallelism) -> Footprint:
        """Its memory when spread so."""
        return footprint(
            self.model,
            self.precision,
            memory_gb,
            parallelism,
            redundant_experts=self.redundant_experts,
            context_length=self.context_length,
            args=self.args,
        )


def pool_gpu(pool: GPUPool, catalog: Catalog) -> PoolGpu | None:
    """The GPU of a pool, or None for a product that is not in the catalog."""
    spec = pool.spec.gpu
    facts = catalog.gpu(spec.product)
    if facts is None:
        return None
    return PoolGpu(
        facts,
        float(spec.memory_gb or facts.memory_gb),
        capability(spec.compute_capability or facts.compute_capability),
        spec.per_node,
        pool.spec.topology.multi_node == "LeaderWorkerSet",
        pool.spec.capacity.max_gpus or None,
    )


def capability(text: str) -> tuple[int, int]:
    """``10.3`` -> ``(10, 3)``."""
    major, minor = text.split(".")
    return int(major), int(minor)


def fit(wish: Wish, gpu: PoolGpu) -> Footprint | str:
    """How a replica is spread over those GPUs and what memory it takes; or why it cannot be, in words with the numbers.

    A parallelism that is asked for is taken or refused as it is. Else: what is recommended for that GPU where it fits,
    else tensor (and expert) parallelism over the least power of two of GPUs that does, on one node, then on several.
    """
    checkpoint = wish.model.checkpoints.get(wish.precision)
    if checkpoint is None:
        return f"{wish.model.name} has no {wish.precision} checkpoint, only {', '.join(wish.model.checkpoints)}"
    if not gpu.runs(wish.precision):
        have, need = (
            ".".join(map(str, one)) for one in (gpu.compute_capability, MINIMUM_COMPUTE_CAPABILITY[wish.precision])
        )
        return f"{wish.precision} needs compute capability {need}, {gpu.facts.name} has {have}"
    if wish.parallelism is not None:
        return _asked_for(wish, gpu, wish.parallelism)
    tried: list[Footprint] = []
    for parallelism in _candidates(wish, gpu, multi_node=gpu.multi_node):
        found = wish.footprint(gpu.memory_gb, parallelism)
        if found.fits:
            return found
        tried.append(found)
    return _none_fits(wish, gpu, tried)


def _asked_for(wish: Wish, gpu: PoolGpu, parallelism: Parallelism) -> Footprint | str:
    for problem in (_layout_problem(gpu, parallelism, gpu.multi_node), _split_problem(wish, parallelism)):
        if problem:
            return f"{parallelism} is asked for: {problem}"
    found = wish.footprint(gpu.memory_gb, parallelism)
    if found.fits:
        return found
    return f"{parallelism} is asked for: {found.words()}{_shorter(found)}"


def _candidates(wish: Wish, gpu: PoolGpu, *, multi_node: bool) -> Iterator[Parallelism]:
    """Ways to spread a replica that the pool and the model allow, best first."""
    recommended = wish.model.parallelism.get(wish.precision, {}).get(gpu.facts.name)
    least = 1
    if recommended is not None:
        nodes = -(-recommended.gpus // gpu.per_node)
        if recommended.gpus % nodes == 0:
            here = Parallelism(recommended.strategy, recommended.tensor, recommended.data, nodes)
            if _allowed(wish, gpu, here, multi_node):
                yield here
                least = recommended.gpus if recommended.strategy == "DataExpert" else 2 * recommended.gpus
    experts = wish.model.experts is None or recommended is None or recommended.strategy != "Tensor"
    for power in range(10):
        gpus = 1 << power
        nodes = -(-gpus // gpu.per_node)
        if gpus < least or nodes > MOST_NODES or gpus % nodes:
            continue
        choice = Parallelism("TensorExpert" if gpus > 1 and experts else "Tensor", gpus, 1, nodes)
        if _allowed(wish, gpu, choice, multi_node):
            yield choice


def _allowed(wish: Wish, gpu: PoolGpu, parallelism: Parallelism, multi_node: bool) -> bool:
    return not _layout_problem(gpu, parallelism, multi_node) and not _split_problem(wish, parallelism)


def _layout_problem(gpu: PoolGpu, parallelism: Parallelism, multi_node: bool) -> str:
    """Words, if the nodes of the pool cannot hold a replica that is spread so."""
    if parallelism.gpus_per_node > gpu.per_node:
        return (
            f"it takes {parallelism.gpus_per_node} GPUs of a node, a node has {gpu.per_node} {gpu.facts.name}: "
            "raise parallelism.nodes or lower tensor or data"
        )
    if parallelism.nodes > 1 and not multi_node:
        return f"it takes {parallelism.nodes} nodes: set spec.topology.multiNode of the GPUPool to LeaderWorkerSet"
    if gpu.most_gpus is not None and parallelism.gpus > gpu.most_gpus:
        return f"it takes {parallelism.gpus} GPUs, spec.capacity.maxGPUs of the GPUPool is {gpu.most_gpus}"
    return ""


def _split_problem(wish: Wish, parallelism: Parallelism) -> str:
    """Words, if the model cannot be split so."""
    heads = wish.model.attention_heads
    if heads is not None and heads % parallelism.tensor:
        return f"tensor {parallelism.tensor} does not divide the {heads} attention heads of {wish.model.name}"
    size, limit = parallelism.expert_parallel_size, wish.model.expert_parallel_limit
    if limit is not None and size > limit + wish.redundant_experts:
        return f"its experts can be spread over {limit} GPUs at most, not over {size}"
    routed = wish.model.routed_experts
    if wish.redundant_experts:
        if not size:
            return f"redundantExperts is {wish.redundant_experts}, strategy Tensor spreads no experts: use TensorExpert"
        if routed is not None and (routed + wish.redundant_experts) % size:
            return (
                f"{routed} experts + {wish.redundant_experts} redundant ones do not spread evenly over {size} GPUs: "
                f"set redundantExperts to {-routed % size or size}, or add a multiple of {size} to that"
            )
    return ""


def _none_fits(wish: Wish, gpu: PoolGpu, tried: list[Footprint]) -> str:
    elsewhere = next(
        (
            found
            for parallelism in _candidates(wish, gpu, multi_node=True)
            if (found := wish.footprint(gpu.memory_gb, parallelism)).fits
        ),
        None,
    )
    hint = (
        f"; {elsewhere.parallelism} would fit ({elsewhere.needed_gb:.0f} of {elsewhere.usable_gb:.0f} GB): "
        "set spec.topology.multiNode of the GPUPool to LeaderWorkerSet"
        if elsewhere is not None and not gpu.multi_node
        else ""
    )
    if tried:
        most = max(tried, key=lambda one: (one.kv_gb, -one.parallelism.data))
        return f"{most.parallelism}: {most.words()}{_shorter(most)}{hint}"
    return (
        f"no way was found to spread {wish.model.routed_experts} experts + {wish.redundant_experts} redundant ones "
        f"evenly: give parallelism, or change redundantExperts{hint}"
    )


def _shorter(found: Footprint) -> str:
    if found.longest_context < 1024:
        return ""
    return (
        f"; {found.longest_context:,} tokens of context would fit: "
        f"set spec.engine.overrides.maxModelLen to {found.longest_context}"
    )
