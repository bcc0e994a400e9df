from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from spillway.api import MoEDeployment, parse
from spillway.catalog import FILES, PRECISIONS, CatalogError, ModelFacts, load, overlaid

NEW_MODEL = """
kimi-k3:
  parameters_billion: {total: 1000, active: 32}
  context_length: 262144
  kv_bytes_per_token: {BF16: 70272}
  checkpoints:
    FP8: {uri: "hf://moonshotai/Kimi-K3", gigabytes: 1010, dense_gigabytes: 15}
  engines: {vLLM: {}}
"""


def problems(**files: str) -> tuple[str, ...]:
    with pytest.raises(CatalogError) as caught:
        overlaid({f"{name}.yaml": text for name, text in files.items()})
    return caught.value.problems


def test_nothing_changes_nothing() -> None:
    assert overlaid({}) == overlaid(dict.fromkeys(FILES, "")) == load()


def test_a_new_model_is_added_and_the_others_stay() -> None:
    catalog = overlaid({"models.yaml": NEW_MODEL})
    assert set(catalog.models) == {*load().models, "kimi-k3"}
    assert catalog.models["kimi-k3"].checkpoints["FP8"].gigabytes == 1010
    assert catalog.models["glm-5"] == load().models["glm-5"]


def test_one_number_is_corrected_and_its_neighbours_stay() -> None:
    text = "glm-5: {checkpoints: {NVFP4: {gigabytes: 433}}, parallelism: {NVFP4: {B300: TP2+EP}}}"
    changed, before = overlaid({"models.yaml": text}).models["glm-5"], load().models["glm-5"]
    assert changed.checkpoints["NVFP4"].gigabytes == 433
    assert changed.checkpoints["NVFP4"].uri == before.checkpoints["NVFP4"].uri
    assert {gpu: str(one) for gpu, one in changed.parallelism["NVFP4"].items()} == {
        "B200": "TP4", "GB200": "TP4", "GB300": "TP4", "B300": "TP2+EP",
    }  # fmt: skip


def test_lists_are_replaced_and_null_removes() -> None:
    catalog = overlaid(
        {
            "engines.yaml": "SGLang: {rules: [], version: 0.6.0}",
            "providers.yaml": "openai: null",
            "models.yaml": "glm-5: {checkpoints: {BF16: null}, parallelism: {BF16: null}}",
        }
    )
    assert (catalog.engines["SGLang"].rules, catalog.engines["SGLang"].version) == ((), "0.6.0")
    assert "openai" not in catalog.providers
    assert set(catalog.models["glm-5"].checkpoints) == {"NVFP4", "FP8"}


@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        ("models", "{", "models.yaml is not YAML"),
        ("models", "[1, 2]", "models.yaml is [1, 2]: write a map of entries by name"),
        ("models", "glm-5: big", "models.yaml: glm-5 is 'big': write a map of its fields"),
        ("prices", "a: b", "prices.yaml is not a file of the catalog: name the key one of models.yaml, gpus.yaml"),
        (
            "models",
            "glm-5: {size: 3}",
            "models.yaml: glm-5.size is not a field: use one of attention_heads, checkpoints",
        ),
        ("models", "new: {context_length: 1}", "models.yaml: new.checkpoints is missing: set it"),
        (
            "models",
            "glm-5: {checkpoints: {FP8: {gigabytes: -1}}}",
            "models.yaml: glm-5.checkpoints.FP8.gigabytes is -1: input should be greater than 0",
        ),
        (
            "models",
            "glm-5: {checkpoints: {FP8: {dense_gigabytes: 900}}}",
            "dense_gigabytes is 900 and gigabytes is 750: it is a part of them, lower it",
        ),
        (
            "models",
            "glm-5: {parallelism: {FP8: {H200: eight}}}",
            "models.yaml: glm-5.parallelism.FP8.H200 is 'eight': 'eight' is not a parallelism: write TP8, TP8+EP",
        ),
        (
            "models",
            "glm-5: {parallelism: {FP8: {A100: TP8}}}",
            "models.yaml: glm-5.parallelism.FP8.A100 is a GPU that gpus.yaml does not have: use one of H100, H200",
        ),
        (
            "models",
            "glm-5: {checkpoints: {BF16: null}}",
            "glm-5.parallelism.BF16 has no checkpoint: add checkpoints.BF16",
        ),
        ("models", "glm-5: {kv_bytes_per_token: {BF16: null}}", "kv_bytes_per_token has no BF16"),
        ("models", "glm-5: {parameters_billion: {active: 800}}", "parameters_billion.active is more than total"),
        ("gpus", "B200: {compute_capability: ten}", "gpus.yaml: B200.compute_capability is 'ten'"),
        ("gpus", "B200: null", "which gpus.yaml does not have"),
        ("engines", "vLLM: {version: newest}", "engines.yaml: vLLM.version is 'newest'"),
        ("engines", "vLLM: null", "engines.yaml: vLLM is missing: both engines must have an entry"),
        ("engines", "TGI: {version: 1.0.0, image: a}", "engines.yaml: TGI is not an engine: use one of vLLM, SGLang"),
        ("engines", "vLLM: {image: 'a:{tag}'}", "only {version} may stand in braces"),
        ("providers", "zai: {models: {glm-5: {input: free}}}", "providers.yaml: zai.models.glm-5.input is 'free'"),
        ("providers", "zai: {base_url: 'http://a'}", "providers.yaml: zai.base_url is 'http://a'"),
        ("providers", "zai: {models: {x: {input: 1, output: 2, catalog_model: y}}}", "catalog_model is 'y', which"),
    ],
)
def test_a_mistake_names_file_entry_field_value_and_fix(file: str, text: str, said: str) -> None:
    assert any(said in problem for problem in problems(**{file: text})), problems(**{file: text})


def test_every_mistake_is_told_at_once() -> None:
    found = problems(models="glm-5: {size: 3}\nglm-5.2: {context_length: none}", gpus="B200: {memory_gb: 0}")
    assert len(found) == 3


def test_the_example_in_the_docs_is_taken_as_it_stands() -> None:
    page = (Path(__file__).parents[3] / "docs/models.md").read_text(encoding="utf-8")
    manifests = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)]
    data = next(manifest["data"] for manifest in manifests if manifest.get("kind") == "ConfigMap")
    catalog = overlaid(data)
    assert str(catalog.models["own-moe"].parallelism["FP8"]["H100"]) == "TP32+EP on 4 nodes"
    assert catalog.gpus["B200"].memory_gb == 178
    profile = next(manifest["spec"] for manifest in manifests if "spec" in manifest)
    moe = parse(MoEDeployment, {"metadata": {"name": "own", "namespace": "chat"}, "spec": profile})
    assert isinstance(moe, MoEDeployment), moe
    assert isinstance(load().model(moe), ModelFacts)


def test_the_table_in_the_docs_is_the_catalog() -> None:
    page = (Path(__file__).parents[3] / "docs/models.md").read_text(encoding="utf-8")
    for model in load().models.values():
        parameters = model.parameters_billion
        sizes = ", ".join(f"{p} {model.checkpoints[p].gigabytes:.0f}" for p in PRECISIONS if p in model.checkpoints)
        row = (
            f"| `{model.name}` | {parameters.total:g}B, {parameters.active:g}B "
            f"({100 * parameters.active / parameters.total:.1f} %) | {model.context_length:,} | {sizes} "
            f"| {model.engines['vLLM'].minimum_version} |"
        )
        assert row in page, row
        assert model.engines["SGLang"].minimum_version is None, "the page says that none is known"


@given(
    st.dictionaries(
        st.sampled_from(FILES),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.text("ab-5{", max_size=5),
            lambda inner: (
                st.lists(inner, max_size=2)
                | st.dictionaries(
                    st.sampled_from(["glm-5", "B200", "vLLM", "zai", "models", "rules"]), inner, max_size=3
                )
            ),
            max_leaves=6,
        ),
    )
)
def test_any_overlay_is_taken_or_refused_with_words(data: dict[str, object]) -> None:
    try:
        catalog = overlaid({name: yaml.safe_dump(value) for name, value in data.items()})
    except CatalogError as error:
        assert all(problem for problem in error.problems)
    else:
        assert set(catalog.engines) == {"vLLM", "SGLang"}
