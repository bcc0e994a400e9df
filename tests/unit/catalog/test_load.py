from __future__ import annotations

from decimal import Decimal

import pytest

from spillway.api import EngineName, InvalidSpec, MoEDeployment, Precision, parse
from spillway.catalog import PRECISIONS, Catalog, load, rules_for
from spillway.catalog.rules import arguments, environment
from tests.unit.api.examples import example

CATALOG = load()
MODELS = (
    "glm-5",
    "glm-5.2",
    "qwen3.5-397b-a17b",
    "deepseek-r1",
    "deepseek-v3.2",
    "deepseek-v4-pro",
    "deepseek-v4-flash",
)


def test_the_models_and_gpus_of_the_design_are_there() -> None:
    assert set(CATALOG.models) == set(MODELS)
    assert set(CATALOG.gpus) == {"H100", "H200", "B200", "B300", "GB200", "GB300", "RTX-PRO-6000"}
    assert {name: engine.version for name, engine in CATALOG.engines.items()} == {"vLLM": "0.33.0", "SGLang": "0.5.23"}


@pytest.mark.parametrize("name", MODELS)
def test_models_are_consistent(name: str) -> None:
    model = CATALOG.models[name]
    assert 0 < model.active_parameters < model.total_parameters
    assert set(model.checkpoints) <= set(PRECISIONS)
    assert set(model.engines) == {"vLLM", "SGLang"}
    sizes = [model.checkpoints[precision].gigabytes for precision in PRECISIONS if precision in model.checkpoints]
    assert sizes == sorted(sizes), "fewer bits are fewer bytes"
    for precision, by_gpu in model.parallelism.items():
        assert precision in model.checkpoints
        assert set(by_gpu) <= set(CATALOG.gpus)
    for measured in model.throughput:
        assert measured.precision in model.checkpoints and measured.gpu in CATALOG.gpus


@pytest.mark.parametrize("product", ["B200", "NVIDIA-B200", "NVIDIA-B200-SHARED"])
def test_a_gpu_is_found_by_name_and_by_label(product: str) -> None:
    gpu = CATALOG.gpu(product)
    assert gpu is not None and gpu.name == "B200"


def test_an_unknown_gpu_is_none() -> None:
    assert CATALOG.gpu("NVIDIA-A100") is None


def test_an_unknown_model_is_the_users_mistake_and_lists_the_known_ones() -> None:
    moe = parse(MoEDeployment, example("MoEDeployment", model__name="gpt-oss"))
    assert isinstance(moe, MoEDeployment)
    outcome = CATALOG.model(moe)
    assert isinstance(outcome, InvalidSpec)
    assert "spec.model.name is 'gpt-oss'" in outcome.message
    assert all(name in outcome.message for name in MODELS)


def test_the_catalog_is_read_once() -> None:
    assert isinstance(CATALOG, Catalog) and load() is CATALOG


@pytest.mark.parametrize("name", MODELS)
def test_the_parts_outside_the_experts_are_what_the_configurations_say(name: str) -> None:
    """Routed experts have layers × experts × 3 × hidden × intermediate parameters [transformers configurations]."""
    hidden, intermediate, heads = {
        "glm-5": (6144, 2048, 64),
        "glm-5.2": (6144, 2048, 64),
        "qwen3.5-397b-a17b": (4096, 1024, 32),
        "deepseek-r1": (7168, 2048, 128),
        "deepseek-v3.2": (7168, 2048, 128),
        "deepseek-v4-pro": (7168, 3072, 128),
        "deepseek-v4-flash": (4096, 2048, 64),
    }[name]
    model = CATALOG.models[name]
    experts = model.experts
    assert experts is not None and experts.layers is not None
    one = 3 * hidden * intermediate
    routed = experts.layers * experts.routed * one
    assert model.attention_heads == heads
    # Active parameters count the chosen experts; what remains of them is outside the routed experts.
    outside = model.active_parameters - experts.layers * experts.active * one
    assert 0 < outside < 0.08 * model.total_parameters
    assert routed + outside == pytest.approx(model.total_parameters, rel=0.025)
    for precision, checkpoint in model.checkpoints.items():
        # Outside the experts it is 8 or 16 bits a parameter, whatever the experts are.
        assert 0.9 * outside < checkpoint.dense_gigabytes * 1e9 < 2.4 * outside, precision
        experts_gb = checkpoint.gigabytes - checkpoint.dense_gigabytes
        least = {"NVFP4": 4.5, "FP8": 8, "BF16": 16}[precision] / 8 * routed / 1e9
        # The layer for multi-token prediction is one more, in 16 bits in some NVFP4 checkpoints.
        assert least * 0.99 <= experts_gb <= least * 1.08, precision


def test_kv_bytes_are_what_the_configurations_say() -> None:
    def kv(name: str) -> tuple[int, int]:
        sizes = CATALOG.models[name].kv_bytes_per_token
        return sizes["BF16"], sizes["FP8"]

    latent, indexer = 512 + 64, 128 + 4
    sparse = 512 + 4 * 4 + 64 * 2  # fp8_ds_mla: 8 bits, four scales, the rotary part in 16 bits
    assert kv("deepseek-r1") == (61 * latent * 2, 61 * latent)
    assert kv("deepseek-v3.2") == (61 * (latent * 2 + indexer), 61 * (sparse + indexer))
    assert kv("glm-5") == (78 * (latent * 2 + indexer), 78 * (sparse + indexer))
    assert kv("glm-5.2") == (78 * latent * 2 + 21 * indexer, 78 * latent + 21 * indexer)
    assert kv("qwen3.5-397b-a17b") == (15 * 2 * 256 * 2 * 2, 15 * 2 * 256 * 2)
    assert kv("deepseek-v4-pro")[0] == pytest.approx(9.62 * 2**30 / 2**20, rel=1e-3)


@pytest.mark.parametrize("name", MODELS)
def test_every_size_says_where_it_is_from(name: str) -> None:
    assert all(checkpoint.source for checkpoint in CATALOG.models[name].checkpoints.values())


def test_providers() -> None:
    assert set(CATALOG.providers) == {
        "openai", "anthropic", "google", "zai", "deepseek", "volcengine", "dashscope", "together", "deepinfra",
    }  # fmt: skip
    for provider in CATALOG.providers.values():
        assert provider.source and provider.checked.year == 2026
        for name, offered in provider.models.items():
            where = f"{provider.name} {name}"
            assert 0 < offered.input < offered.output, where
            assert offered.cached_input is None or offered.cached_input < offered.input, where
            assert offered.cache_write is None or offered.cache_write >= offered.input, where
            assert list(offered.tiers) == sorted(offered.tiers, key=lambda tier: tier.above_input_tokens), where
            assert all(tier.input > offered.input and tier.output > offered.output for tier in offered.tiers), where
    assert CATALOG.providers["anthropic"].models["claude-opus-4-6"].cache_write == Decimal("6.25")
    assert CATALOG.providers["openai"].models["gpt-5.4"].tiers[0].above_input_tokens == 272000


def test_every_catalog_model_with_a_public_api_has_a_price() -> None:
    offered = {one.catalog_model for provider in CATALOG.providers.values() for one in provider.models.values()}
    assert set(MODELS) - offered == {"deepseek-v3.2"}


def test_the_engine_the_precision_and_the_gpu_choose_arguments() -> None:
    r1 = CATALOG.models["deepseek-r1"]

    def of(engine: EngineName, precision: Precision, gpu: str, version: str) -> tuple[str, dict[str, str]]:
        rules = rules_for(CATALOG, r1, engine, precision, gpu, version)
        return " ".join(arguments(rules)), environment(rules)

    assert of("vLLM", "FP8", "H200", "0.33.0") == ("--reasoning-parser deepseek_r1", {})
    old = of("vLLM", "NVFP4", "B200", "0.32.1")
    assert old == ("--reasoning-parser deepseek_r1 --kv-cache-dtype fp8", {"VLLM_USE_FLASHINFER_MOE_FP4": "1"})
    assert of("vLLM", "NVFP4", "B200", "0.33.0")[1] == {}, "gone in 0.33"
    assert "--attention-backend trtllm_mla" in of("SGLang", "NVFP4", "B200", "0.5.23")[0]
    assert "trtllm_mla" not in of("SGLang", "NVFP4", "RTX-PRO-6000", "0.5.23")[0], "sm_120 has no such kernel"
