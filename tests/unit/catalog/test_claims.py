"""What the field claims of MoE models and NVFP4, against the catalog's numbers, with the arithmetic."""

from __future__ import annotations

import pytest

from spillway.catalog import Parallelism, PoolGpu, Wish, capability, fit, footprint, load, prior

CATALOG = load()
NVFP4_BITS = 4 + 8 / 16
"""Four bits a value and an 8-bit scale for each 16 of them (the 32-bit scale of a whole tensor does not show)."""


def test_nvfp4_takes_3_5_times_less_than_fp16_and_1_8_times_less_than_fp8_in_theory() -> None:
    assert pytest.approx(3.56, abs=0.01) == 16 / NVFP4_BITS
    assert pytest.approx(1.78, abs=0.01) == 8 / NVFP4_BITS


@pytest.mark.parametrize(
    ("name", "to_fp16", "to_fp8"),
    [
        # 2 bytes a parameter for FP16, where there is no such checkpoint; what is published for the others.
        ("deepseek-r1", 3.25, 1.66),  # 2 × 671 / 413.3; 688 / 413.3
        ("deepseek-v3.2", 3.24, 1.67),
        ("glm-5", 3.38, 1.70),  # 1488 / 440; 750 / 440
        ("glm-5.2", 3.20, 1.62),
        ("qwen3.5-397b-a17b", 3.18, 1.60),  # 794 / 250; 400 / 250
        ("deepseek-v4-pro", 3.50, 1.75),
        ("deepseek-v4-flash", 3.38, 1.74),
    ],
)
def test_real_nvfp4_checkpoints_save_less(name: str, to_fp16: float, to_fp8: float) -> None:
    """Attention, embeddings and shared experts stay at 8 or 16 bits: 3.2 to 3.5 times and 1.6 to 1.75 times."""
    model = CATALOG.models[name]
    nvfp4 = model.checkpoints["NVFP4"].gigabytes
    assert 2 * model.parameters_billion.total / nvfp4 == pytest.approx(to_fp16, abs=0.01)
    assert model.checkpoints["FP8"].gigabytes / nvfp4 == pytest.approx(to_fp8, abs=0.01)
    assert to_fp16 < 16 / NVFP4_BITS and to_fp8 < 8 / NVFP4_BITS


def needed_gb(name: str, gpus: int, memory_gb: float, fp16: bool) -> tuple[float, float]:
    """Memory that the fit rule wants and has, the weights in FP16 (2 bytes a parameter) or as in the NVFP4 checkpoint,
    if the model could be split over that many GPUs; a context of 32k tokens."""
    model = CATALOG.models[name]
    weights = 2 * model.parameters_billion.total if fp16 else model.checkpoints["NVFP4"].gigabytes
    found = footprint(model, "NVFP4", memory_gb, Parallelism("Tensor", gpus), context_length=32768)
    overhead = min(0.15 * weights, 16.0 * gpus)
    return weights + overhead + found.kv_gb_per_request, found.usable_gb


@pytest.mark.parametrize(
    ("name", "on_8_h100_in_fp16", "on_3_b300_in_nvfp4"),
    [
        # 8 × 80 × 0.92 = 589 GB; 3 × 268 × 0.92 = 740 GB.
        ("deepseek-r1", False, True),  # 1342 GB of weights; 413 + 48 GB
        ("deepseek-v3.2", False, True),
        ("glm-5", False, True),  # 1488 GB; 440 + 48 GB
        ("glm-5.2", False, True),
        ("qwen3.5-397b-a17b", False, True),  # 794 GB; 250 + 38 GB
        ("deepseek-v4-pro", False, False),  # 3200 GB; 913 GB
        ("deepseek-v4-flash", False, True),  # 568 + 85 GB; 168 + 25 GB
    ],
)
def test_three_blackwell_ultra_replace_eight_h100_with_fp16(
    name: str, on_8_h100_in_fp16: bool, on_3_b300_in_nvfp4: bool
) -> None:
    """The claim is too modest where it holds: no model of the catalog fits on 8 H100 in FP16 at all, while all but
    V4-Pro fit into the memory of 3 B300 in NVFP4."""
    needed, usable = needed_gb(name, 8, CATALOG.gpus["H100"].memory_gb, fp16=True)
    assert (needed <= usable) is on_8_h100_in_fp16
    needed, usable = needed_gb(name, 3, CATALOG.gpus["B300"].memory_gb, fp16=False)
    assert (needed <= usable) is on_3_b300_in_nvfp4


def test_what_the_claim_is_true_of_in_general() -> None:
    """Of a model whose FP16 weights just fit on 8 H100 (256B parameters), NVFP4 needs a third of 3 B300."""
    h100, b300 = CATALOG.gpus["H100"], CATALOG.gpus["B300"]
    largest = 8 * h100.memory_gb * 0.92 / 1.15 / 2  # billions of parameters
    assert largest == pytest.approx(256, abs=1)
    assert largest * NVFP4_BITS / 8 * 1.15 < 0.25 * 3 * b300.memory_gb * 0.92
    # It is the rest of the hardware that three of them match: bandwidth nearly, arithmetic five times.
    assert 3 * b300.bandwidth / (8 * h100.bandwidth) == pytest.approx(0.90, abs=0.01)
    assert 3 * b300.flops["NVFP4"] / (8 * h100.flops["BF16"]) == pytest.approx(5.1, abs=0.1)


def test_three_gpus_cannot_be_a_tensor_parallel_group_of_these_models() -> None:
    gpu = CATALOG.gpus["B300"]
    pool = PoolGpu(gpu, gpu.memory_gb, capability(gpu.compute_capability), gpu.per_node)
    for model in CATALOG.models.values():
        said = fit(Wish(model, "NVFP4", parallelism=Parallelism("Tensor", 3)), pool)
        assert isinstance(said, str) and "tensor 3 does not divide" in said, "2 or 4 it is"


@pytest.mark.parametrize(
    ("name", "share"),
    [("glm-5", 0.054), ("qwen3.5-397b-a17b", 0.043), ("deepseek-r1", 0.055), ("deepseek-v4-pro", 0.031)],
)
def test_compute_per_token_follows_active_parameters(name: str, share: float) -> None:
    model = CATALOG.models[name]
    assert model.active_parameters / model.total_parameters == pytest.approx(share, abs=0.0005)


def test_the_prefill_rate_follows_active_parameters() -> None:
    """Two FLOP for each active parameter and token: what the expected rates of models without a measurement say."""
    gpu = CATALOG.gpus["H200"]
    work = {
        prior(model, "FP8", gpu, 8).prefill_tokens_per_second * 2 * model.active_parameters
        for model in CATALOG.models.values()
    }
    assert max(work) == pytest.approx(min(work)), "FLOP per second are the same for 13B and for 49B active parameters"
