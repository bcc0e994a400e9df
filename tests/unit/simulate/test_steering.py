"""`decide.plan` at the wheel: what must hold whatever the traffic and whatever goes wrong."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spillway.decide import Memory, Plan, Snapshot, decode, encode, plan
from spillway.decide.provisioning import RULES
from spillway.simulate import pilots
from spillway.simulate.economics import BIN_SECONDS
from spillway.simulate.load import scale
from spillway.simulate.pilots import SpillwayPilot
from spillway.simulate.presets import PRESETS
from spillway.simulate.run import play
from spillway.simulate.single import Controls
from spillway.simulate.study import Case, run
from spillway.simulate.synthetic import Synthetic, generate, pattern
from spillway.simulate.world import Faults, VirtualBudget, VirtualPool, World

from .worlds import API, REPLICA, SLOW, deployment, steered, world

WORKS = st.lists(st.sampled_from([0.0, 0.2, 0.9, 1.5, 3.0, 8.0]), min_size=2, max_size=8)
HOUR = 360


def stepped(levels: list[float], bins: int = 60) -> list[float]:
    return [level for level in levels for _ in range(bins)]


@pytest.mark.parametrize("rule", RULES)
@given(levels=WORKS, more=WORKS)
@settings(max_examples=8, deadline=None)
def test_a_prefix_of_the_trace_gives_a_prefix_of_the_decisions(
    rule: str, levels: list[float], more: list[float]
) -> None:
    def run(work: list[float]) -> list[int]:
        one = world(deployment(work))
        return steered(replace(one, settings=replace(one.settings, rule=rule)))[0]["team/m"].asked

    short = stepped(levels)
    assert run(short) == run([*short, *stepped(more)])[: len(short)]


@given(
    levels=WORKS,
    gpus=st.sampled_from([0, 8, 24]),
    floor=st.integers(0, 2),
    most=st.integers(2, 5),
    error=st.floats(-0.3, 0.3),
)
@settings(max_examples=20, deadline=None)
def test_never_more_than_fits_nor_than_is_allowed_and_never_less_than_the_floor(
    levels: list[float], gpus: int, floor: int, most: int, error: float
) -> None:
    one = deployment(
        stepped(levels),
        min_replicas=floor,
        max_replicas=most,
        ready_at_begin=min(floor, gpus // 8),
        capacity_error=error,
    )
    ledger = steered(world(one, pools=(VirtualPool("pool", gpus=gpus), VirtualPool("old", gpus=0))))[0]["team/m"]
    assert max(ledger.asked) <= min(most, gpus // 8)
    assert min(ledger.asked[1:]) >= min(floor, gpus // 8)


def test_where_the_outside_is_cheaper_no_replica_is_started() -> None:
    cheap = replace(API, usd_per_million_output=9.0)  # $0.09 for a replica-bin that costs $0.10
    ledger = steered(world(deployment([3.0] * 4 * HOUR), providers=(cheap,)))[0]["team/m"]
    assert max(ledger.asked) == 0
    assert sum(ledger.spilled) == pytest.approx(3.0 * 4 * HOUR)


def test_without_a_provider_what_requests_are_worth_buys_replicas() -> None:
    ledger = steered(world(deployment([3.0] * 2 * HOUR, providers=())))[0]["team/m"]
    assert ledger.ready[-1] >= 3
    assert sum(ledger.refused[-HOUR:]) == 0


def test_no_more_than_its_share_goes_out_while_a_replica_is_ready() -> None:
    """Twice what the one replica does, all of which would go out."""
    one = deployment([2.0] * 4 * HOUR, max_replicas=1, min_replicas=1, ready_at_begin=1)
    shares = {}
    for limit in (None, 0.25):
        ledger = steered(world(replace(one, max_share=limit)))[0][one.key]
        served, spilled = np.array(ledger.served), np.array(ledger.spilled)
        hours = [slice(begin, begin + HOUR) for begin in range(0, len(served) - HOUR, HOUR // 4)]
        shares[limit] = max(spilled[hour].sum() / (served[hour].sum() + spilled[hour].sum()) for hour in hours)
    assert shares[None] == pytest.approx(0.5, abs=0.02)
    assert 0.2 < shares[0.25] < 0.28


def test_an_outage_is_met_with_replicas() -> None:
    work = [0.25] * 6 * HOUR  # a quarter of a replica: $0.075 outside, $0.10 the replica
    calm = steered(world(deployment(work)))[0]["team/m"]
    assert max(calm.asked) == 0
    down = replace(API, outages=((2 * 3600.0, 4 * 3600.0),))
    ledger = steered(world(deployment(work), providers=(down,)))[0]["team/m"]
    assert ledger.ready[3 * HOUR] == 1
    assert ledger.asked[-1] == 0, "and given up when it is over"


def test_a_stock_out_is_noticed_and_the_next_pool_serves() -> None:
    pools = (
        VirtualPool("pool", gpus=80, stock_outs=((0.0, 3 * 3600.0),), provisioning_timeout_seconds=120.0),
        VirtualPool("old", gpus=80),
    )
    one = deployment([3.0] * 5 * HOUR, variants=(REPLICA, SLOW))
    ledgers, pilot = steered(world(one, pools=pools))
    ledger = ledgers["team/m"]
    assert ledger.ready[HOUR] == 6, "slow ones do half"
    assert "PoolOutOfCapacity" in {t.decision.code for t in pilot.told}
    assert ledger.ready[-1] == 3, "back on the cheaper pool"


def test_metrics_that_are_lost_hold_the_fleet() -> None:
    work = [3.0] * 2 * HOUR + [0.0] * 4 * HOUR
    faults = Faults(metrics_lost=((1.9 * 3600, 4 * 3600.0),))
    ledger = steered(world(deployment(work), faults=faults))[0]["team/m"]
    assert set(ledger.asked[round(2.1 * HOUR) : round(3.9 * HOUR)]) == {3}
    assert ledger.asked[-1] == 0


@pytest.mark.parametrize("delay", [0.0, 30.0, 50.0])
def test_old_metrics_only_make_it_later(delay: float) -> None:
    work = [0.0] * HOUR + [4.0] * 2 * HOUR
    ledger = steered(world(deployment(work), faults=Faults(metrics_delay_seconds=delay)))[0]["team/m"]
    assert ledger.ready[-1] == 4


def test_replicas_that_do_less_than_believed_are_found_out() -> None:
    work = [2.9] * 12 * HOUR
    honest, weak = (steered(world(deployment(work, capacity_error=error)))[0]["team/m"] for error in (0.0, 0.25))
    assert honest.ready[-1] == 3
    assert weak.ready[-1] == 4
    assert sum(weak.spilled[-HOUR:]) == 0


def test_steady_traffic_never_flaps() -> None:
    ledger = steered(world(deployment([2.6] * 30 * HOUR)))[0]["team/m"]
    assert len(set(ledger.asked[6 * HOUR :])) == 1


def several(order: list[int]) -> World:
    rng = np.random.default_rng(0)
    works = [stepped(list(rng.choice([0.0, 0.5, 2.0, 4.0], 6))) for _ in range(3)]
    deployments = [
        deployment(work, f"m{i}", usd_value_per_request=1.0 + i, variants=(REPLICA, SLOW))
        for i, work in enumerate(works)
    ]
    return world(*(deployments[i] for i in order), pools=(VirtualPool("pool", gpus=32), VirtualPool("old", gpus=16)))


def test_the_order_of_deployments_changes_nothing() -> None:
    one, other = steered(several([0, 1, 2]))[0], steered(several([2, 0, 1]))[0]
    for key, ledger in one.items():
        assert ledger.asked == other[key].asked


def test_a_recorded_run_replays_to_the_same_plans_bit_by_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    recorded: list[tuple[str, str, str]] = []

    def recording(snapshot: Snapshot, memory: Memory) -> tuple[Plan, Memory]:
        outcome, after = plan(snapshot, memory)
        recorded.append((encode(snapshot), encode(memory), encode(outcome)))
        return outcome, after

    monkeypatch.setattr(pilots, "plan", recording)
    steered(several([0, 1, 2]))
    assert len(recorded) > 300
    for snapshot, memory, outcome in recorded:
        again, _ = plan(decode(Snapshot, snapshot), decode(Memory, memory))
        assert encode(again) == outcome


def test_equal_seeds_give_equal_runs_and_others_differ() -> None:
    one = world(deployment(stepped([0, 4, 1, 5, 0, 3])), faults=Faults(delay_cv=0.8))
    ready = [steered(replace(one, seed=seed))[0]["team/m"].ready for seed in (1, 1, 2)]
    assert ready[0] == ready[1] != ready[2]


def bursty(days: int) -> list[float]:
    rng = np.random.default_rng(3)
    bins = days * 24 * HOUR
    calm = 0.5 + 0.4 * np.sin(np.arange(bins) * 2 * np.pi / (24 * HOUR))
    bursts = np.repeat(rng.exponential(1.0, bins // 60 + 1) * (rng.random(bins // 60 + 1) < 0.15), 60)[:bins]
    return list(calm + bursts * 4)


@pytest.mark.parametrize("share", [0.3, 0.7])
def test_a_paced_budget_lasts_and_is_used(share: float) -> None:
    work, period = bursty(6), 3 * 86_400.0
    free = steered(world(deployment(work, max_replicas=0), tick_seconds=60.0))[0]["team/m"]
    first = sum(free.external_usd[: round(period / BIN_SECONDS)])
    budget = VirtualBudget("month", share * first, period, paced=True)
    one = world(deployment(work, max_replicas=0, usd_value_per_request=0.03), budgets=(budget,), tick_seconds=60.0)
    ledger = play(one, SpillwayPilot(one))["team/m"]
    bins = round(period / BIN_SECONDS)
    for begin in (0, bins):
        spent = np.cumsum(ledger.external_usd[begin : begin + bins])
        assert spent[-1] <= budget.usd * (1 + 1e-9)
        assert spent[-1] >= 0.97 * budget.usd
        line = budget.usd * np.arange(1, bins + 1) / bins
        assert np.all(spent <= line + 0.13 * budget.usd), "never far ahead of its line"


@pytest.mark.parametrize("name", ["week", "launches", "redrawn-levels"])
def test_a_forecast_that_is_always_wrong_costs_little_over_none(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """PLCP is told of a flood whenever demand is low and of nothing whenever it is high."""

    def wrong(history: object, level: float) -> np.ndarray:
        return np.full((16, 24), 0.0 if level > 4 else 12.0)

    bins = 2 * 8640
    trace = generate(replace(Synthetic(), bins=bins), 1) if name == "week" else pattern(name, bins, 1)
    economics = PRESETS["B"]()
    case = Case(scale(trace, economics, 4.0), economics, controls=Controls(tick_seconds=30.0))
    plain = run(case, "lcp").score.usd
    monkeypatch.setattr("spillway.decide.provisioning.forecast.scenarios", wrong)
    assert run(case, "plcp").score.usd <= 1.05 * plain
