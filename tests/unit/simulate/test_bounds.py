from __future__ import annotations

import itertools
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spillway.simulate import bounds
from spillway.simulate.bounds import Schedule, UnsolvedBound, clairvoyant, layered_optimum, lower_bound, queue_optimum
from spillway.simulate.economics import BIN_SECONDS, Economics
from spillway.simulate.layers import cheapest
from spillway.simulate.load import Load, scale
from spillway.simulate.traces import Floats
from tests.unit.simulate.test_load import recorded

ECONOMICS = Economics()
QUICK = Economics(delay_seconds=20, drain_seconds=0, minimum_billing_seconds=20, queue_seconds=0)


def load_of(work: Floats, spill_usd: Floats | float = 0.6, score_from: int = 0) -> Load:
    none = np.zeros(len(work))
    price = np.full(len(work), spill_usd) if isinstance(spill_usd, float) else spill_usd
    return Load("made", work, price, none, none, none, natural_fleet=1.0, score_from=score_from)


def some_load(seed: int, bins: int = 8) -> Load:
    random = np.random.default_rng(seed)
    return load_of(random.gamma(0.8, 1.2, bins).clip(0, 3), random.uniform(0.02, 0.6, bins))


def outside(work: Floats, replicas: Floats, economics: Economics) -> Floats:
    """What a fleet spills, told bin by bin and without any of the code under test."""
    spilled, queue = [], 0.0
    for arriving, ready in zip(work, replicas, strict=True):
        left = max(queue + arriving - ready, 0.0)
        queue = min(left, ready * economics.queue_seconds / BIN_SECONDS)
        spilled.append(left - queue)
    return np.array(spilled)


def usd(load: Load, replicas: Floats, economics: Economics) -> float:
    first = load.score_from
    starts = np.maximum(np.diff(replicas), 0).sum()
    spilled = outside(load.work[first:], replicas, economics)
    gpu = economics.usd_per_replica_bin * replicas.sum() + economics.start_usd * starts
    return float(gpu + spilled @ load.spill_usd[first:])


@pytest.mark.parametrize("seed", range(15))
def test_the_layered_optimum_is_the_best_of_all_schedules(seed: int) -> None:
    load = some_load(seed, bins=7)
    replicas = np.array(list(itertools.product(range(4), repeat=7)))
    spilled = np.maximum(load.work - replicas, 0) @ load.spill_usd
    starts = np.maximum(np.diff(replicas, axis=1), 0).sum(axis=1)
    best = (QUICK.usd_per_replica_bin * replicas.sum(axis=1) + QUICK.start_usd * starts + spilled).min()
    schedule = layered_optimum(load, QUICK)
    assert schedule.usd == pytest.approx(best, rel=1e-9)
    assert usd(load, schedule.replicas.astype(float), QUICK) == pytest.approx(best, rel=1e-9)


@given(
    off=st.lists(st.floats(0, 1), min_size=1, max_size=9),
    start=st.floats(0, 2),
    lock=st.integers(0, 5),
)
@settings(max_examples=150, deadline=None)
def test_a_layer_on_for_its_billing_minimum_is_the_best_of_all_ways_to_be_on(
    off: list[float], start: float, lock: int
) -> None:
    rent = 0.3

    def price(on: tuple[int, ...]) -> float:
        total = sum(rent if is_on else lost for is_on, lost in zip(on, off, strict=True))
        at = 0
        for is_on, run in itertools.groupby(on):
            length = len(list(run))
            if is_on and at > 0:
                total += start
                if length < lock and at + length < len(on):
                    return float("inf")
            at += length
        return total

    def free_or_started(on: tuple[int, ...]) -> float:
        # who is on in the first bin was there for free; somebody who was not would only pay more
        return price(on)

    best = min(free_or_started(on) for on in itertools.product((0, 1), repeat=len(off)))
    total, schedule = cheapest(np.array(off)[:, None], rent, start, lock)
    assert total == pytest.approx(best, abs=1e-12)
    assert price(tuple(schedule[:, 0].astype(int))) == pytest.approx(best, abs=1e-12)


def test_layers_are_independent() -> None:
    off = np.random.default_rng(1).uniform(0, 1, (40, 6))
    alone = [cheapest(off[:, [k]], 0.4, 1.0, 3) for k in range(6)]
    total, schedule = cheapest(off, 0.4, 1.0, 3)
    assert total == pytest.approx(sum(usd for usd, _ in alone))
    assert np.array_equal(schedule, np.column_stack([on[:, 0] for _, on in alone]))


def test_more_layers_than_fit_at_once_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    load = scale(recorded(), ECONOMICS, fleet=8)
    whole = [layered_optimum(load, ECONOMICS), clairvoyant(load, ECONOMICS)]
    monkeypatch.setattr(bounds, "_LAYERS_AT_ONCE", 3)
    for one, other in zip(whole, [layered_optimum(load, ECONOMICS), clairvoyant(load, ECONOMICS)], strict=True):
        assert np.array_equal(one.replicas, other.replicas)
        assert one.usd == pytest.approx(other.usd)


# The study's lower_bound with and without a queue, opt_dp and clairvoyant_int (prototypes/policy/offline.py) for
# `recorded()`, seed 5, price C, from bin 40 on.
STUDY = {
    0.5: (14.60413653397823, 19.539455643883255, 24.185968447108486, 24.0, 0),
    2.0: (58.16977931638336, 75.01769267724573, 79.99139708918972, 64.58362859004365, 1),
    8.0: (232.67911726553345, 300.07077070898293, 301.48132108223973, 243.609449445282, 5),
}


@pytest.mark.parametrize("fleet", STUDY)
def test_all_bounds_are_the_studys(fleet: float) -> None:
    queueing, at_once, layered, achieved, starts = STUDY[fleet]
    load = replace(scale(recorded(), ECONOMICS, fleet=fleet, seed=5), score_from=40)
    assert lower_bound(load, ECONOMICS) == pytest.approx(queueing, rel=1e-9)
    assert lower_bound(load, replace(ECONOMICS, queue_seconds=0)) == pytest.approx(at_once, rel=1e-9)
    assert layered_optimum(load, ECONOMICS).usd == pytest.approx(layered, rel=1e-9)
    schedule = clairvoyant(load, ECONOMICS)
    assert schedule.usd == pytest.approx(achieved, rel=1e-9)
    assert (schedule.first_bin, len(schedule.replicas), schedule.starts) == (40, 360, starts)


def cheapest_by_the_router(load: Load, economics: Economics, most: int) -> float:
    """The least cost of all schedules of up to `most` replicas, each served as `outside` does."""
    fleets = np.array(list(itertools.product(range(most + 1), repeat=len(load.work))), dtype=np.float64)
    queue, cost = np.zeros(len(fleets)), economics.usd_per_replica_bin * fleets.sum(axis=1)
    cost += economics.start_usd * np.maximum(np.diff(fleets, axis=1), 0).sum(axis=1)
    for arriving, price, ready in zip(load.work, load.spill_usd, fleets.T, strict=True):
        left = np.maximum(queue + arriving - ready, 0)
        queue = np.minimum(left, ready * economics.queue_seconds / BIN_SECONDS)
        cost += (left - queue) * price
    assert cost.min() == pytest.approx(usd(load, fleets[cost.argmin()], economics))
    return float(cost.min())


@pytest.mark.parametrize("seed", range(25))
@pytest.mark.parametrize("queue_seconds", [0, 5, 10, 20])
def test_no_schedule_of_the_router_undercuts_the_bound_by_replicas(seed: int, queue_seconds: float) -> None:
    random = np.random.default_rng(seed)
    work = np.where(random.random(5) < 0.6, random.integers(0, 9, 5), 0).astype(np.float64)
    load = load_of(work, float(random.choice([0.2, 0.6, 3.0])))
    economics = replace(ECONOMICS, queue_seconds=queue_seconds)
    assert lower_bound(load, economics, by_replicas=True) <= cheapest_by_the_router(load, economics, 5) + 1e-9


def test_the_studys_bound_is_none_for_a_router_whose_replicas_stop_with_a_queue() -> None:
    """Known and small on traces (see the module): five replicas, then two, serve in three bins what came in one."""
    load = load_of(np.array([9.0, 0, 1, 0, 4, 0]), 3.0)
    best = cheapest_by_the_router(load, ECONOMICS, 5)
    assert lower_bound(load, ECONOMICS, by_replicas=True) <= best < lower_bound(load, ECONOMICS)


@given(seed=st.integers(0, 2**32), bins=st.integers(1, 12), score_from=st.integers(0, 3))
@settings(max_examples=40, deadline=None)
def test_the_bounds_stand_in_their_order(seed: int, bins: int, score_from: int) -> None:
    load = replace(some_load(seed, bins + score_from), score_from=score_from)
    layered = layered_optimum(load, QUICK).usd
    values = [lower_bound(load, replace(QUICK, queue_seconds=seconds)) for seconds in (20, 10, 0)]
    values += [layered]
    assert all(low <= high + 1e-9 for low, high in itertools.pairwise(values))
    assert clairvoyant(load, QUICK).usd == pytest.approx(layered)
    assert values[-1] <= load.work[score_from:] @ load.spill_usd[score_from:] + 1e-9


@pytest.mark.parametrize("economics", [ECONOMICS, replace(ECONOMICS, minimum_billing_seconds=3600)])
def test_the_clairvoyant_pays_what_its_schedule_costs(economics: Economics) -> None:
    load = replace(scale(recorded(), economics, fleet=8, seed=5), score_from=40)
    schedule = clairvoyant(load, economics)
    assert schedule.usd == pytest.approx(usd(load, schedule.replicas.astype(float), economics), rel=1e-12)
    assert schedule.usd >= lower_bound(load, economics)
    assert schedule.spilled == pytest.approx(outside(load.work[40:], schedule.replicas.astype(float), economics))


def test_an_hour_of_minimum_billing_makes_starts_rarer() -> None:
    bursts = load_of(np.tile(np.repeat([0.0, 2.0], [90, 30]), 4))
    free, hourly = (
        layered_optimum(bursts, replace(ECONOMICS, minimum_billing_seconds=seconds)) for seconds in (600, 3600)
    )
    assert free.starts > hourly.starts
    assert free.usd < hourly.usd


def test_steady_work_costs_its_rent() -> None:
    load = load_of(np.full(200, 3.0))
    rent = 200 * 3 * ECONOMICS.usd_per_replica_bin
    assert layered_optimum(load, ECONOMICS).usd == clairvoyant(load, ECONOMICS).usd == pytest.approx(rent)
    assert lower_bound(load, replace(ECONOMICS, queue_seconds=0)) == pytest.approx(rent)
    # the last bin's work may stay behind, for nothing: that keeps the days' sum below any schedule of the week
    assert lower_bound(load, ECONOMICS) == pytest.approx(rent * 199 / 200)
    assert lower_bound(load, replace(ECONOMICS, queue_seconds=15)) == pytest.approx(rent * 198 / 200)


def test_work_that_is_cheaper_outside_goes_outside() -> None:
    load = load_of(np.full(50, 2.5), ECONOMICS.usd_per_replica_bin * 0.9)
    schedule = layered_optimum(load, ECONOMICS)
    assert schedule.replicas.max() == schedule.gpu_usd == 0
    assert schedule.usd == pytest.approx(load.work @ load.spill_usd)
    assert lower_bound(load, replace(ECONOMICS, queue_seconds=0)) == pytest.approx(schedule.usd)


@pytest.mark.parametrize("work", [[], [0.0, 0.0, 0.0]])
def test_no_work_costs_nothing(work: list[float]) -> None:
    load = load_of(np.array(work, dtype=np.float64))
    results: list[Schedule] = [layered_optimum(load, ECONOMICS), clairvoyant(load, ECONOMICS)]
    assert [each.usd for each in results] == [0, 0]
    assert lower_bound(load, ECONOMICS) == 0


def test_days_are_told_of_and_workers_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds, "SLICE_BINS", 100)
    load = replace(scale(recorded(), ECONOMICS, fleet=8), score_from=40)
    told: list[tuple[int, int]] = []
    alone = lower_bound(load, ECONOMICS, on_day=lambda done, of: told.append((done, of)))
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert lower_bound(load, ECONOMICS, workers=2, on_day=lambda done, of: told.append((done, of))) == alone
    assert told[4:] == told[:4]
    assert alone <= queue_optimum(load.work[40:], load.spill_usd[40:], ECONOMICS)


def test_a_bound_that_was_not_reached_is_no_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds, "linprog", lambda *_, **__: SimpleNamespace(status=1, message="iterations", fun=1.0))
    with pytest.raises(UnsolvedBound, match="iterations"):
        lower_bound(some_load(1), ECONOMICS)
