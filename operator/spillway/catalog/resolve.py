"""What a MoEDeployment comes to on the GPUPools: variants with all that is known of their replicas, or why not."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal

from spillway.api import EngineName, GPUPool, MoEDeployment, Precision, WantedParallelism
from spillway.catalog.fit import Wish, fit, pool_gpu
from spillway.catalog.load import Catalog
from spillway.catalog.memory import Footprint
from spillway.catalog.models import ModelFacts
from spillway.catalog.parallelism import Parallelism
from spillway.catalog.rules import Rule, arguments, environment, version
from spillway.catalog.throughput import prior

LOAD_BYTES_PER_SECOND = 2e9
"""Checkpoint load from network storage: between 1 and 10 GB/s in public reports."""
START_SECONDS = 180.0
"""Image pull, CUDA graphs and kernel warm-up on a node that is there."""


@dataclass(frozen=True, slots=True)
class ResolvedVariant:
    """One way to run a model, with everything that is known about a replica of it.

    ``usd_per_hour`` is the price of one replica; the token rates and ``cold_start_seconds`` are priors.
    ``concurrency`` is the number of requests that one replica runs at once, the same number on each data-parallel rank.
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
    """The catalog's for this engine, model, precision, GPU and engine version, then the user's extraArgs."""
    env: tuple[tuple[str, str], ...]
    """The catalog's environment for the engine, by name."""
    memory: Footprint

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
        outcome = resolve(
            moe, model, pool, choice.precision, catalog, _asked(choice.parallelism), choice.redundant_experts
        )
        if isinstance(outcome, Misfit):
            misfits.append(outcome)
        else:
            resolved.append(outcome)
    return tuple(resolved), tuple(misfits)


def resolve(
    moe: MoEDeployment,
    model: ModelFacts,
    pool: GPUPool,
    precision: Precision,
    catalog: Catalog,
    parallelism: Parallelism | None = None,
    redundant_experts: int = 0,
) -> ResolvedVariant | Misfit:
    """One pool and precision: the variant, or why it cannot be. ``parallelism`` None: the catalog chooses."""
    name = pool.metadata.name
    if not pool.spec.allows(moe.metadata.namespace):
        return Misfit(name, precision, f"namespace {moe.metadata.namespace} is not in its allowedNamespaces")
    engine = moe.spec.engine
    facts = catalog.engines[engine.name]
    engine_version = engine.version or facts.version
    if problem := engine_problem(model, engine.name, engine_version, precision):
        return Misfit(name, precision, problem)
    gpu = pool_gpu(pool, catalog)
    if gpu is None:
        known = ", ".join(catalog.gpus)
        return Misfit(name, precision, f"GPU {pool.spec.gpu.product!r} is not in the catalog (there are: {known})")
    rules = rules_for(catalog, model, engine.name, precision, gpu.facts.name, engine_version)
    args = (*arguments(rules), *engine.extra_args)
    max_model_len = engine.overrides.max_model_len
    memory = fit(Wish(model, precision, max_model_len, args, parallelism, redundant_experts), gpu)
    if isinstance(memory, str):
        return Misfit(name, precision, memory)
    gpus, ranks = memory.parallelism.gpus, memory.parallelism.data
    rates = prior(model, precision, gpu.facts, gpus)
    checkpoint = model.checkpoints[precision]
    return ResolvedVariant(
        name=f"{name}-{precision.lower()}-{engine.name.lower()}",
        pool=name,
        precision=precision,
        engine=engine.name,
        engine_version=engine_version,
        image=engine.image or facts.image.format(version=engine_version),
        checkpoint_uri=moe.spec.model.sources.uri(precision) or checkpoint.uri,
        parallelism=memory.parallelism,
        redundant_experts=redundant_experts,
        usd_per_hour=pool.spec.price.usd_per_gpu_hour * gpus,
        minimum_billing_seconds=pool.spec.price.minimum_billing_seconds,
        prefill_tokens_per_second=rates.prefill_tokens_per_second,
        decode_tokens_per_second=rates.decode_tokens_per_second,
        concurrency=-(-(engine.overrides.max_num_seqs or rates.concurrency) // ranks) * ranks,
        max_model_len=max_model_len,
        cold_start_seconds=checkpoint.gigabytes * 1e9 / LOAD_BYTES_PER_SECOND + START_SECONDS,
        args=args,
        env=tuple(sorted(environment(rules).items())),
        memory=memory,
    )


def rules_for(
    catalog: Catalog, model: ModelFacts, engine: EngineName, precision: Precision, gpu: str, engine_version: str
) -> tuple[Rule, ...]:
    """The rules that hold, the engine's first, then the model's."""
    every = (*catalog.engines[engine].rules, *(model.engines[engine].rules if engine in model.engines else ()))
    return tuple(rule for rule in every if rule.holds(precision, gpu, engine_version))


def _asked(wanted: WantedParallelism | None) -> Parallelism | None:
    return None if wanted is None else Parallelism(wanted.strategy, wanted.tensor, wanted.data, wanted.nodes)


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


def engine_problem(model: ModelFacts, engine: EngineName, engine_version: str, precision: Precision) -> str | None:
    """Words, if that version of the engine cannot run the model."""
    facts = model.engines.get(engine)
    if facts is None:
        return f"{model.name} runs on {', '.join(model.engines)}, not on {engine}"
    least = facts.minimum(precision)
    if least is not None and version(engine_version) < version(least):
        return f"{model.name} needs {engine} {least} or newer, the version is {engine_version}: set spec.engine.version"
    return None
