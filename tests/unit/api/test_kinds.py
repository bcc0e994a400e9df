from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spillway.api import (
    KINDS,
    CostPolicy,
    DecisionStatus,
    ExternalProvider,
    GPUPool,
    InvalidSpec,
    MoEDeployment,
    MoEDeploymentStatus,
    Resource,
    dump,
    parse,
)
from spillway.api.crd import crd
from tests.unit.api.examples import SMALLEST, example
from tests.unit.api.rules import EACH_RULE, IMMUTABLE, RULES, RuleExample, messages
from tests.unit.api.strategies import objects

BY_KIND: dict[str, type[Resource]] = {kind.definition.kind: kind for kind in KINDS}


def parsed(kind: str, **changes: Any) -> Any:
    outcome = parse(BY_KIND[kind], example(kind, **changes))
    assert not isinstance(outcome, InvalidSpec), outcome.message
    return outcome


def refused(kind: str, **changes: Any) -> str:
    outcome = parse(BY_KIND[kind], example(kind, **changes))
    assert isinstance(outcome, InvalidSpec)
    return outcome.message


def schema(kind: str) -> dict[str, Any]:
    versions = crd(BY_KIND[kind])["spec"]["versions"]
    return dict(versions[0]["schema"]["openAPIV3Schema"])


@pytest.mark.parametrize("kind", KINDS, ids=BY_KIND)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
@given(data=st.data())
def test_models_and_schemas_agree_and_survive_a_round_trip(kind: type[Resource], data: st.DataObject) -> None:
    obj = data.draw(objects(kind))
    # Draft 4 is what OpenAPI 3.0 shares: exclusiveMinimum is a boolean there.
    validator = jsonschema.Draft4Validator(schema(kind.definition.kind))
    validator.validate(obj)
    model = parse(kind, obj)
    assert not isinstance(model, InvalidSpec), model.message
    again = {**obj, "spec": dump(model)["spec"], "status": dump(model)["status"]}
    validator.validate(again)
    assert parse(kind, again) == model


@pytest.mark.parametrize("kind", SMALLEST)
def test_the_smallest_object_needs_nothing_else(kind: str) -> None:
    parsed(kind)


def test_defaults_are_those_of_the_design() -> None:
    spec = parse(MoEDeployment, example("MoEDeployment")).spec  # type: ignore[union-attr]
    assert (spec.replicas, spec.min_replicas, spec.max_replicas) == (0, 1, 8)
    assert (spec.engine.name, spec.slo.queue_seconds) == ("vLLM", 10)
    assert spec.spill.providers == ()


def test_defaults_of_the_schema_are_those_of_the_models() -> None:
    for kind in BY_KIND:
        model = parsed(kind)
        filled = _with_defaults(example(kind)["spec"], schema(kind)["properties"]["spec"])
        assert parse(BY_KIND[kind], {**example(kind), "spec": filled}) == model


def _with_defaults(value: Any, node: dict[str, Any]) -> Any:
    """Defaulting as the API server does it."""
    if isinstance(value, dict) and "properties" in node:
        value = dict(value)
        for name, child in node["properties"].items():
            if name not in value and "default" in child:
                value[name] = child["default"]
            if name in value:
                value[name] = _with_defaults(value[name], child)
    if isinstance(value, list):
        return [_with_defaults(item, node["items"]) for item in value]
    return value


def test_unknown_fields_of_a_newer_schema_are_ignored() -> None:
    assert parsed("MoEDeployment", mood={"colour": "blue"}, slo__fairness="0.5").spec.slo.queue_seconds == 10


def test_a_status_of_another_schema_counts_as_empty() -> None:
    obj = {**example("MoEDeployment"), "status": {"replicas": "many"}}
    outcome = parse(MoEDeployment, obj)
    assert isinstance(outcome, MoEDeployment)
    assert outcome.status == MoEDeploymentStatus()


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("MoEDeployment", {"model": {}}, "spec.model.name is missing: set it"),
        ("MoEDeployment", {"engine__name": "TGI"}, "spec.engine.name is 'TGI': Input should be 'vLLM' or 'SGLang'"),
        (
            "MoEDeployment",
            {"minReplicas": 9},
            "minReplicas is 9 and maxReplicas is 8: lower minReplicas or raise maxReplicas",
        ),
        (
            "MoEDeployment",
            {"engine__extraArgs": ["--port=1"]},
            "extraArgs has --port, which Spillway sets itself: remove it",
        ),
        ("MoEDeployment", {"name": "a.b"}, "metadata.name is 'a.b': use at most 40 lower-case letters"),
        ("MoEDeployment", {"name": "x" * 41}, "use at most 40"),
        (
            "GPUPool",
            {"price__perGPUHour": 4.2},
            "spec.price.perGPUHour is 4.2: 4.2 is a float: write US dollars as a string",
        ),
        ("GPUPool", {"price__perGPUHour": "0"}, "greater than 0"),
        ("GPUPool", {"capacity__provisioningTimeout": "15"}, "write a number with a unit, such as 10s, 15m or 6m10s"),
        ("GPUPool", {"tolerations": [{"operator": "Equal"}]}, "operator Equal needs a key"),
        ("ExternalProvider", {"baseURL": "http://api.z.ai"}, "use https:// or set tls.insecure to true"),
        ("ExternalProvider", {"models": []}, "spec.models: Tuple should have at least 1 item"),
        (
            "CostPolicy",
            {"timeZone": "Mars/Olympus"},
            "spec.timeZone is 'Mars/Olympus': no such time zone: use an IANA name",
        ),
        ("CostPolicy", {"selector": {}}, "selects no namespace: name namespaces or give a namespaceSelector"),
        ("CostPolicy", {"selector": None}, "spec.selector"),
        (
            "CostPolicy",
            {
                "budgets": [
                    {
                        "name": "b",
                        "period": "Day",
                        "amount": "1",
                        "topUps": [{"amount": "1", "reason": "r", "until": "0001-01-01T00:00:00+14:00"}],
                    }
                ]
            },
            "is out of range in UTC: write a year from 1 to 9999",
        ),
    ],
)
def test_invalid_specs_name_field_value_and_way_out(kind: str, changes: dict[str, Any], message: str) -> None:
    assert message in refused(kind, **changes)


@EACH_RULE
def test_models_accept_and_refuse_what_the_rules_do(rule: RuleExample) -> None:
    good, bad = rule.objects
    outcome = parse(BY_KIND[rule.kind], good)
    assert not isinstance(outcome, InvalidSpec), outcome.message
    assert isinstance(parse(BY_KIND[rule.kind], bad), InvalidSpec)


@pytest.mark.parametrize("kind", BY_KIND)
def test_every_rule_has_its_two_examples(kind: str) -> None:
    shown = [rule.message for rule in RULES if rule.kind == kind]
    unseen = {message for message in messages(crd(BY_KIND[kind])) if not any(part in message for part in shown)}
    assert unseen == IMMUTABLE.get(kind, set()), "the immutable fields have tests of their own"


def test_every_mistake_is_named_at_once() -> None:
    outcome = parse(MoEDeployment, example("MoEDeployment", name="A", engine__name="TGI", slo__queueSeconds=-1))
    assert isinstance(outcome, InvalidSpec)
    assert len(outcome.messages) == 3


def test_an_object_without_a_spec_is_invalid_not_an_error() -> None:
    assert isinstance(parse(GPUPool, {"metadata": {"name": "x"}}), InvalidSpec)


def test_money_and_durations_are_numbers_in_python() -> None:
    pool = parsed("GPUPool", price__minimumBilling="6m10s").spec
    assert pool.price.usd_per_gpu_hour == Decimal("4.20")
    assert pool.price.minimum_billing_seconds == 370.0
    assert pool.capacity.provisioning_timeout_seconds == 900.0


def test_who_may_use_what() -> None:
    pool = parse(GPUPool, example("GPUPool"))
    closed = parse(GPUPool, example("GPUPool", allowedNamespaces=[]))
    provider = parse(ExternalProvider, example("ExternalProvider"))
    assert isinstance(pool, GPUPool) and isinstance(closed, GPUPool) and isinstance(provider, ExternalProvider)
    assert pool.spec.allows("chat"), "pools are open unless they name namespaces"
    assert not closed.spec.allows("chat")
    assert not provider.spec.allows("chat"), "providers are closed unless they name namespaces"


def test_policies_select_by_name_or_by_all_labels() -> None:
    selector = {"namespaces": ["chat"], "namespaceSelector": {"matchLabels": {"team": "assist", "tier": "1"}}}
    policy = parse(CostPolicy, example("CostPolicy", selector=selector))
    assert isinstance(policy, CostPolicy)
    assert policy.spec.selects("chat", {})
    assert policy.spec.selects("search", {"team": "assist", "tier": "1", "more": "x"})
    assert not policy.spec.selects("search", {"team": "assist"})


def test_annotations_pause_and_dry_run() -> None:
    obj = example("MoEDeployment")
    obj["metadata"]["annotations"] = {"spillway.dev/paused": "true", "spillway.dev/dry-run": "false"}
    outcome = parse(MoEDeployment, obj)
    assert isinstance(outcome, MoEDeployment)
    assert outcome.paused and not outcome.dry_run


def test_status_is_written_in_kubernetes_spelling() -> None:
    decision = DecisionStatus(
        time=datetime(2026, 11, 23, 12, 0, 0, 999, tzinfo=UTC),
        replicas_before=2,
        replicas_after=3,
        reason="DemandRose",
        message="2→3",
        dollars_per_hour=Decimal("-24.2"),
    )
    assert dump(decision) == {
        "time": "2026-11-23T12:00:00Z",
        "from": 2,
        "to": 3,
        "variant": "",
        "reason": "DemandRose",
        "message": "2→3",
        "dollarsPerHour": "-24.20",
    }
