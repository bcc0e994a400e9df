from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import kubernetes_validate
import pytest
import yaml
from pydantic import Field

from spillway.api import KINDS, InvalidSpec, Resource, parse
from spillway.api.__main__ import main
from spillway.api.crd import crd, crd_yaml
from spillway.api.examples import EXAMPLES
from spillway.api.resource import KubeModel
from spillway.api.structural import problems, structural_schema

ROOT = Path(__file__).parents[3]
BY_KIND: dict[str, type[Resource]] = {kind.definition.kind: kind for kind in KINDS}
SAMPLES = [
    path for path in sorted((ROOT / "manifests" / "samples").glob("*.yaml")) if "spillway.dev/" in path.read_text()
]


def test_committed_files_are_what_the_models_say(tmp_path: Path) -> None:
    main([str(tmp_path / "crds"), str(tmp_path / "api.md")])
    generated = {path.name: path.read_text(encoding="utf-8") for path in (tmp_path / "crds").iterdir()}
    committed = {path.name: path.read_text(encoding="utf-8") for path in (ROOT / "crds").glob("*.spillway.dev.yaml")}
    assert generated == committed, "run: make generate"
    document = (tmp_path / "api.md").read_text(encoding="utf-8")
    assert document == (ROOT / "docs" / "api.md").read_text(encoding="utf-8"), "run: make generate"


@pytest.mark.parametrize("kind", KINDS)
def test_the_reference_shows_valid_examples(kind: type[Resource]) -> None:
    obj = yaml.safe_load(EXAMPLES[kind.definition.kind])
    outcome = parse(kind, obj)
    assert not isinstance(outcome, InvalidSpec), outcome.message


@pytest.mark.parametrize("kind", KINDS)
def test_who_may_leave_a_field_out_reads_what_then_holds(kind: type[Resource]) -> None:
    spec = crd(kind)["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    assert list(_without_default(spec, "spec")) == []


def _without_default(schema: dict[str, Any], path: str) -> Iterator[str]:
    for name, child in schema.get("properties", {}).items():
        defaulted_object = isinstance(child.get("default"), dict)
        if name not in schema.get("required", ()) and "Default: " not in child["description"] and not defaulted_object:
            yield f"{path}.{name}"
        yield from _without_default(child.get("items", child), f"{path}.{name}")


@pytest.mark.parametrize("kind", KINDS)
def test_definitions_are_valid_kubernetes_objects(kind: type[Resource]) -> None:
    kubernetes_validate.validate(crd(kind), "1.34", strict=True)
    assert yaml.safe_load(crd_yaml(kind)) == crd(kind)


@pytest.mark.parametrize("kind", KINDS)
def test_names_columns_and_subresources(kind: type[Resource]) -> None:
    spec = crd(kind)["spec"]
    version = spec["versions"][0]
    assert spec["names"]["categories"] == ["spillway"]
    assert version["schema"]["openAPIV3Schema"]["properties"]["metadata"] == {"type": "object"}
    assert "status" in version["subresources"]
    assert ("scale" in version["subresources"]) == (kind.definition.kind == "MoEDeployment")
    assert any(column["type"] == "date" and column["name"] == "Age" for column in version["additionalPrinterColumns"])


@pytest.mark.parametrize("kind", KINDS)
def test_the_status_has_no_defaults(kind: type[Resource]) -> None:
    status = crd(kind)["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["status"]
    assert "default" not in _keywords(status)


def _keywords(schema: dict[str, Any]) -> set[str]:
    children = [*schema.get("properties", {}).values(), *([schema["items"]] if "items" in schema else [])]
    return set(schema).union(*(_keywords(child) for child in children)) if children else set(schema)


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.stem)
def test_samples_are_valid(path: Path) -> None:
    obj = yaml.safe_load(path.read_text(encoding="utf-8"))
    outcome = parse(BY_KIND[obj["kind"]], obj)
    assert not isinstance(outcome, InvalidSpec), outcome.message


def test_there_are_samples_of_every_kind() -> None:
    assert {yaml.safe_load(path.read_text(encoding="utf-8"))["kind"] for path in SAMPLES} == set(BY_KIND)


class Part(KubeModel):
    """A part."""

    number: int
    """A number."""


class Loose(KubeModel):
    """What a CRD must not hold."""

    text: str
    """Unbounded."""
    mapping: dict[str, str]
    """Unbounded."""
    entries: tuple[Part, ...] = ()
    """Unbounded, and without a list type."""
    either: Annotated[int | str, Field(description="A union.")] = 1
    bare: Annotated[int, Field(ge=0)] = 0


def test_the_check_finds_what_the_api_server_would_refuse() -> None:
    found = set(problems(structural_schema(Loose), "spec"))
    assert {
        "spec.text: string without maxLength",
        "spec.entries: list without maxItems",
        "spec.entries: list without x-kubernetes-list-type",
        "spec.either: keyword 'anyOf' is not allowed",
        "spec.either: no type",
        "spec.mapping: map without maxProperties",
        "spec.bare: no description",
    } <= found


def test_exclusive_bounds_and_nullable_fields_in_kubernetes_dialect() -> None:
    class Bounded(KubeModel):
        """Bounds."""

        share: Annotated[float, Field(gt=0, lt=1)] | None = None
        """A share."""

    share = structural_schema(Bounded)["properties"]["share"]
    assert share["minimum"] == 0 and share["exclusiveMinimum"] is True
    assert share["maximum"] == 1 and share["exclusiveMaximum"] is True
    assert "anyOf" not in share and "default" not in share
