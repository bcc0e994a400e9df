"""Facts that Spillway knows beforehand, as data: models, GPUs, engines and providers, each with its source; and what
follows from them for a given deployment: which pools it fits on, how many GPUs a replica takes and how it is spread
over them, what it costs, how fast it is.

``load()`` reads the files that ship with the package, ``overlaid()`` lays a user's files over them; ``fit()`` answers
for one GPU; ``variants()`` resolves a MoEDeployment against the GPUPools.
"""

from spillway.catalog.engines import EngineFacts
from spillway.catalog.entry import CatalogError
from spillway.catalog.fit import PoolGpu, Wish, capability, fit, pool_gpu
from spillway.catalog.gpus import GpuFacts
from spillway.catalog.load import FILES, Catalog, load, overlaid
from spillway.catalog.memory import Footprint, footprint
from spillway.catalog.models import PRECISIONS, CheckpointFacts, ModelFacts
from spillway.catalog.parallelism import Parallelism
from spillway.catalog.providers import OfferedModel, ProviderFacts
from spillway.catalog.resolve import Misfit, ResolvedVariant, engine_problem, resolve, rules_for, variants
from spillway.catalog.throughput import Rates, prior

__all__ = [
    "FILES",
    "PRECISIONS",
    "Catalog",
    "CatalogError",
    "CheckpointFacts",
    "EngineFacts",
    "Footprint",
    "GpuFacts",
    "Misfit",
    "ModelFacts",
    "OfferedModel",
    "Parallelism",
    "PoolGpu",
    "ProviderFacts",
    "Rates",
    "ResolvedVariant",
    "Wish",
    "capability",
    "engine_problem",
    "fit",
    "footprint",
    "load",
    "overlaid",
    "pool_gpu",
    "prior",
    "resolve",
    "rules_for",
    "variants",
]
