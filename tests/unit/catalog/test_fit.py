from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spillway.api import GPUPool, InvalidSpec, MoEDeployment, parse
from spillway.catalog import Misfit, Parallelism, ResolvedVariant, footprint, load, pool_gpu, prior, variants
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
    ("name", "product", "precision", "spread"),
    [
        # As recommended.
        ("glm-5", "B200", "NVFP4", "TP4"),
        ("glm-5", "B200", "FP8", "TP8"),
        ("glm-5", "H200", "FP8", "TP8"),
        ("deepseek-r1", "H200", "FP8", "TP8+EP"),
        ("deepseek-r1", "B200", "NVFP4", "TP4+EP"),
        ("deepseek-v3.2", "H200", "FP8", "DP8+EP"),
        ("qwen3.5-397b-a17b", "B300", "NVFP4", "TP2+EP"),
        ("qwen3.5-397b-a17b", "RTX-PRO-6000", "NVFP4", "TP4"),
        ("qwen3.5-397b-a17b", "GB200", "NVFP4", "DP4+EP"),
        ("deepseek-v4-pro", "B200", "NVFP4", "TP8+EP"),
        ("deepseek-v4-flash", "H200", "FP8", "DP4+EP"),
        # Nothing is recommended: the least power of two that fits.
        ("glm-5", "B300", "BF16", "TP8+EP"),
        ("glm-5", "B300", "NVFP4", "TP4+EP"),  # 440 + 32 + 2 × 12.5 = 497 GB > 2 × 268 × 0.92 = 493 GB
    ],
)
def test_how_a_replica_is_spread(name: str, product: str, precision: str, spread: str) -> None:
    outcome = want(name, product, precision, perNode=CATALOG.gpus[product].per_node)
    assert isinstance(outcome, ResolvedVariant), outcome
    assert str(outcome.parallelism) == spread
    assert outcome.gpus_per_replica == outcome.parallelism.gpus
    assert outcome.usd_per_hour == Decimal("4.20") * outcome.parallelism.gpus


@pytest.mark.parametrize(
    ("name", "product", "precision", "per_node", "spread"),
    [
        ("deepseek-r1", "H100", "FP8", 8, "TP16+EP on 2 nodes"),
        ("glm-5", "H100", "FP8", 8, "TP16 on 2 nodes"),
        ("deepseek-v4-pro", "H200", "FP8", 8, "TP16 on 2 nodes"),
        ("deepseek-v4-pro", "GB200", "NVFP4", 4, "DP8+EP on 2 nodes"),
        ("deepseek-r1", "GB200", "FP8", 4, "TP8+EP on 2 nodes"),  # nothing is recommended
        ("deepseek-r1", "H200", "FP8", 4, "TP8+EP on 2 nodes"),  # recommended for 8 on a node
        ("deepseek-r1", "H100", "FP8", 16, "TP16+EP"),  # recommended for 8 on a node
    ],
)
def test_replicas_on_several_nodes(name: str, product: str, precision: str, per_node: int, spread: str) -> None:
    groups = pool("pool", product, gpu__perNode=per_node, topology={"multiNode": "LeaderWorkerSet"})
    placement = [{"pool": "pool", "precision": precision}]
    fitting, misfits = fit(moe(model__name=name, placement__variants=placement), groups)
    assert misfits == ()
    assert str(fitting[0].parallelism) == spread


@pytest.mark.parametrize(
    ("name", "product", "precision", "reason"),
    [
        ("glm-5", "H200", "NVFP4", "NVFP4 needs compute capability 10.0, H200 has 9.0"),
        (
            "deepseek-r1",
            "H100",
            "FP8",
            "TP8+EP: 688 GB weights + 103 GB overhead + 92.1 GB KV cache (163,840 tokens × 70,272 B × 8 copies) "
            "= 883 GB > 8 × 80 GB × 0.92 = 589 GB; TP16+EP on 2 nodes would fit (975 of 1178 GB): "
            "set spec.topology.multiNode of the GPUPool to LeaderWorkerSet",
        ),
        (
            "glm-5.2",
            "H200",
            "FP8",
            "TP8: 753 GB weights + 113 GB overhead + 400.1 GB KV cache (1,048,576 tokens × 47,700 B × 8 copies) "
            "= 1266 GB > 8 × 141 GB × 0.92 = 1038 GB; 449,536 tokens of context would fit: "
            "set spec.engine.overrides.maxModelLen to 449536",
        ),
        ("glm-5.2", "B200", "BF16", "glm-5.2 has no BF16 checkpoint, only NVFP4, FP8"),
        ("glm-5", "A100", "FP8", "GPU 'A100' is not in the catalog"),
    ],
)
def test_misfits_say_why_with_the_arithmetic(name: str, product: str, precision: str, reason: str) -> None:
    outcome = want(name, product, precision)
    assert isinstance(outcome, Misfit)
    assert reason in outcome.reason


def test_the_context_that_a_misfit_names_does_fit() -> None:
    h200 = pool("h200", "H200")
    placement = [{"pool": "h200", "precision": "FP8"}]
    for length, fits in ((449536, True), (449536 + 1024, False)):
        changes = {"model__name": "glm-5.2", "placement__variants": placement}
        found = fit(moe(engine__overrides={"maxModelLen": length}, **changes), h200)[0]
        assert bool(found) is fits, length


def asked(name: str, product: str, precision: str, redundant: int = 0, **spread: Any) -> Any:
    target = pool(
        "pool",
        product,
    )
    choice = {"pool": "pool", "precision": precision, "parallelism": spread, "redundantExperts": redundant}
    fitting, misfits = fit(moe(model__name=name, placement__variants=[choice]), target)
    return fitting[0] if fitting else misfits[0].reason


def test_a_parallelism_that_is_asked_for_is_taken() -> None:
    found = asked("deepseek-r1", "B200", "FP8", strategy="DataExpert", data=8)
    assert (str(found.parallelism), found.redundant_experts) == ("DP8+EP", 0)
    found = asked("deepseek-r1", "B200", "FP8", redundant=32, strategy="TensorExpert", tensor=8)
    assert (str(found.parallelism), found.redundant_experts) == ("TP8+EP", 32)


@pytest.mark.parametrize(
    ("spread", "redundant", "said"),
    [
        ({"strategy": "Tensor", "tensor": 4}, 0, "TP4 is asked for: 688 GB weights + 64 GB overhead"),
        ({"strategy": "Tensor", "tensor": 6}, 0, "tensor 6 does not divide the 128 attention heads of deepseek-r1"),
        ({"strategy": "Tensor", "tensor": 16}, 0, "it takes 16 GPUs of a node, a node has 8 H200: raise"),
        ({"strategy": "Tensor", "tensor": 16, "nodes": 2}, 0, "takes 2 nodes: set spec.topology.multiNode"),
        (
            {"strategy": "TensorExpert", "tensor": 8},
            3,
            "256 experts + 3 redundant ones do not spread evenly over 8 GPUs: set redundantExperts to 8",
        ),
        # 256 + 128 experts take half as much again.
        ({"strategy": "TensorExpert", "tensor": 8}, 128, "688 GB weights + 334 GB redundant experts"),
    ],
)
def test_a_parallelism_that_cannot_be_is_refused_with_words(spread: Any, redundant: int, said: str) -> None:
    assert said in asked("deepseek-r1", "H200", "FP8", redundant=redundant, **spread)


def test_a_pool_that_is_too_small_says_so() -> None:
    small = pool("small", "B200", capacity__maxGPUs=4)
    placement = [{"pool": "small", "precision": "FP8"}]
    fitting, misfits = fit(moe(model__name="deepseek-r1", placement__variants=placement), small)
    assert fitting == ()
    assert "TP4+EP: 688 GB weights" in misfits[0].reason and "4 × 180 GB" in misfits[0].reason
    choice = {**placement[0], "parallelism": {"strategy": "Tensor", "tensor": 8}}
    misfits = fit(moe(model__name="deepseek-r1", placement__variants=[choice]), small)[1]
    assert "it takes 8 GPUs, spec.capacity.maxGPUs of the GPUPool is 4" in misfits[0].reason


def test_the_pool_may_correct_memory_and_compute_capability() -> None:
    assert isinstance(want("glm-5", "B200", "NVFP4", memoryGB=60), Misfit)
    assert isinstance(want("glm-5", "B200", "NVFP4", computeCapability="9.0"), Misfit)
    larger = want("glm-5", "B200", "NVFP4", memoryGB=100)
    assert isinstance(larger, ResolvedVariant) and larger.gpus_per_replica == 8, "4 × 100 GB are too few"


def test_a_shorter_context_needs_less() -> None:
    tight = pool("tight", "B300")  # 753 + 64 + 4 × 50 GB KV cache at 1M = 1017 > 4 × 268 × 0.92 = 986 GB
    changes = {"model__name": "glm-5.2", "placement__variants": [{"pool": "tight", "precision": "FP8"}]}
    full = fit(moe(**changes), tight)[0][0]
    short = fit(moe(engine__overrides={"maxModelLen": 65536}, **changes), tight)[0][0]
    assert (full.gpus_per_replica, short.gpus_per_replica) == (8, 4)


def test_the_type_of_the_kv_cache_follows_the_arguments() -> None:
    def kv(*args: str) -> tuple[str, int]:
        memory = fit(moe(model__name="deepseek-r1", engine={"extraArgs": list(args)}), H200)[0][0].memory
        return memory.kv_dtype, memory.kv_bytes_per_token

    assert kv() == kv("--kv-cache-dtype", "auto") == kv("--kv-cache-dtype=bfloat16") == ("BF16", 70272)
    assert kv("--kv-cache-dtype", "fp8") == kv("--kv-cache-dtype=fp8_e4m3") == ("FP8", 35136)


def test_what_is_left_for_the_cache() -> None:
    memory = fit(moe(model__name="deepseek-r1"), H200)[0][0].memory
    # 8 × 141 × 0.92 − 688 × 1.15 = 246.6 GB; each of the 8 GPUs holds a copy of the latent cache.
    assert memory.kv_gb == pytest.approx(8 * 141 * 0.92 - 688 * 1.15)
    assert memory.kv_tokens == int(memory.kv_gb * 1e9 / (8 * 70272)) == 438581
    assert memory.full_requests == pytest.approx(438581 / 163840)
    # Two KV heads: a tensor group of 8 holds 4 copies. Data-parallel ranks each hold what is theirs.
    tensor = fit(moe(model__name="qwen3.5-397b-a17b"), H200)[0][0].memory
    assert tensor.kv_copies == 4
    ranks = footprint(CATALOG.models["deepseek-v3.2"], "FP8", 141, Parallelism("DataExpert", 1, 8))
    assert (ranks.kv_copies, ranks.copies_gb) == (1, 7 * 20)


PROFILE = {
    "totalParameters": "1000B",
    "activeParameters": "32B",
    "checkpoints": {"FP8": {"sizeGB": 1010}, "NVFP4": {"sizeGB": 590, "denseGB": 24}},
    "kvBytesPerToken": 70272,
    "contextLength": 131072,
    "maxExpertParallel": 384,
    "minimumVersions": {"vLLM": "0.20.0"},
}
SOURCES = {"FP8": {"uri": "hf://me/own-fp8"}, "NVFP4": {"uri": "s3://weights/own-nvfp4"}}


def test_a_model_outside_the_catalog_is_servable_by_its_profile() -> None:
    own = moe(model={"name": "own", "profile": PROFILE, "sources": SOURCES})
    fitting, misfits = fit(own, B200, H200)
    assert [variant.name for variant in fitting] == ["blackwell-b200-nvfp4-vllm"]
    assert (str(fitting[0].parallelism), fitting[0].checkpoint_uri) == ("TP8+EP", "s3://weights/own-nvfp4")
    assert fitting[0].memory.kv_gb_per_request == pytest.approx(131072 * 70272 / 1e9), "as given, without copies"
    # 1010 GB × 1.15 > 1038 GB, and NVFP4 does not run there.
    assert "1010 GB weights + 128 GB overhead" in misfits[0].reason and "compute capability" in misfits[0].reason
    model = CATALOG.model(own)
    assert not isinstance(model, InvalidSpec)
    assert model.checkpoints["FP8"].dense_gigabytes == pytest.approx(1010 * 0.032)
    assert model.checkpoints["NVFP4"].dense_gigabytes == 24
    old = fit(moe(model={"name": "own", "profile": PROFILE, "sources": SOURCES}, engine__version="0.19.0"), B200)[1]
    assert old[0].reason == "own needs vLLM 0.20.0 or newer, the version is 0.19.0: set spec.engine.version"


def test_experts_cannot_be_spread_over_more_gpus_than_there_are_experts() -> None:
    few = {**PROFILE, "maxExpertParallel": 4}
    choice = {"pool": "b200", "precision": "NVFP4", "parallelism": {"strategy": "TensorExpert", "tensor": 8}}
    own = {"model": {"name": "own", "profile": few, "sources": SOURCES}}
    misfits = fit(moe(placement__variants=[choice], **own), pool("b200", "B200"))[1]
    assert "its experts can be spread over 4 GPUs at most, not over 8" in misfits[0].reason
    assert "TP4+EP: 590 GB weights" in fit(moe(**own), pool("b200", "B200"))[1][0].reason, "so that it fits nowhere"


def test_ranks_run_the_same_number_of_requests() -> None:
    ranks = {"model__name": "deepseek-v3.2", "engine__overrides": {"maxNumSeqs": 12}}
    assert fit(moe(**ranks), H200)[0][0].concurrency == 16, "2 on each of 8 ranks"


def test_a_profile_and_the_catalog_exclude_each_other() -> None:
    both = CATALOG.model(moe(model={"name": "glm-5", "profile": PROFILE, "sources": SOURCES}))
    neither = CATALOG.model(moe(model={"name": "own"}))
    assert isinstance(both, InvalidSpec) and isinstance(neither, InvalidSpec)
    assert "spec.model.profile is set and spec.model.name is 'glm-5', which the catalog knows" in both.message
    assert "'own', which is not in the catalog" in neither.message and "spec.model.profile" in neither.message


def test_by_default_every_pool_that_fits_cheapest_work_first() -> None:
    fitting, misfits = fit(moe(), H200, H100, B200)
    assert [variant.name for variant in fitting] == ["blackwell-b200-nvfp4-vllm", "hopper-h200-fp8-vllm"]
    assert [misfit.pool for misfit in misfits] == ["hopper-h100"]
    assert misfits[0].precision is None
    assert "TP16 on 2 nodes would fit" in misfits[0].reason and "compute capability" in misfits[0].reason


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
    assert misfits[0].reason == "glm-5 needs vLLM 0.16.0 or newer, the version is 0.15.2: set spec.engine.version"


def test_engine_image_source_and_arguments() -> None:
    variant = fit(moe(engine={"name": "SGLang", "extraArgs": ["--mem-fraction-static", "0.8"]}), H200)[0][0]
    assert variant.name == "hopper-h200-fp8-sglang"
    assert variant.image == "docker.io/lmsysorg/sglang:v0.5.23"
    assert variant.checkpoint_uri == "hf://zai-org/GLM-5-FP8"
    assert variant.args[:2] == ("--quantization", "fp8")
    assert variant.env == ()
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
    assert outcome.parallelism.nodes == 1 and outcome.gpus_per_replica <= per_node
    found = outcome.memory
    assert found.weights_gb >= CATALOG.models[name].checkpoints[outcome.precision].gigabytes
    assert found.weights_gb + found.overhead_gb + found.kv_gb == pytest.approx(found.parallelism.gpus * memory * 0.92)
    assert found.full_requests >= outcome.parallelism.data, "an engine refuses to start with less"
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
