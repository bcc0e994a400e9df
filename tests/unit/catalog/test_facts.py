from __future__ import annotations

import pytest

from spillway.api import InvalidSpec, MoEDeployment, parse
from spillway.catalog import Catalog, load
from spillway.catalog.facts import PRECISIONS
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
