"""Prices and speeds to start from."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from spillway.api import GPUPool, InvalidSpec, MoEDeployment, parse
from spillway.catalog import load, variants
from spillway.simulate.economics import Economics

USD_PER_B200_HOUR = "4.20"  # a usual list price on demand in 2026, as in manifests/samples


def glm_5_on_b200() -> Economics:
    """GLM-5 in NVFP4 on four B200, by the catalog, beside its vendor's API at list price."""
    catalog = load()
    pool = parse(
        GPUPool,
        {
            "apiVersion": "spillway.dev/v1alpha1",
            "kind": "GPUPool",
            "metadata": {"name": "blackwell-b200"},
            "spec": {
                "nodeSelector": {"nvidia.com/gpu.product": "NVIDIA-B200"},
                "gpu": {"product": "B200", "perNode": 8},
                "price": {"perGPUHour": USD_PER_B200_HOUR, "minimumBilling": "1m"},
            },
        },
    )
    deployment = parse(
        MoEDeployment,
        {
            "apiVersion": "spillway.dev/v1alpha1",
            "kind": "MoEDeployment",
            "metadata": {"name": "glm-5", "namespace": "chat"},
            "spec": {"model": {"name": "glm-5"}},
        },
    )
    assert not isinstance(pool, InvalidSpec)
    assert not isinstance(deployment, InvalidSpec)
    model = catalog.model(deployment)
    assert not isinstance(model, InvalidSpec)
    found, _ = variants(deployment, model, [pool], catalog)
    replica, offered = found[0], catalog.providers["zai"].models["glm-5"]
    return Economics(
        usd_per_replica_hour=float(replica.usd_per_hour),
        prefill_tokens_per_second=replica.prefill_tokens_per_second,
        decode_tokens_per_second=replica.decode_tokens_per_second,
        usd_per_million_input=float(offered.input),
        usd_per_million_output=float(offered.output),
        delay_seconds=round(replica.cold_start_seconds),
        minimum_billing_seconds=replica.minimum_billing_seconds,
    )


# A, B and C: eight H200 at three prices beside two APIs (reference/policy.md §2).
PRESETS: Mapping[str, Callable[[], Economics]] = {
    "glm-5": glm_5_on_b200,
    "A": lambda: Economics(32.0, 20_000.0, 10_000.0, 1.0, 3.0),
    "B": lambda: Economics(16.0, 20_000.0, 10_000.0, 1.0, 3.0),
    "C": lambda: Economics(24.0, 20_000.0, 10_000.0, 3.0, 15.0),
}
DEFAULT_PRESET = "glm-5"
