"""The pieces that write the chart, and what is committed of it. Helm itself: tests/integration/test_chart.py."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from e2e.cluster.settings import REPOSITORY
from e2e.packaging import __main__ as packaging
from e2e.packaging import chart, values
from e2e.packaging.compare import difference
from e2e.packaging.guide import blocks, guides
from e2e.packaging.holes import INDENT, Holes
from e2e.packaging.render import BASE, INSTALL, install_yaml, render, version, with_images
from e2e.packaging.values import image_of
from spillway.controller.settings import OperatorSettings

DIGEST = "sha256:" + "0123456789abcdef" * 4


def schema() -> Any:
    return json.loads((chart.CHART / "values.schema.json").read_text())


def test_what_is_committed_is_what_the_source_gives() -> None:
    base = render(BASE)
    assert INSTALL.read_text() == install_yaml(base)
    written = chart.files(base, packaging.components())
    present = {str(path.relative_to(chart.CHART)) for path in chart.CHART.rglob("*") if path.is_file()}
    assert present == written.keys()
    assert [name for name, text in written.items() if (chart.CHART / name).read_text() != text] == []


def test_the_default_values_meet_the_schema() -> None:
    defaults = yaml.safe_load((chart.CHART / "values.yaml").read_text())
    jsonschema.Draft7Validator.check_schema(schema())
    jsonschema.validate(defaults, schema())


def test_every_setting_of_the_operator_is_a_value_or_decided_by_the_manifests() -> None:
    settings = schema()["properties"]["operator"]["properties"]["settings"]
    assert settings["additionalProperties"] is False
    typed = {name.lower() for name in settings["properties"]} - {"loglevel"}
    fields = {name.replace("_", ""): name for name in OperatorSettings.model_fields}
    assert typed <= fields.keys()
    assert {fields[name] for name in fields.keys() - typed} == {
        "namespace",
        "pod_name",
        "prometheus_url",
        "bind_address",
        "ads_port",
        "health_port",
        "gateway_host",
        "gateway_metrics_port",
    }
    tick = settings["properties"]["tickSeconds"]
    assert (tick["exclusiveMinimum"], tick["maximum"], tick["default"]) == (0, 300, 10.0)


def test_every_value_is_told_in_the_readme() -> None:
    readme = (chart.CHART / "README.md").read_text()
    for value in values.table({o["metadata"]["name"].removeprefix("spillway-"): o for o in render(BASE)
                               if o["kind"] == "Deployment"}):  # fmt: skip
        assert f"| `{value.path}` |" in readme


@pytest.mark.parametrize(
    ("reference", "parts"),
    [
        ("spillway/operator:0.1.0", ("spillway/operator", "0.1.0", "")),
        ("localhost:5000/operator", ("localhost:5000/operator", "", "")),
        ("localhost:5000/operator:1", ("localhost:5000/operator", "1", "")),
        (f"ghcr.io/a/operator@{DIGEST}", ("ghcr.io/a/operator", "", DIGEST)),
        (f"ghcr.io/a/operator:1@{DIGEST}", ("ghcr.io/a/operator", "1", DIGEST)),
    ],
)
def test_parts_of_an_image_reference(reference: str, parts: tuple[str, str, str]) -> None:
    assert image_of(reference) == parts


def test_a_release_names_its_images(tmp_path: Path) -> None:
    image = f"ghcr.io/a/operator@{DIGEST}"
    base = with_images(render(BASE), {"operator": image})
    packaging.write(base, tmp_path / "install.yaml", tmp_path / "spillway")
    assert f"image: {image}\n" in (tmp_path / "install.yaml").read_text()
    found = yaml.safe_load((tmp_path / "spillway" / "values.yaml").read_text())
    assert found["operator"]["image"] == {
        "repository": "ghcr.io/a/operator", "tag": "", "digest": DIGEST, "pullPolicy": "IfNotPresent",
    }  # fmt: skip
    assert found["gateway"]["image"]["repository"] == "spillway/gateway"
    assert yaml.safe_load((tmp_path / "spillway" / "Chart.yaml").read_text())["appVersion"] == version()


# ---- holes -----------------------------------------------------------------------------------------------------------


def test_braces_of_the_source_are_not_helms() -> None:
    holes = Holes([{"text": "{{ $value }} stays", "number": 1}])
    holes.value(holes.objects[0], ["number"], "{{ .Values.number }}")
    assert holes.text() == "text: '{{ \"{{\" }} $value }} stays'\nnumber: {{ .Values.number }}\n"


def test_a_value_must_be_there_to_be_replaced() -> None:
    holes = Holes([{"spec": {}}])
    with pytest.raises(KeyError, match="replicas"):
        holes.value(holes.objects[0], ["spec", "replicas"], "{{ 1 }}")


def test_a_block_takes_the_place_of_an_entry() -> None:
    holes = Holes([{"spec": {"a": {"b": 1}, "c": 2}}])
    holes.block(holes.objects[0], ["spec", "a"], f"{{{{- with .x }}}}\na: {{{{ nindent {INDENT} }}}}\n{{{{- end }}}}")
    assert holes.text() == "spec:\n{{- with .x }}\n  a: {{ nindent 2 }}\n{{- end }}\n  c: 2\n"


def test_an_item_follows_a_list_and_a_condition_goes_round_all() -> None:
    holes = Holes([{"list": [{"a": 1}]}])
    holes.item(holes.objects[0], ["list"], "- b")
    assert holes.text(".on") == "{{- if .on }}\nlist:\n- a: 1\n- b\n{{- end }}\n"


def test_words_are_replaced_wherever_they_stand() -> None:
    holes = Holes([{"a": "here", "b": ["x.here.y", "other"]}])
    holes.everywhere({"here": ".there"})
    assert holes.text() == 'a: {{ .there }}\nb:\n- "x.{{ .there }}.y"\n- other\n'


def test_an_object_without_a_template_is_an_error() -> None:
    stray = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "stray"}}
    with pytest.raises(ValueError, match="stray"):
        chart.files([*render(BASE), stray], packaging.components())


def test_a_difference_is_seen_and_helms_own_labels_are_none() -> None:
    one = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a", "labels": {"x": "y"}}, "spec": {"z": 1}}
    labels = {"x": "y", "helm.sh/chart": "spillway-1", "app.kubernetes.io/managed-by": "Helm"}
    assert difference([one], [{**one, "metadata": {"name": "a", "labels": labels}}]) == ""
    assert "-  z: 1\n+  z: 2\n" in difference([one], [{**one, "spec": {"z": 2}}])
    assert "kind: Service" in difference([one], [])


# ---- the guide -------------------------------------------------------------------------------------------------------


def page(directory: Path, text: str) -> Path:
    path = directory / "page.md"
    path.write_text(text)
    return path


def test_blocks_of_a_guide_in_order(tmp_path: Path) -> None:
    found = page(
        tmp_path,
        "<!-- run: a b -->\n```bash\none\ntwo\n```\n```bash\nnot marked\n```\n"
        "1. step\n\n   <!-- run: a -->\n   ```console\n   $ three\n   its output\n   ```\n",
    )
    assert blocks(found, "a") == ["one\ntwo\n", "three\n"]
    assert blocks(found, "b") == ["one\ntwo\n"]
    assert guides(found) == {"a", "b"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("<!-- run: a -->\ntext\n", "page.md:1: no ```bash block"),
        ("<!-- run: a -->\n```yaml\nx: y\n```\n", "page.md:1: no ```bash block"),
        ("<!-- run: a -->\n```bash\nls\n", "page.md:2: the block has no end"),
        ("<!-- run: a -->", "page.md:1: no ```bash block"),
    ],
)
def test_a_marker_without_a_block_is_an_error(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        guides(page(tmp_path, text))


def test_a_guide_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(KeyError, match="it has a"):
        blocks(page(tmp_path, "<!-- run: a -->\n```bash\nls\n```\n"), "b")


def test_the_guides_of_the_install_page_name_files_that_exist() -> None:
    install = REPOSITORY / "docs" / "install.md"
    assert guides(install) >= {"kustomize", "helm", "keys", "model", "remove-kustomize", "remove-helm"}
    words = {word for guide in guides(install) for block in blocks(install, guide) for word in block.split()}
    named = {word for word in words if word.startswith(("manifests/", "crds"))}
    assert len(named) >= 5
    assert [name for name in named if not (REPOSITORY / name).exists()] == []
