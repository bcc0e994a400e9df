"""What may go out, and what a client hears when nothing may."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

import pytest

from spillway.decide.outcome import Refusal
from spillway.decide.snapshot import Budget, Demand, Deployment, Phase, Pool, ProviderOption, Replica, Snapshot
from spillway.decide.spill import RETRY_AFTER_STEPS, gate, plan_spill, provider_plans, refusal

from .world import BLACKWELL, HOPPER, ZAI, deployment

NOW = 1_800_000_000.0
SECOND = ProviderOption("deepinfra", "glm-5", 0.6, 2.08, affordable_in_flight=3)
SPENT = replace(ZAI, affordable_in_flight=0, unavailable="BudgetSpent", unavailable_message="budget day is spent")
SIZE = Demand(1.0, 1155, 211)


def replica(
    name: str, phase: Phase = Phase.READY, variant: str = BLACKWELL.name, in_flight: int | None = None
) -> Replica:
    return Replica(name, variant, "rev1", phase, 0.0, in_flight=in_flight)


def snapshot(*budgets: Budget) -> Snapshot:
    return Snapshot(NOW, (), (Pool("b200"),), budgets)


def budget(
    resets_in: float, remaining: str = "0", policy: str = "team", name: str = "day", stops: bool = True
) -> Budget:
    return Budget(policy, name, Decimal(400), Decimal(remaining), NOW + resets_in, stops)


@pytest.mark.parametrize(
    ("replicas", "draining", "demand", "expected"),
    [
        ((), (), None, 0),
        ((replica("a"),), (), None, 68),
        ((replica("a"), replica("b")), (), None, 136),
        ((replica("a"), replica("b")), ("b",), None, 68),
        ((replica("a"), replica("b", in_flight=30)), ("b",), None, 98),  # what "b" still answers takes no place of "a"
        ((replica("a"), replica("b", Phase.STARTING), replica("c", Phase.PENDING)), (), None, 68),
        ((replica("a"), replica("b", Phase.STOPPING)), (), None, 68),
        ((replica("a"), replica("b", variant="retired")), (), None, 136),
        ((replica("a"), replica("h", variant=HOPPER.name)), (), None, 108),
        ((replica("a"),), (), SIZE, 118),  # 40.07 run while it is just busy, 78.21 are worked off in ten seconds
        ((replica("a"),), (), Demand(1.0, 10, 10_000), 68 + 2),  # no more run at once than its concurrency
        ((replica("a"),), (), Demand(1.0, 1e9, 1), 1),  # a ready replica takes at least one
    ],
)
def test_gate(replicas: tuple[Replica, ...], draining: tuple[str, ...], demand: Demand | None, expected: int) -> None:
    assert gate(deployment(replicas=replicas, demand=demand), frozenset(draining)) == expected


def test_pairs_keep_the_users_order_and_money_is_the_last_word() -> None:
    broke = replace(SECOND, affordable_in_flight=0)
    blocked = replace(ZAI, unavailable="MissingKey", unavailable_message="no key", affordable_in_flight=9)
    plans = provider_plans(snapshot(), deployment(providers=(blocked, broke, ZAI)))
    assert [(p.provider, p.permitted, p.cap, p.reason) for p in plans] == [
        ("zai", False, 0, "MissingKey"),
        ("deepinfra", False, 0, "BudgetSpent"),
        ("zai", True, 50, ""),
    ]


def refused(
    providers: tuple[ProviderOption, ...], ready: bool, *budgets: Budget, start_seconds: float = 240.0
) -> Refusal:
    own: Deployment = deployment(providers=providers, replicas=(replica("a"),) if ready else ())
    return refusal(snapshot(*budgets), own, provider_plans(snapshot(*budgets), own), start_seconds)


@pytest.mark.parametrize(
    ("providers", "ready", "budgets", "expected"),
    [
        ((), True, (), (429, "capacity_exceeded", 5)),
        ((ZAI,), True, (), (429, "capacity_exceeded", 5)),
        ((), False, (), (503, "no_capacity", 300)),
        ((ZAI,), False, (), (503, "no_capacity", 300)),
        ((SPENT,), True, (budget(500),), (429, "budget_exhausted", 600)),
        ((SPENT,), False, (budget(50_000),), (429, "budget_exhausted", 300)),
        ((SPENT,), True, (budget(50_000),), (429, "budget_exhausted", 3600)),
        ((SPENT,), True, (), (429, "budget_exhausted", 60)),
        ((SPENT, SECOND), True, (budget(500),), (429, "capacity_exceeded", 5)),
        ((replace(SPENT, unavailable="MissingKey"),), True, (budget(500),), (429, "capacity_exceeded", 5)),
        ((replace(SPENT, unavailable="Suspended"),), True, (), (429, "budget_exhausted", 60)),
        ((replace(SPENT, unavailable="NoBudget"),), True, (), (429, "budget_exhausted", 60)),
    ],
)
def test_refusal(
    providers: tuple[ProviderOption, ...], ready: bool, budgets: tuple[Budget, ...], expected: tuple[int, str, int]
) -> None:
    found = refused(providers, ready, *budgets)
    assert (found.status, found.code, found.retry_after_seconds) == expected
    assert "chat/glm-5" in found.message


def test_the_budget_that_opens_last_is_named_with_its_reset() -> None:
    found = refused(
        (SPENT,),
        True,
        budget(500),
        budget(86_400, name="month"),
        budget(9e6, remaining="3", name="left"),
        budget(9e6, policy="others"),
        budget(9e6, name="toothless", stops=False),
    )
    assert "budget 'month' of CostPolicy 'team'" in found.message
    assert "2027-01-16 08:00 UTC" in found.message


def test_waits_are_rounded_up_so_that_gateways_are_not_told_anew_each_tick() -> None:
    waits = {refused((), False, start_seconds=s).retry_after_seconds for s in (61.0, 90.0, 119.9, 120.0)}
    assert waits == {120}
    assert set(RETRY_AFTER_STEPS) <= set(range(1, 3601))


@pytest.mark.parametrize(
    ("phases", "spilled", "out_of_capacity", "reason"),
    [
        ([Phase.READY], 0.0, False, ""),
        ([Phase.READY], 2.0, False, "Saturated"),
        ([Phase.READY, Phase.STARTING], 2.0, True, "ColdStartCover"),
        ([Phase.READY, Phase.PENDING], 2.0, False, "NoGPU"),
        ([Phase.READY], 2.0, True, "NoGPU"),
    ],
)
def test_why_requests_go_out(phases: list[Phase], spilled: float, out_of_capacity: bool, reason: str) -> None:
    replicas = tuple(replica(str(n), phase) for n, phase in enumerate(phases))
    own = deployment(replicas=replicas, demand=replace(SIZE, spilled_per_second=spilled), lease_seconds=60.0)
    found = plan_spill(snapshot(), own, 240.0, out_of_capacity)
    assert (found.allowed, found.reason, found.lease_seconds) == (True, reason, 60.0)
    assert ("2.0 requests/s" in found.message) is bool(reason)


@pytest.mark.parametrize(
    ("providers", "reason"), [((), "NoProvider"), ((SPENT,), "BudgetSpent"), ((SPENT, SECOND), "")]
)
def test_why_nothing_may_go_out(providers: tuple[ProviderOption, ...], reason: str) -> None:
    found = plan_spill(snapshot(), deployment(providers=providers), 240.0, False)
    assert found.allowed is not bool(reason)
    assert found.reason == reason
