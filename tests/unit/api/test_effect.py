"""What owners are told of fields that nothing acts on yet."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from spillway.api import KINDS, InvalidSpec, Resource, not_acted_on, not_acted_on_words, parse
from spillway.api.crd import crd
from spillway.api.effect import SPEC_NOT_YET, STATUS_NOT_YET, attribute
from spillway.api.resource import KubeModel
from tests.unit.api.examples import ONE_BUDGET, ONE_MODEL, SMALLEST, example
from tests.unit.api.strategies import nested

OPERATOR = Path(__file__).parents[3] / "operator" / "spillway"
BY_KIND: dict[str, type[Resource]] = {kind.definition.kind: kind for kind in KINDS}


TOP_UP = {"amount": "5", "reason": "launch", "until": "2026-12-01T00:00:00Z"}


def told(kind: str, **changes: Any) -> tuple[str, ...]:
    outcome = parse(BY_KIND[kind], example(kind, **changes))
    assert not isinstance(outcome, InvalidSpec), outcome.message
    return not_acted_on(outcome)


@pytest.mark.parametrize("kind", SMALLEST)
def test_who_asks_for_nothing_is_told_nothing(kind: str) -> None:
    assert told(kind) == ()


@pytest.mark.parametrize("kind", BY_KIND)
def test_paths_are_those_of_the_schema(kind: str) -> None:
    schema = crd(BY_KIND[kind])["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    for path in (*SPEC_NOT_YET[kind], *STATUS_NOT_YET[kind]):
        node = schema
        for step in path.split("."):
            node = node["properties"][step.removesuffix("[]")]
            node = node["items"] if step.endswith("[]") else node


@pytest.mark.parametrize("kind", BY_KIND)
def test_what_the_operator_reads_is_no_longer_listed(kind: str) -> None:
    """Whoever makes a field act says so by deleting its line."""
    code = "".join(path.read_text(encoding="utf-8") for path in OPERATOR.rglob("*.py") if path.parent.name != "api")
    for path in SPEC_NOT_YET[kind]:
        owner: type[KubeModel] = BY_KIND[kind]
        names = []
        for step in path.split("."):
            names.append(attribute(owner, step.removesuffix("[]")))
            owner = nested(owner.model_fields[names[-1]].annotation) or owner
        read = ".".join(names[-3:] if names[-3] == "spec" else names[-2:]) if len(names) > 2 else ".".join(names)
        assert not re.search(rf"\b{re.escape(read)}\b", code), f"{path} is read as {read}: delete it from api/effect.py"


@pytest.mark.parametrize(
    ("kind", "changes", "path"),
    [
        ("MoEDeployment", {"spill__maxShare": "0.5"}, "spec.spill.maxShare"),
        ("MoEDeployment", {"spill__holdSeconds": 0}, "spec.spill.holdSeconds"),
        ("MoEDeployment", {"slo__timeToFirstToken": "15s"}, "spec.slo.timeToFirstToken"),
        (
            "ExternalProvider",
            {"models": [ONE_MODEL, {**ONE_MODEL, "name": "b", "verbosity": "2"}]},
            "spec.models[].verbosity",
        ),
        ("ExternalProvider", {"timeouts__connect": "2s"}, "spec.timeouts.connect"),
        (
            "CostPolicy",
            {
                "budgets": [
                    {**ONE_BUDGET, "topUps": [{"amount": "5", "reason": "launch", "until": "2026-12-01T00:00:00Z"}]}
                ]
            },
            "spec.budgets[].topUps",
        ),
        ("CostPolicy", {"enforcement": "DryRun"}, "spec.enforcement"),
    ],
)
def test_a_field_without_effect_is_named(kind: str, changes: dict[str, Any], path: str) -> None:
    assert told(kind, **changes) == ((path,) if path in SPEC_NOT_YET[kind] else ())


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("MoEDeployment", {"balancing": "LeastRequest"}),
        ("MoEDeployment", {"spill__when": ["Rollout", "Unavailable", "NoCapacity", "ColdStart", "Saturated"]}),
        ("CostPolicy", {"pacing": "None", "enforcement": "Enforce"}),
    ],
)
def test_asking_for_what_happens_anyway_is_no_news(kind: str, changes: dict[str, Any]) -> None:
    assert told(kind, **changes) == ()


def test_words_name_the_fields() -> None:
    assert re.match(r"spec.routes is accepted, .* does not act on it yet$", not_acted_on_words(("spec.routes",)))
    assert "spec.routes, spec.hints are accepted" in not_acted_on_words(("spec.routes", "spec.hints"))
