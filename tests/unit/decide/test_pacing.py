"""A paced budget that runs ahead of its line: its dollars count more, and what is worth least per dollar waits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spillway.decide import Memory, plan
from spillway.decide.pacing import DEAREST, ahead_usd, multiplier, multipliers, words
from spillway.decide.snapshot import Budget, Demand, Snapshot

from .world import ZAI, World, deployment

DAY = 86_400.0


def budget(spent: float, scope: str = "External", **changes: Any) -> Budget:
    base = Budget("team", "day", Decimal(100), Decimal(str(round(100 - spent, 6))), DAY, scope=scope, paced=True)
    return replace(base, **changes)


@pytest.mark.parametrize(
    ("spent", "hour", "ahead", "counts"),
    [
        (0, 0, 0, 1.0),
        (50, 12, 0, 1.0),
        (40, 12, -10, 1.0),
        (55, 12, 5, DEAREST**0.5),  # half of the slack of $10
        (60, 12, 10, DEAREST),
        (100, 12, 50, DEAREST**2),  # as far as it goes
        (100, 24, 0, 1.0),
    ],
)
def test_the_line(spent: float, hour: float, ahead: float, counts: float) -> None:
    assert ahead_usd(budget(spent), hour * 3600) == pytest.approx(ahead)
    assert multiplier(budget(spent), hour * 3600) == pytest.approx(counts)


@given(st.floats(0, 100), st.floats(0, 100), st.floats(-1e6, 1e6))
def test_more_spent_never_counts_less(one: float, other: float, now: float) -> None:
    less, more = sorted((one, other))
    assert 1 <= multiplier(budget(less), now) <= multiplier(budget(more), now)


@pytest.mark.parametrize(
    ("scope", "external", "gpu"), [("External", True, False), ("GPU", False, True), ("Total", True, True)]
)
def test_whose_dollars_count(scope: str, external: bool, gpu: bool) -> None:
    snapshot = Snapshot(12 * 3600.0, (), (), (budget(60, scope),))
    found = multipliers(snapshot, deployment())
    assert (found.external > 1, found.gpu > 1) == (external, gpu)


@pytest.mark.parametrize("changes", [{"paced": False}, {"policy": "others"}, {"resets_at": 0.0}])
def test_budgets_that_do_not_pace(changes: dict[str, Any]) -> None:
    snapshot = Snapshot(12 * 3600.0, (), (), (budget(60, **changes),))
    assert multipliers(snapshot, deployment()).external == 1
    assert words(snapshot, deployment()) == ""


def spilling(spent: float, value: float = 0.02) -> tuple[bool, str, str]:
    """Whether the provider may be used at noon, the reason and the message."""
    one = deployment(demand=Demand(5.0, 1155, 211), usd_value_per_request=value, providers=(ZAI,))
    outcome, _ = plan(Snapshot(12 * 3600.0, (one,), (), (budget(spent),)), Memory())
    provider = outcome.deployments[0].spill.providers[0]
    return provider.permitted, provider.reason, provider.message


def test_on_the_line_spill_goes_on() -> None:
    assert spilling(50) == (True, "", "")


def test_ahead_of_the_line_it_waits_and_says_why() -> None:
    permitted, reason, message = spilling(58)
    assert not permitted
    assert reason == "BudgetPacing"
    assert "a request costs $0.0018" in message
    assert "budget 'day' of CostPolicy 'team' has spent $58.00, $8.00 more than an even pace" in message


def test_requests_that_are_worth_more_go_on_longer() -> None:
    assert spilling(58, value=1.0)[0]


def test_what_costs_more_than_it_is_worth_never_goes_out() -> None:
    permitted, reason, message = spilling(0, value=0.001)
    assert not permitted
    assert reason == "AboveValue"
    assert "more than the $0.0010" in message


def test_dear_gpus_mean_fewer_replicas() -> None:
    paced = World(deployment=deployment(providers=(), usd_value_per_request=0.01, min_replicas=0), work=lambda _: 0.3)
    unpaced = replace(paced, deployment=paced.deployment, replicas={}, asked={}, told=[])
    for world, scope in ((paced, "Total"), (unpaced, "External")):
        snapshot = world.snapshot

        def with_budget(
            world: World = world, scope: str = scope, snapshot: Callable[[], Snapshot] = snapshot
        ) -> Snapshot:
            one = budget(60, scope, starts_at=world.now - DAY / 2, resets_at=world.now + DAY / 2)
            return replace(snapshot(), budgets=(one,))

        world.snapshot = with_budget  # type: ignore[method-assign]
        world.run(4 * 3600)
    assert sum(unpaced.asked.values()) == 1
    assert sum(paced.asked.values()) == 0
