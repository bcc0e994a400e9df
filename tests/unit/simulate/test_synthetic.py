from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spillway.simulate.economics import BIN_SECONDS, Economics
from spillway.simulate.load import scale
from spillway.simulate.synthetic import (
    DAY_BINS,
    HOUR_BINS,
    PATTERNS,
    WEEK_BINS,
    Synthetic,
    generate,
    generate_split,
    pattern,
)
from spillway.simulate.traces import Floats, Trace

PLAIN = Synthetic(peak_to_trough=1, weekend_factor=1, arrival_cv=1, spikes_per_day=0)


def same(one: Trace, other: Trace) -> bool:
    columns = ("requests", "input_tokens", "output_tokens")
    return all(np.array_equal(getattr(one, column), getattr(other, column)) for column in columns)


def hourly(trace: Trace) -> Floats:
    means: Floats = trace.requests.reshape(-1, HOUR_BINS).mean(axis=1)
    return means


def test_the_default_is_a_week_of_chat_of_about_two_replicas() -> None:
    trace = generate(Synthetic(), seed=1)
    assert len(trace) == WEEK_BINS
    total = trace.requests.sum()
    assert total / WEEK_BINS / BIN_SECONDS == pytest.approx(20, rel=0.03)
    assert trace.input_tokens.sum() / total == pytest.approx(1600, rel=0.01)
    assert trace.output_tokens.sum() / total == pytest.approx(250, rel=0.01)
    assert scale(trace, Economics()).natural_fleet == pytest.approx(2.1, rel=0.03)


@pytest.mark.parametrize("make", [*PATTERNS, "synthetic"])
def test_equal_seeds_give_equal_demand_and_others_other(make: str) -> None:
    def demand(seed: int) -> Trace:
        return generate(Synthetic(tenants=2), seed) if make == "synthetic" else pattern(make, 3000, seed)

    assert same(demand(3), demand(3))
    assert same(demand(3), demand(4)) == (make == "steady")


def test_days_peak_and_weekends_rest_as_asked() -> None:
    spec = replace(PLAIN, peak_to_trough=3.0, peak_hour=15, weekend_factor=0.5)
    by_hour = hourly(generate(spec, seed=1)).reshape(7, 24)
    workday = by_hour[:5].mean(axis=0)
    assert workday.max() / workday.min() == pytest.approx(3.0, rel=0.05)
    assert workday.argmax() in (14, 15) and workday.argmin() in (2, 3)
    assert by_hour[5:].mean() / by_hour[:5].mean() == pytest.approx(0.5, rel=0.02)
    assert by_hour.mean() == pytest.approx(200, rel=0.01)


@pytest.mark.parametrize("cv", [0.0, 0.5, 1.0, 3.5])
def test_counts_are_as_dispersed_as_arrivals_of_that_cv(cv: float) -> None:
    requests = generate(replace(PLAIN, arrival_cv=cv, requests_per_second=20), seed=2).requests
    assert requests.mean() == pytest.approx(200, rel=0.01)
    assert requests.var() / requests.mean() == pytest.approx(cv**2, rel=0.05, abs=0.01)


@pytest.mark.parametrize("cv", [0.0, 1.1])
def test_tokens_of_few_requests_vary_more_than_those_of_many(cv: float) -> None:
    trace = generate(replace(PLAIN, token_cv=cv, requests_per_second=3), seed=2)
    some = trace.requests > 0
    per_request = trace.input_tokens[some] / trace.requests[some]
    assert np.std(per_request) / 1600 == pytest.approx(cv * np.sqrt(np.mean(1 / trace.requests[some])), rel=0.03)
    assert (trace.input_tokens[~some] == 0).all()


def test_a_launch_is_a_step_that_stays() -> None:
    before_and_after = hourly(generate(replace(PLAIN, launches=1, launch_factor=2.0), seed=5))
    jumps = np.diff(before_and_after) > 100
    assert jumps.sum() in (1, 2)  # two where it comes amid an hour
    assert before_and_after[:2] == pytest.approx([200, 200], rel=0.05)
    assert before_and_after[-2:] == pytest.approx([400, 400], rel=0.05)


def test_spikes_come_as_often_and_as_high_as_asked() -> None:
    spec = replace(PLAIN, arrival_cv=0.0, spikes_per_day=20, spike_factor=3.0, spike_minutes=3)
    requests = generate(spec, seed=3).requests
    spiking = requests > 300
    assert (np.diff(spiking.astype(int)) == 1).sum() == pytest.approx(140, rel=0.25)
    assert spiking.mean() == pytest.approx(20 * 18 / DAY_BINS, rel=0.25)


def test_tenants_are_told_apart_and_add_up() -> None:
    spec = replace(PLAIN, tenants=8, tenants_share=0.5)
    split = generate_split(spec, seed=4)
    assert split.requests.shape == split.input_tokens.shape == split.output_tokens.shape == (9, WEEK_BINS)
    assert np.array_equal(split.requests.sum(axis=0), split.trace.requests)
    assert split.input_tokens.sum(axis=0) == pytest.approx(split.trace.input_tokens)
    means = split.requests.mean(axis=1) / BIN_SECONDS
    assert means[0] == pytest.approx(20, rel=0.02)
    assert means[1:].sum() == pytest.approx(10, rel=0.4)
    largest = split.requests[1 + int(means[1:].argmax())]
    assert (largest == 0).mean() == pytest.approx(0.8, abs=0.15)  # off for four hours of five


def test_there_is_somebody_who_sends_without_tenants() -> None:
    assert generate_split(PLAIN, seed=1).requests.shape == (1, WEEK_BINS)


@pytest.mark.parametrize("field", [field.name for field in fields(Synthetic) if field.name != "name"])
@pytest.mark.parametrize("value", [-1, float("nan"), float("inf")])
def test_what_no_demand_is_made_of_is_refused_by_its_name(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=field):
        Synthetic(**{field: value})  # type: ignore[arg-type]


def test_a_peak_below_its_trough_is_refused() -> None:
    with pytest.raises(ValueError, match="1 or more"):
        Synthetic(peak_to_trough=0.5)


@given(
    bins=st.integers(1, 500),
    rate=st.floats(0.001, 1000),
    cv=st.floats(0, 5),
    token_cv=st.floats(0, 3),
    tenants=st.integers(0, 3),
    seed=st.integers(0, 2**32),
)
@settings(max_examples=60, deadline=None)
def test_demand_is_whole_requests_and_tokens_only_with_them(
    bins: int, rate: float, cv: float, token_cv: float, tenants: int, seed: int
) -> None:
    spec = Synthetic(
        bins=bins, requests_per_second=rate, arrival_cv=cv, token_cv=token_cv, tenants=tenants, spikes_per_day=50
    )
    trace = generate(spec, seed)
    for column in (trace.requests, trace.input_tokens, trace.output_tokens):
        assert column.shape == (bins,)
        assert (column >= 0).all() and (column == np.rint(column)).all()
        assert (column[trace.requests == 0] == 0).all()


def runs(level: Floats) -> list[int]:
    """Lengths of the stretches of equal values, without the first and the last, which the ends cut."""
    edges = np.flatnonzero(np.diff(level)) + 1
    return [int(length) for length in np.diff(edges)]


def test_the_patterns_are_what_they_are_called() -> None:
    by_name = {name: pattern(name, 2 * DAY_BINS, seed=6).requests for name in PATTERNS}
    assert set(by_name["steady"]) == {100.0}
    assert set(runs(by_name["periodic-on-off"])) == {66, 120}
    assert {length % 60 for length in runs(by_name["redrawn-levels"])} == {0}  # two equal draws make one run
    assert len(set(by_name["redrawn-levels"])) > 100
    assert set(by_name["random-bursts"]) == {0.0, 100.0}
    assert by_name["random-bursts"].mean() == pytest.approx(100 * 11 / 71, rel=0.3)
    steps = np.diff(by_name["ramps"])
    assert (steps >= -1).sum() > 0.99 * len(steps) and steps.min() < -80
    assert 4 <= len(runs(by_name["launches"])) <= 8
    assert by_name["launches"].min() >= 33 and by_name["launches"].max() <= 300


def test_the_patterns_reach_a_fleet_without_thinning() -> None:
    for name in PATTERNS:
        load = scale(pattern(name, DAY_BINS, seed=1), Economics(), fleet=8)
        assert load.natural_fleet < 8
        assert load.work.mean() == pytest.approx(8)


def test_an_unknown_pattern_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="steady"):
        pattern("steddy", 10, 1)
    with pytest.raises(ValueError, match="at least one"):
        pattern("steady", 0, 1)
