"""Facts that Spillway knows beforehand, as data: models, GPUs and engines, each with its source; and what follows from
them for a given deployment: which pools it fits on, how many GPUs a replica takes, what it costs, how fast it is.

``load()`` reads the files that ship with the package; ``variants()`` resolves a MoEDeployment against the GPUPools.
"""

from spillway.catalog.facts import Catalog, EngineFacts, GpuFacts, ModelFacts, load
from spillway.catalog.fit import Misfit, PoolGpu, ResolvedVariant, pool_gpu, resolve, variants
from spillway.catalog.parallelism import Parallelism, Strategy
from spillway.catalog.throughput import Rates, prior

__all__ = [
    "Catalog",
    "EngineFacts",
    "GpuFacts",
    "Misfit",
    "ModelFacts",
    "Parallelism",
    "PoolGpu",
    "Rates",
    "ResolvedVariant",
    "Strategy",
    "load",
    "pool_gpu",
    "prior",
    "resolve",
    "variants",
]
