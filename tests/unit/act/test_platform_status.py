"""Status of pools, providers and policies."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from spillway.act.platform_status import of_invalid, of_policy, of_pool, of_provider
from spillway.api import (
    CostPolicy,
    ExternalProvider,
    ExternalProviderStatus,
    GPUPool,
    InvalidSpec,
    Reason,
    dump,
    find_condition,
    parse,
)
from spillway.api.effect import SPEC_NOT_YET
from spillway.catalog import load
from spillway.decide.outcome import PoolPlan
from spillway.ledger import BudgetStatus, Grant
from spillway.ledger import HourStatus as Hour
from spillway.observe import Objects
from spillway.observe.snapshot import ProviderHealth
from tests.unit.api.examples import example
from tests.unit.observe.cluster_objects import node, pod

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
CATALOG = load()


def pool(**changes: Any) -> GPUPool:
    parsed = parse(GPUPool, example("GPUPool", "blackwell-b200", **changes))
    assert isinstance(parsed, GPUPool)
    return parsed


def provider(**changes: Any) -> ExternalProvider:
    parsed = parse(ExternalProvider, example("ExternalProvider", "zai", **changes))
    assert isinstance(parsed, ExternalProvider)
    return parsed


def policy(**changes: Any) -> CostPolicy:
    parsed = parse(CostPolicy, example("CostPolicy", "team", **changes))
    assert isinstance(parsed, CostPolicy)
    return parsed


def budget(spent: str, exhausted: bool = False) -> BudgetStatus:
    amount, used = Decimal(400), Decimal(spent)
    return BudgetStatus(
        policy="team",
        name="day",
        scope="External",
        period="Day",
        period_start=NOW - timedelta(hours=12),
        resets_at=NOW + timedelta(hours=12),
        amount=amount,
        spent=used,
        external=used,
        gpu=Decimal(0),
        estimated=Decimal(0),
        reserved=Decimal(0),
        remaining=max(Decimal(0), amount - used),
        burn_per_hour=Decimal("1.239"),
        exhausted=exhausted,
        exhausted_at=NOW if exhausted else NOW + timedelta(hours=2),
        by_deployment=(),
    )


def objects(*items: dict[str, Any]) -> Objects:
    found = Objects()
    for item in items:
        meta = item["metadata"]
        store = found.nodes if item["kind"] == "Node" else found.pods
        store[f"{meta['namespace']}/{meta['name']}" if "namespace" in meta else meta["name"]] = item
    return found


def test_pool_counts_gpus_by_holder() -> None:
    cluster = objects(
        node("n1"),
        node("n2", ready=False),
        pod("ours", node="n1", gpus=4),
        pod("foreign", node="n1", gpus=2, labels={}),
        pod("waiting", node=None, gpus=4),
        pod("leaving-before-it-came", node=None, gpus=4, deleted=True),
        pod("finished", node="n1", gpus=2, phase="Succeeded"),
    )
    status = of_pool(pool(), cluster, None, CATALOG, NOW)
    assert (status.allocatable_gpus, status.used_gpus) == (8, 6)
    assert (status.spillway_gpus, status.pending_gpus) == (4, 4)
    assert status.cost_per_hour == Decimal("16.80")
    assert set(status.precisions) >= {"NVFP4", "FP8"}
    dump(status)


@pytest.mark.parametrize(
    ("changes", "nodes", "expected"),
    [
        ({}, True, ("True", Reason.AS_EXPECTED)),
        ({}, False, ("False", Reason.NO_NODES)),
        ({"capacity__maxGPUs": 32}, False, ("True", Reason.AS_EXPECTED)),
        ({"gpu__product": "B2000"}, True, ("False", Reason.UNKNOWN_GPU)),
    ],
)
def test_pool_readiness(changes: dict[str, Any], nodes: bool, expected: tuple[str, str]) -> None:
    status = of_pool(pool(**changes), objects(*([node("n1")] if nodes else [])), None, CATALOG, NOW)
    ready = find_condition(status.conditions, "Ready")
    assert ready is not None
    assert (ready.status, ready.reason) == expected


def test_pool_out_of_capacity_says_when_it_is_asked_again() -> None:
    plan = PoolPlan("blackwell-b200", NOW.timestamp() - 60.5, NOW.timestamp() + 600)
    status = of_pool(pool(), objects(node("n1")), plan, CATALOG, NOW)
    told = find_condition(status.conditions, "OutOfCapacity")
    assert told is not None
    assert (told.status, told.reason) == ("True", Reason.POOL_OUT_OF_CAPACITY)
    assert "12:10:00 UTC" in told.message
    assert status.out_of_capacity_since == NOW - timedelta(seconds=61)
    again = of_pool(pool(), objects(node("n1")), PoolPlan("blackwell-b200", None, None), CATALOG, NOW)
    assert again.out_of_capacity_since is None


CHAT: dict[str, Any] = {"allowedNamespaces": ["chat"]}
FINE = {"Ready": "True", "Healthy": "True", "Credentials": "True"}
NO_KEY = (Reason.MISSING_KEY, "no key")


@pytest.mark.parametrize(
    ("changes", "blocked", "failing", "expected"),
    [
        (CHAT, None, "", FINE),
        ({}, None, "", FINE | {"Ready": "False"}),
        (CHAT | {"suspend": True}, None, "", FINE | {"Ready": "False"}),
        (CHAT, NO_KEY, "", FINE | {"Ready": "False", "Credentials": "False"}),
        (CHAT, None, "9 of 10 failed", FINE | {"Healthy": "False"}),
        (CHAT, NO_KEY, "9 of 10 failed", dict.fromkeys(FINE, "False")),
    ],
)
def test_provider(
    changes: dict[str, Any], blocked: tuple[str, str] | None, failing: str, expected: dict[str, str]
) -> None:
    health = ProviderHealth(
        blocked={"zai": blocked} if blocked else {},
        unwell={"zai": (Reason.PROVIDER_ERRORS, failing)} if failing else {},
        error_rates={"zai": 0.123},
        first_token_seconds={"zai": 0.4567},
    )
    status = of_provider(provider(**changes), health, Decimal("1.239"), NOW)
    assert status.time_to_first_token_seconds == 0.46
    assert {c.type: c.status for c in status.conditions} == expected
    assert (status.spent_today, status.error_rate) == (Decimal("1.24"), 0.12)


@pytest.mark.parametrize(
    ("changes", "blocked", "reason"),
    [
        ({"suspend": True}, NO_KEY, Reason.SUSPENDED),
        ({}, NO_KEY, Reason.MISSING_KEY),
        ({}, None, Reason.NAMESPACE_NOT_ALLOWED),
        (CHAT, None, Reason.AS_EXPECTED),
    ],
)
def test_provider_reason_is_what_comes_first(
    changes: dict[str, Any], blocked: tuple[str, str] | None, reason: str
) -> None:
    health = ProviderHealth(blocked={"zai": blocked} if blocked else {})
    ready = find_condition(of_provider(provider(**changes), health, Decimal(0), NOW).conditions, "Ready")
    assert ready is not None
    assert ready.reason == reason


@pytest.mark.parametrize("reason", [Reason.KEY_REFUSED, Reason.QUOTA_SPENT])
@pytest.mark.parametrize("on_trial", [False, True])
def test_a_disabled_provider_says_so_until_it_answers(reason: str, on_trial: bool) -> None:
    health = ProviderHealth(
        blocked={} if on_trial else {"zai": (reason, "what to do")},
        disabled={"zai": (reason, "what to do", on_trial)},
        unwell={"zai": (Reason.PROVIDER_ERRORS, "all fail")},
    )
    status = of_provider(provider(**CHAT), health, Decimal(0), NOW)
    found = {c.type: (c.status, c.reason) for c in status.conditions}
    assert found["Ready"] == (("True", Reason.ON_TRIAL) if on_trial else ("False", reason))
    assert found["Healthy"] == ("False", reason)
    refused = reason == Reason.KEY_REFUSED
    assert found["Credentials"] == (("False", reason) if refused else ("True", Reason.KEY_PRESENT))
    healthy = find_condition(status.conditions, "Healthy")
    assert healthy is not None and healthy.message == "what to do"
    assert status.error_rate is None and status.time_to_first_token_seconds is None


def test_policy_shows_its_budgets_and_their_bound() -> None:
    bound = Grant("team", "day", Decimal(4), Decimal(0), Decimal(0), Decimal(0), Decimal(0))
    status = of_policy(policy(), [budget("12.34567")], {("team", "day"): bound}, NOW)
    shown = status.budgets[0]
    assert (shown.spent, shown.remaining, shown.bound) == (Decimal("12.3457"), Decimal("387.6543"), Decimal(4))
    assert shown.burn_per_hour == Decimal("1.24")
    assert shown.exhausted_at is None, "a forecast is not an event that happened"
    within = find_condition(status.conditions, "WithinBudget")
    assert within is not None
    assert within.status == "True"


@pytest.mark.parametrize(
    ("suspend", "exhausted", "expected"),
    [
        (False, True, ("False", Reason.BUDGET_SPENT)),
        (True, False, ("True", Reason.SUSPENDED)),
        (True, True, ("True", Reason.SUSPENDED)),
    ],
)
def test_policy_within_budget(suspend: bool, exhausted: bool, expected: tuple[str, str]) -> None:
    status = of_policy(policy(suspend=suspend), [budget("400.02" if exhausted else "1", exhausted)], {}, NOW)
    within = find_condition(status.conditions, "WithinBudget")
    assert within is not None
    assert (within.status, within.reason) == expected
    if expected[1] == Reason.BUDGET_SPENT:
        assert "$400.02 of $400" in within.message
        assert "2026-11-24 00:00 UTC" in within.message
    assert status.budgets[0].bound == 0


def test_policy_forecast_says_which_budget_ends_before_its_period() -> None:
    lasting = of_policy(policy(), [replace(budget("1"), exhausted_at=None)], {}, NOW)
    ending = of_policy(policy(), [budget("1")], {}, NOW)
    for status, expected in ((lasting, ("True", Reason.LASTS)), (ending, ("False", Reason.RUNS_OUT))):
        forecast = find_condition(status.conditions, "Forecast")
        assert forecast is not None and (forecast.status, forecast.reason) == expected
    assert forecast is not None and "until day: 2026-11-23" in forecast.message


def test_what_a_policy_on_trial_would_stop_is_told() -> None:
    spent = of_policy(policy(enforcement="DryRun"), [budget("400", exhausted=True)], {}, NOW)
    within = find_condition(spent.conditions, "WithinBudget")
    assert within is not None and (within.status, within.reason) == ("False", Reason.BUDGET_SPENT)
    assert within.message.endswith("(enforcement DryRun: it would stop spill, and stops nothing)")


def test_the_last_hour_is_told_where_it_is_limited() -> None:
    usual = of_policy(policy(), [budget("1")], {}, NOW)
    assert usual.last_hour is None
    within = Hour(Decimal(60), Decimal("12.34567"), Decimal("47.65433"), None)
    status = of_policy(policy(), [budget("1")], {}, NOW, within)
    assert status.last_hour is not None
    assert (status.last_hour.amount, status.last_hour.spent) == (Decimal(60), Decimal("12.3457"))
    found = find_condition(status.conditions, "WithinBudget")
    assert found is not None and found.status == "True"
    spent = of_policy(policy(), [budget("1")], {}, NOW, Hour(Decimal(60), Decimal("60.1"), Decimal(0), NOW))
    found = find_condition(spent.conditions, "WithinBudget")
    assert found is not None and (found.status, found.reason) == ("False", Reason.BUDGET_SPENT)
    assert "$60.10 of $60 spent in the last 60 minutes, opens again" in found.message
    assert spent.last_hour is not None and spent.last_hour.opens_at == NOW


def test_fields_that_nothing_acts_on_yet_are_told_until_they_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SPEC_NOT_YET, "CostPolicy", {"spec.spill.maxShare": None})
    asked = of_policy(policy(spill__maxShare="0.5"), [budget("1")], {}, NOW)
    told = find_condition(asked.conditions, "NotActedOn")
    assert told is not None and told.status == "True"
    assert told.message.startswith("spec.spill.maxShare is accepted, but this version")
    gone = of_policy(policy().model_copy(update={"status": asked}), [budget("1")], {}, NOW)
    told = find_condition(gone.conditions, "NotActedOn")
    assert told is not None and told.status == "False"
    assert find_condition(of_policy(policy(), [budget("1")], {}, NOW).conditions, "NotActedOn") is None


def test_a_status_that_another_version_wrote_is_no_obstacle() -> None:
    old = {"metadata": {"name": "zai"}, "spec": {}, "status": {"spentToday": {"usd": 3}}}
    invalid = parse(ExternalProvider, old)
    assert isinstance(invalid, InvalidSpec)
    ready = find_condition(of_invalid(ExternalProvider, invalid, old, NOW).conditions, "Ready")
    assert ready is not None and ready.reason == Reason.INVALID_SPEC


def test_an_object_that_cannot_be_used_says_which_field() -> None:
    old = {"metadata": {"name": "zai", "generation": 4}, "spec": {"baseURL": "ftp://x"}, "status": {"spentToday": "3"}}
    invalid = parse(ExternalProvider, old)
    assert isinstance(invalid, InvalidSpec)
    status = of_invalid(ExternalProvider, invalid, old, NOW)
    told = find_condition(status.conditions, "Ready")
    assert told is not None
    assert (told.status, told.reason, told.observed_generation) == ("False", Reason.INVALID_SPEC, 4)
    assert "spec.baseURL is 'ftp://x'" in told.message
    assert isinstance(status, ExternalProviderStatus)
    assert status.spent_today == Decimal(3), "what was seen before stays"
