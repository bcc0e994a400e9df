"""Every command line that the catalog gives rise to is one that the engine's simulator takes: it refuses what the real
engine would, wrong flags and NVFP4 on Hopper among it."""

from __future__ import annotations

import pytest

from e2e.simulators.engine import sglang_flags, vllm_flags
from e2e.simulators.engine.settings import Surroundings
from spillway.api import EngineName
from spillway.build import BuildSettings, workload
from spillway.catalog import ResolvedVariant, load, resolve
from tests.unit.build.test_objects import CATALOG, container, moe, pool

CASES = [
    (model, product, engine)
    for model in sorted(load().models)
    for product in sorted(load().gpus)
    for engine in ("vLLM", "SGLang")
]


@pytest.mark.parametrize(("model", "product", "engine"), CASES)
def test_engines_take_what_is_built(model: str, product: str, engine: EngineName) -> None:
    owner, target = moe(model__name=model, engine__name=engine), pool(product)
    for precision in CATALOG.models[model].checkpoints:
        variant = resolve(owner, CATALOG.models[model], target, precision, CATALOG)
        if not isinstance(variant, ResolvedVariant):
            continue
        args = container(workload(owner, variant, target, 1, BuildSettings()))["args"]
        around = Surroundings.from_environment(
            {"SIM_GPUS": str(variant.gpus_per_replica), "SIM_GPU_PRODUCT": CATALOG.gpus[product].products[0]}
        )
        settings = (vllm_flags if engine == "vLLM" else sglang_flags).read(args, around)
        assert settings.served_names == (model,)
        assert settings.max_running == variant.concurrency
        assert settings.metrics
