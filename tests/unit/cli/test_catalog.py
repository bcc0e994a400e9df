"""`spillway catalog`: what it prints, for people and for programs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from spillway.catalog import load
from spillway.cli.main import app


def run(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner(env={"NO_COLOR": "1"}).invoke(app, ["catalog", *arguments])
    return result.exit_code, result.stdout, result.stderr


def output(*arguments: str) -> str:
    """What a command that succeeds prints, on lines of at most 100 columns."""
    status, text, errors = run(*arguments)
    assert status == 0, errors
    assert max(len(line.rstrip()) for line in text.splitlines()) <= 100
    return text


def parsed(*arguments: str) -> Any:
    status, text, errors = run(*arguments, "--json")
    assert status == 0, errors
    return json.loads(text)


def words(text: str) -> str:
    """Without the breaks of lines."""
    return " ".join(text.split())


def test_models() -> None:
    text = output("models")
    rows = {line.split()[0]: line.split() for line in text.splitlines() if line}
    assert set(load().models) <= set(rows)
    assert rows["deepseek-r1"] == [
        "deepseek-r1", "671B/37B", "5.5%", "160k", "70.3/35.1", "413", "688", "–", "0.12.0", "any",
    ]  # fmt: skip
    assert "1T/32B was projected" in text
    assert parsed("models")["glm-5"]["parallelism"]["FP8"]["H100"] == "TP16 on 2 nodes"


def test_one_model() -> None:
    text = words(output("models", "qwen3.5-397b-a17b"))
    for expected in ("512 routed experts in 60 layers", "BF16 30,720 B", "hf://nvidia/Qwen3.5", "DP4+EP"):
        assert expected in text
    assert "NVFP4: --kv-cache-dtype fp8" in text and "VLLM_USE_DEEP_GEMM=0" in text
    assert set(parsed("models", "glm-5")) == {"glm-5"}


def test_gpus() -> None:
    rows = {line.split()[0]: line.split() for line in output("gpus").splitlines() if line}
    assert set(load().gpus) <= set(rows)
    assert rows["GB300"] == ["GB300", "277", "10.3", "4", "NVL72", "8", "15/5/2.5", "NVIDIA-GB300"]
    assert parsed("gpus")["B200"]["products"] == ["NVIDIA-B200"]


def test_providers() -> None:
    text = words(output("providers"))
    for provider in load().providers.values():
        assert provider.base_url in text
    assert "gpt-5.4 2.5 0.25 15 above 272k: 5/0.5/22.5" in text
    only = output("providers", "zai")
    assert "glm-5" in only and "openai" not in only
    assert parsed("providers", "zai")["zai"]["models"]["glm-5"]["output"] == "3.2"


def test_fit_explains_every_gpu() -> None:
    text = output("fit", "deepseek-r1")
    for gpu in load().gpus:
        assert f"\n{gpu}  " in text, gpu
    assert "H100          FP8        TP16+EP    16      2" in text
    joined = words(text)
    assert "NVFP4 does not fit: NVFP4 needs compute capability 10.0, H100 has 9.0" in joined
    assert (
        "FP8 TP8+EP: 688 GB weights + 103 GB overhead + 92.1 GB KV cache (163,840 tokens × 70,272 B × 8 copies) "
        "= 883 GB ≤ 8 × 141 GB × 0.92 = 1038 GB"
    ) in joined
    assert "one node is not enough: TP8+EP: 688 GB weights" in joined


def test_fit_says_why_it_is_not_what_is_recommended() -> None:
    text = words(output("fit", "glm-5.2", "--gpu", "H200", "--precision", "FP8"))
    assert "FP8 TP16 on 2 nodes: 753 GB weights" in text
    assert "recommended, but too large: TP8: 753 GB weights + 113 GB overhead + 400.1 GB KV cache" in text
    assert "= 1266 GB > 8 × 141 GB × 0.92 = 1038 GB; 449,536 tokens of context would fit" in text
    assert "recommended, but" not in output("fit", "glm-5.2", "--gpu", "H200", "--max-model-len", "449536")


def test_fit_narrowed_down() -> None:
    found = parsed("fit", "deepseek-r1", "--gpu", "NVIDIA-B200", "--precision", "NVFP4")
    assert [(one["gpu"], one["precision"], one["gpus"], one["recommended"]) for one in found] == [
        ("B200", "NVFP4", 4, True)
    ]
    assert found[0]["kvCacheGB"] == pytest.approx(4 * 180 * 0.92 - 413.34 * 1.15, abs=0.1)
    shorter = parsed("fit", "glm-5.2", "--gpu", "H200", "--precision", "FP8", "--max-model-len", "400000")
    assert (shorter[0]["gpus"], shorter[0]["nodes"]) == (8, 1)
    asked = parsed("fit", "deepseek-r1", "--gpu", "H200", "--precision", "FP8", "--parallelism", "TP4")
    assert asked[0]["fits"] is False and "TP4 is asked for" in asked[0]["reason"]
    sglang = parsed("fit", "deepseek-v3.2", "--gpu", "H200", "--precision", "FP8", "--engine", "SGLang")
    assert sglang[0]["parallelism"]["strategy"] == "TensorExpert", "its cache is 16 bits: 8 ranks do not fit"
    assert "none of these GPUs" in output("fit", "glm-5", "--gpu", "H200", "--precision", "NVFP4")
    assert "glm-5 needs vLLM 0.16.0 or newer" in words(output("fit", "glm-5", "--engine-version", "0.15.0"))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["models", "gpt"], "model 'gpt' is not in the catalog: use one of glm-5, glm-5.2"),
        (["fit", "gpt"], "model 'gpt' is not in the catalog"),
        (["fit", "glm-5", "--gpu", "A100"], "--gpu is 'A100', which is not in the catalog: use one of H100"),
        (["fit", "glm-5", "--precision", "FP4"], "--precision is 'FP4': use one of NVFP4, FP8, BF16"),
        (["fit", "glm-5", "--engine", "vllm"], "--engine is 'vllm': use one of vLLM, SGLang"),
        (["fit", "glm-5", "--parallelism", "8"], "--parallelism: '8' is not a parallelism: write TP8, TP8+EP"),
        (["providers", "nobody"], "provider 'nobody' is not in the catalog: use one of openai"),
    ],
)
def test_a_mistake_ends_with_what_to_do(arguments: list[str], said: str) -> None:
    status, _, errors = run(*arguments)
    assert status == 2
    assert errors.startswith("spillway: ") and said in errors


def test_an_overlay_can_be_tried_out(tmp_path: Path) -> None:
    manifest = tmp_path / "overlay.yaml"
    manifest.write_text(
        "kind: ConfigMap\ndata:\n  models.yaml: |\n    glm-5: {checkpoints: {NVFP4: {gigabytes: 433}}}\n"
    )
    assert parsed("models", "--overlay", str(manifest))["glm-5"]["checkpoints"]["NVFP4"]["gigabytes"] == 433
    manifest.write_text("kind: ConfigMap\ndata:\n  models.yaml: |\n    glm-5: {size: 3}\n")
    assert "models.yaml: glm-5.size is not a field" in run("models", "--overlay", str(manifest))[2]
    manifest.write_text("models.yaml: {}")
    assert "is no ConfigMap" in run("models", "--overlay", str(manifest))[2]
