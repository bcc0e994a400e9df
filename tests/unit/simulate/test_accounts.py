"""Budgets: whose dollars count, for how long, and that none is spent twice."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spillway.decide.snapshot import Snapshot
from spillway.simulate.accounts import Account, span
from spillway.simulate.baselines import Fixed
from spillway.simulate.cluster import Cluster
from spillway.simulate.economics import Economics
from spillway.simulate.pilots import RulePilot, SpillwayPilot
from spillway.simulate.run import Played, play_out
from spillway.simulate.world import Barred, VirtualBudget, VirtualPool, VirtualProvider, World

from .worlds import API, REPLICA, SLOW, deployment, world

BERLIN = ZoneInfo("Europe/Berlin")
HOUR = 360


def at(*moment: int) -> float:
    return datetime(*moment, tzinfo=BERLIN).timestamp()  # type: ignore[misc,arg-type]


def fixed(one: World, replicas: int = 0) -> Played:
    rules = {d.key: Fixed(replicas) for d in one.deployments}
    return play_out(one, RulePilot(one, rules, Economics()))


def seen(one: World) -> Snapshot:
    cluster = Cluster(one)
    return SpillwayPilot(one).snapshot(cluster, {a.budget.key: a.left_usd for a in cluster.accounts})


@pytest.mark.parametrize(("day", "hours"), [((2026, 3, 28), 24), ((2026, 3, 29), 23), ((2026, 10, 25), 25)])
def test_a_day_has_the_hours_that_it_has(day: tuple[int, int, int], hours: int) -> None:
    budget = VirtualBudget("day", 1.0, period="Day", time_zone="Europe/Berlin")
    start, end = span(budget, 0.0, at(*day, 13))
    assert start == at(*day)
    assert (end - start) / 3600 == hours


def test_a_months_money_is_full_again_on_the_first_of_the_zone() -> None:
    work = [1.0] * 3 * HOUR
    budget = VirtualBudget("month", 60.0, period="Month", time_zone="Europe/Berlin")
    one = world(deployment(work), budgets=(budget,), begin=at(2026, 3, 31, 22, 0))
    [account] = fixed(one).accounts
    assert [(p.starts_at, p.ends_at) for p in account.periods] == [
        (at(2026, 3, 1), at(2026, 4, 1)),
        (at(2026, 4, 1), at(2026, 5, 1)),
    ]
    assert [p.usd for p in account.periods] == pytest.approx([60.0, 60.0])  # $0.30 a bin: gone after 200 bins


def test_a_top_up_counts_in_the_periods_that_begin_before_its_end() -> None:
    """The month of March ends with it, although it ends in the middle of March's last hours."""
    budget = VirtualBudget(
        "month", 60.0, period="Month", time_zone="Europe/Berlin", top_ups=((30.0, at(2026, 3, 31, 23, 0)),)
    )
    one = world(deployment([1.0] * 3 * HOUR), budgets=(budget,), begin=at(2026, 3, 31, 22, 0))
    [account] = fixed(one).accounts
    assert [p.of_usd for p in account.periods] == [90.0, 60.0]
    assert [p.usd for p in account.periods] == pytest.approx([90.0, 60.0])


def test_each_budget_counts_its_own_deployments_and_dollars() -> None:
    kinds = {
        "mine": VirtualBudget("api", 1e6, 1e9, policy="mine", deployments=frozenset({"team/a"})),
        "gpu": VirtualBudget("gpu", 1e6, 1e9, "GPU", policy="all"),
        "total": VirtualBudget("total", 1e6, 1e9, "Total", policy="all"),
        "none": VirtualBudget("api", 1e6, 1e9, policy="nobody", deployments=frozenset()),
    }
    one = world(deployment([1.5] * 60, "a"), deployment([2.0] * 60, "b"), budgets=tuple(kinds.values()))
    played = fixed(one, 1)
    spent = dict(zip(kinds, (a.spent_usd for a in played.accounts), strict=True))
    a, b = (played.ledgers[key] for key in ("team/a", "team/b"))
    assert spent["mine"] == pytest.approx(sum(a.external_usd))
    gpus = sum(sum(x.gpu_usd) + sum(x.stop_usd) for x in (a, b))
    assert spent["gpu"] == pytest.approx(gpus)
    assert spent["total"] == pytest.approx(gpus + sum(a.external_usd) + sum(b.external_usd))
    assert spent["none"] == 0
    shown = {d.name: d.policies for d in seen(one).deployments}
    assert shown == {"a": ("mine", "all"), "b": ("all",)}


@given(
    work=st.lists(st.floats(0, 8), min_size=1, max_size=40),
    amounts=st.lists(st.floats(0.01, 20), min_size=1, max_size=3),
    replicas=st.integers(0, 2),
)
@settings(max_examples=60, deadline=None)
def test_no_external_budget_is_ever_overrun(work: list[float], amounts: list[float], replicas: int) -> None:
    """Two deployments, two providers, one purse in the same bin."""
    budgets = tuple(VirtualBudget(f"b{n}", usd, 100.0) for n, usd in enumerate(amounts))
    providers = (replace(API, requests_per_minute=120), VirtualProvider("second", 0.0, 60.0))
    both = [deployment(work, name, providers=("api", "second")) for name in "ab"]
    for account in fixed(world(*both, budgets=budgets, providers=providers), replicas).accounts:
        assert all(p.usd <= account.budget.usd * (1 + 1e-9) for p in account.periods)


def test_rent_comes_before_what_goes_outside_of_a_total_budget() -> None:
    budget = VirtualBudget("total", 5.0, 1e9, "Total")
    played = fixed(world(deployment([3.0] * 60, ready_at_begin=1), budgets=(budget,)), 1)
    ledger = played.ledgers["team/m"]
    assert played.accounts[0].spent_usd == pytest.approx(sum(ledger.gpu_usd) + sum(ledger.external_usd))
    spilling = sum(usd > 0 for usd in ledger.external_usd)
    assert sum(ledger.gpu_usd[:spilling]) + sum(ledger.external_usd) == pytest.approx(5.0)
    assert played.accounts[0].left_usd < 0, "replicas went on"


@pytest.mark.parametrize(("scope", "to_floor", "ends"), [("GPU", True, 1), ("GPU", False, 3), ("Total", True, 1)])
def test_a_spent_gpu_budget_brings_replicas_to_the_floor_if_it_says_so(scope: str, to_floor: bool, ends: int) -> None:
    budget = VirtualBudget("gpus", 100.0, 1e9, scope, policy="p", to_floor=to_floor)
    one = world(deployment([3.0] * 2 * HOUR, min_replicas=1, ready_at_begin=3), budgets=(budget,))
    pilot = SpillwayPilot(one)
    ledger = play_out(one, pilot).ledgers["team/m"]
    assert ledger.asked[HOUR // 3] == 3
    assert ledger.asked[-1] == ends
    assert ("BudgetSpent" in {t.decision.code for t in pilot.told}) is to_floor
    assert (sum(ledger.external_usd[-HOUR:]) > 0) is (scope == "GPU" and to_floor), "a GPU budget stops no spill"


def test_models_of_one_provider_share_its_quota_and_each_deployment_has_its_slots() -> None:
    pair = tuple(
        VirtualProvider(f"p/{m}", 0.0, 30.0, requests_per_minute=600, provider="p", model=m) for m in ("x", "y")
    )
    both = (deployment([1.0] * 6, "a", providers=("p/x",)), deployment([1.0] * 6, "b", providers=("p/y",)))
    played = fixed(world(*both, providers=pair))
    assert sum(played.ledgers["team/a"].spilled) == pytest.approx(6)  # all 100 requests of a bin
    assert sum(played.ledgers["team/b"].spilled) == 0
    # 100 requests of 100 tokens, 4 s each, are 40 in flight; 10 are allowed.
    few = fixed(world(deployment([1.0] * 6), providers=(replace(API, concurrent=10),)))
    assert few.ledgers["team/m"].spilled == pytest.approx([0.25] * 6)


def test_what_is_barred_is_seen_and_not_used() -> None:
    one = world(deployment([1.0] * 6, barred=(Barred("api", "NamespaceNotAllowed", "not you"),)))
    [option] = seen(one).deployments[0].providers
    assert (option.unavailable, option.unavailable_message, option.affordable_in_flight) == (
        "NamespaceNotAllowed",
        "not you",
        0,
    )
    assert sum(fixed(one).ledgers["team/m"].spilled) == 0
    assert sum(play_out(one, SpillwayPilot(one)).ledgers["team/m"].spilled) == 0


def test_a_node_in_use_in_part_is_seen() -> None:
    half = replace(REPLICA, gpus_per_replica=4)
    one = world(
        deployment([7.0] * 2 * HOUR, variants=(half,), ready_at_begin=1),
        pools=(VirtualPool("pool", gpus=24), VirtualPool("old")),
    )
    [pool, _] = seen(one).pools
    assert (pool.free_gpus_by_node, pool.growable_gpus) == ((4,), 16)
    assert pool.free_slots(4) == 5
    assert play_out(one, SpillwayPilot(one)).ledgers["team/m"].ready[-1] == 6


def test_a_namespace_takes_no_more_of_a_pool_than_it_may() -> None:
    pools = (VirtualPool("pool", gpus=80, max_gpus_per_namespace=16), VirtualPool("old", gpus=0))
    one = world(deployment([5.0] * HOUR, variants=(REPLICA, SLOW)), pools=pools)
    played = play_out(one, SpillwayPilot(one))
    assert max(played.gpus["pool"]) == 16


def test_a_fresh_account_is_full() -> None:
    account = Account(VirtualBudget("b", 3.0, 60.0), 1000.0)
    account.spent_usd = 2.0
    account.turn(1059.0)
    assert account.left_usd == 1.0
    account.turn(1060.0)
    assert (account.left_usd, [p.usd for p in account.periods]) == (3.0, [2.0, 0.0])
