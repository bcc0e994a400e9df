from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spillway.api import GPUPool, InvalidSpec, MoEDeployment, parse
from spillway.catalog import Misfit, Parallelism, ResolvedVariant, load, pool_gpu, prior, variants
from tests.unit.api.examples import example

CATALOG = load()


def moe(**changes: Any) -> MoEDeployment:
    outcome = parse(MoEDeployment, example("MoEDeployment", **changes))
    assert isinstance(outcome, MoEDeployment), outcome
    return outcome


def pool(name: str, product: str, price: str = "4.20", **changes: Any) -> GPUPool:
    outcome = parse(GPUPool, example("GPUPool", name=name, gpu__product=product, price__perGPUHour=price, **changes))
    assert isinstance(outcome, GPUPool), outcome
    return outcome


B200 = pool("blackwell-b200", "B200")
H200 = pool("hopper-h200", "NVIDIA-H200", "2.50")
H100 = pool("hopper-h100", "H100", "1.90")


def fit(deployment: MoEDeployment, *pools: GPUPool) -> tuple[tuple[ResolvedVariant, ...], tuple[Misfit, ...]]:
    model = CATALOG.model(deployment)
    assert not isinstance(model, InvalidSpec)
    return variants(deployment, model, pools, CATALOG)


def want(name: str, product: str, precision: str, **gpu: Any) -> ResolvedVariant | Misfit:
    """The one variant, or the one misfit, of a model on one pool in one precision."""
    target = pool("pool", product, **{f"gpu__{key}": value for key, value in gpu.items()})
    placement = [{"pool": "pool", "precision": precision}]
    fitting, misfits = fit(moe(model__name=name, placement__variants=placement), target)
    assert len(fitting) + len(misfits) == 1
    return fitting[0] if fitting else misfits[0]


@pytest.mark.parametrize(
    ("name", "product", "precision", "gpus"),
    [
        ("glm-5", "B200", "NVFP4", 4),
        ("glm-5", "B200", "FP8", 8),
        ("glm-5", "H200", "FP8", 8),
        ("glm-5", "B300", "BF16", 8),
        ("deepseek-r1", "H200", "FP8", 8),
        ("deepseek-r1", "B200", "NVFP4", 4),
        ("qwen3.5-397b-a17b", "B300", "NVFP4", 2),
        ("qwen3.5-397b-a17b", "RTX-PRO-6000", "NVFP4", 4),
        ("deepseek-v4-pro", "B200", "NVFP4", 8),
        ("deepseek-v4-flash", "H200", "FP8", 4),
        ("glm-5", "B300", "NVFP4", 4),  # nothing recommended: 440 × 1.15 + 18 = 524 GB, 2 × 268 × 0.92 = 493 GB
    ],
)
def test_gpus_per_replica(name: str, product: str, precision: str, gpus: int) -> None:
    outcome = want(name, product, precision)
    assert isinstance(outcome, ResolvedVariant), outcome
    assert outcome.parallelism == Parallelism("TensorExpert", gpus)
    assert outcome.usd_per_hour == Decimal("4.20") * gpus


@pytest.mark.parametrize(
    ("name", "product", "precision", "reason"),
    [
        ("glm-5", "H200", "NVFP4", "NVFP4 needs compute capability 10.0, H200 has 9.0"),
        ("glm-5", "H100", "FP8", "needs 16 H100, a node has 8: replicas across nodes are not supported"),
        (
            "glm-5",
            "H200",
            "BF16",
            "glm-5 BF16 needs 1488 GB × 1.15 + 18 GB KV cache = 1729 GB, "
            "8 × H200 on one node give 8 × 141 GB × 0.92 = 1038 GB",
        ),
        ("glm-5.2", "B200", "BF16", "glm-5.2 has no BF16 checkpoint, only NVFP4, FP8"),
        ("glm-5", "A100", "FP8", "GPU 'A100' is not in the catalog"),
    ],
)
def test_misfits_say_why_with_the_arithmetic(name: str, product: str, precision: str, reason: str) -> None:
    outcome = want(name, product, precision)
    assert isinstance(outcome, Misfit)
    assert reason in outcome.reason


def test_the_pool_may_correct_memory_and_compute_capability() -> None:
    assert isinstance(want("glm-5", "B200", "NVFP4", memoryGB=60), Misfit)
    assert isinstance(want("glm-5", "B200", "NVFP4", computeCapability="9.0"), Misfit)
    larger = want("glm-5", "B200", "NVFP4", memoryGB=100)
    assert isinstance(larger, ResolvedVariant) and larger.gpus_per_replica == 8, "4 × 100 GB are too few"


def test_a_shorter_context_needs_less() -> None:
    tight = pool("tight", "B200", gpu__memoryGB=166)  # 4 × 166 × 0.92 = 611 GB; 465 × 1.15 = 535 GB, + 94 GB at 1M
    full = fit(moe(model__name="glm-5.2"), tight)[0][0]
    short = fit(moe(model__name="glm-5.2", engine__overrides={"maxModelLen": 65536}), tight)[0][0]
    assert (full.gpus_per_replica, short.gpus_per_replica) == (8, 4)


def test_by_default_every_pool_that_fits_cheapest_work_first() -> None:
    fitting, misfits = fit(moe(), H200, H100, B200)
    assert [variant.name for variant in fitting] == ["blackwell-b200-nvfp4-vllm", "hopper-h200-fp8-vllm"]
    assert [misfit.pool for misfit in misfits] == ["hopper-h100"]
    assert misfits[0].precision is None
    assert "needs 16 H100" in misfits[0].reason and "compute capability" in misfits[0].reason


def test_r1_prefers_nvfp4_where_the_hardware_has_it() -> None:
    assert fit(moe(model__name="deepseek-r1"), B200)[0][0].precision == "NVFP4"


def test_placement_is_taken_as_written() -> None:
    placement = [
        {"pool": "hopper-h200", "precision": "FP8"},
        {"pool": "nowhere", "precision": "FP8"},
        {"pool": "blackwell-b200", "precision": "FP8"},
    ]
    fitting, misfits = fit(moe(placement__variants=placement), B200, H200)
    assert [variant.name for variant in fitting] == ["hopper-h200-fp8-vllm", "blackwell-b200-fp8-vllm"]
    assert misfits == (Misfit("nowhere", "FP8", "no GPUPool 'nowhere' (there are: blackwell-b200, hopper-h200)"),)


def test_a_closed_pool_is_no_candidate() -> None:
    closed = pool("closed", "B200", allowedNamespaces=["search"])
    fitting, misfits = fit(moe(), closed)
    assert fitting == ()
    assert misfits[0].reason == "namespace default is not in its allowedNamespaces"


def test_an_engine_that_is_too_old_is_no_candidate() -> None:
    fitting, misfits = fit(moe(engine__version="0.15.2"), B200)
    assert fitting == ()
    assert misfits[0].reason == "glm-5 needs vLLM 0.16.0 or newer, spec.engine.version is 0.15.2"


def test_engine_image_source_and_arguments() -> None:
    variant = fit(moe(engine={"name": "SGLang", "extraArgs": ["--mem-fraction-static", "0.8"]}), H200)[0][0]
    assert variant.name == "hopper-h200-fp8-sglang"
    assert variant.image == "docker.io/lmsysorg/sglang:v0.5.23"
    assert variant.checkpoint_uri == "hf://zai-org/GLM-5-FP8"
    assert variant.args[:2] == ("--quantization", "fp8")
    assert variant.args[-2:] == ("--mem-fraction-static", "0.8")
    own = fit(
        moe(model__sources={"FP8": {"uri": "pvc://weights/glm"}}, engine={"version": "0.34.0", "image": "my/vllm:1"}),
        H200,
    )[0][0]
    assert (own.checkpoint_uri, own.image, own.engine_version) == ("pvc://weights/glm", "my/vllm:1", "0.34.0")


def test_published_throughput_is_split_evenly_between_prefill_and_decode() -> None:
    variant = want("glm-5", "B200", "NVFP4")
    assert isinstance(variant, ResolvedVariant)
    # InferenceX: 3,136 tokens/s and GPU at 8k/1k; 4 GPUs, 8/9 of it prompt, half of the time on each.
    assert variant.prefill_tokens_per_second == pytest.approx(2 * 3136 * 4 * 8 / 9)
    assert variant.decode_tokens_per_second == pytest.approx(2 * 3136 * 4 / 9)
    busy = 3136 * 4 / 9
    assert 8 * busy / variant.prefill_tokens_per_second + busy / variant.decode_tokens_per_second == pytest.approx(1)
    assert variant.concurrency == 68, "2,788 tokens/s at 41 tokens/s and stream"


def test_the_roofline_is_near_what_was_published() -> None:
    model, gpu = CATALOG.models["glm-5"], CATALOG.gpus["B200"]
    unmeasured = CATALOG.models["glm-5.2"]
    published, estimate = prior(model, "FP8", gpu, 8), prior(unmeasured, "FP8", gpu, 8)
    assert estimate.prefill_tokens_per_second == pytest.approx(published.prefill_tokens_per_second, rel=0.15)
    assert estimate.decode_tokens_per_second == pytest.approx(published.decode_tokens_per_second, rel=0.15)


def test_limits_and_priors() -> None:
    assert fit(moe(engine__overrides={"maxNumSeqs": 12}), B200)[0][0].concurrency == 12
    variant = fit(moe(), pool("p", "B200", price__minimumBilling="10m"))[0][0]
    assert variant.cold_start_seconds == 440e9 / 2e9 + 180
    assert variant.minimum_billing_seconds == 600


@given(
    name=st.sampled_from(sorted(CATALOG.models)),
    product=st.sampled_from(sorted(CATALOG.gpus)),
    precision=st.sampled_from(["NVFP4", "FP8", "BF16"]),
    memory=st.integers(16, 512),
    per_node=st.sampled_from([1, 2, 4, 6, 8]),
)
def test_what_fits_fits_and_is_finite(name: str, product: str, precision: str, memory: int, per_node: int) -> None:
    outcome = want(name, product, precision, memoryGB=memory, perNode=per_node)
    if isinstance(outcome, Misfit):
        assert outcome.reason
        return
    assert outcome.gpus_per_replica <= per_node
    weights = CATALOG.models[name].checkpoints[outcome.precision].gigabytes
    assert weights * 1.15 < outcome.gpus_per_replica * memory * 0.92
    assert 0 < outcome.usd_per_request(8192, 1024) < 1
    assert outcome.concurrency >= 1


def test_precisions_follow_compute_capability() -> None:
    def precisions(product: str) -> tuple[str, ...]:
        gpu = pool_gpu(pool("p", product), CATALOG)
        assert gpu is not None
        return gpu.precisions

    assert precisions("B200") == precisions("RTX-PRO-6000") == ("NVFP4", "FP8", "BF16")
    assert precisions("H200") == ("FP8", "BF16")
    assert pool_gpu(pool("p", "A100"), CATALOG) is None
