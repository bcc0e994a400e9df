"""What spec.routes sends away: permission, caps and the words of a refusal."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

import pytest

from spillway.decide.memory import Memory
from spillway.decide.outcome import RoutePlan
from spillway.decide.planner import plan
from spillway.decide.reasons import Code
from spillway.decide.routed import route_plans
from spillway.decide.snapshot import Budget, Demand, Pool, ProviderOption, Snapshot

from .world import deployment

NOW = 1_800_000_000.0
OPUS = ProviderOption("anthropic", "opus", 15.0, 75.0, affordable_in_flight=4)
SPENT = Budget("team", "day", Decimal(400), Decimal(0), NOW + 500)


def routed(option: ProviderOption, *budgets: Budget) -> RoutePlan:
    [found] = route_plans(Snapshot(NOW, (), (), budgets), deployment(routed=(option,)))
    return found


def shut(reason: str, message: str = "why") -> ProviderOption:
    return replace(OPUS, affordable_in_flight=0, unavailable=reason, unavailable_message=message)


def test_a_route_with_money_may_be_used_however_dear_it_is() -> None:
    found = routed(OPUS)
    assert (found.permitted, found.cap, found.reason) == (True, 4, "")
    assert (found.refusal.status, found.refusal.code) == (429, "capacity_exceeded")


@pytest.mark.parametrize("code", [Code.BUDGET_SPENT, Code.NO_BUDGET, Code.SUSPENDED])
def test_for_want_of_money_429(code: Code) -> None:
    found = routed(shut(code))
    assert (found.permitted, found.cap, found.reason) == (False, 0, code)
    assert (found.refusal.status, found.refusal.code, found.refusal.retry_after_seconds) == (
        429,
        "budget_exhausted",
        60,
    )
    assert "anthropic/opus: why" in found.refusal.message
    named = routed(shut(code), SPENT).refusal
    assert "budget 'day' of CostPolicy 'team' is spent; it opens again at 2027-01-15" in named.message
    assert named.retry_after_seconds == 600


def test_no_place_in_flight_is_a_spent_budget() -> None:
    found = routed(replace(OPUS, affordable_in_flight=0))
    assert (found.permitted, found.reason, found.refusal.status) == (False, Code.BUDGET_SPENT, 429)


@pytest.mark.parametrize(
    "code", ["NamespaceNotAllowed", "UnknownProvider", "ModelNotOffered", "MissingKey", "KeyRefused", "QuotaSpent"]
)
def test_what_only_people_put_right_is_503(code: str) -> None:
    found = routed(shut(code))
    assert (found.permitted, found.refusal.status, found.refusal.code) == (False, 503, "route_unavailable")


def test_the_plan_has_them_also_while_a_deployment_is_held_and_spill_does_not_change() -> None:
    demand = Demand(1.0, 1155, 211)
    for changes in ({}, {"paused": True}, {"dry_run": True}):
        with_route, without = (
            plan(Snapshot(NOW, (deployment(demand=demand, routed=r, **changes),), (Pool("b200"),)), Memory())[0]
            for r in ((OPUS,), ())
        )
        one, other = with_route.deployments[0], without.deployments[0]
        assert [(r.provider, r.permitted) for r in one.spill.routes] == [("anthropic", True)]
        assert replace(one, spill=replace(one.spill, routes=())) == other
