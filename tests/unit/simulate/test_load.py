from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as nst

from spillway.simulate.economics import BIN_SECONDS, Economics
from spillway.simulate.load import MAXIMUM_LOAD_BINS, Load, scale, score_from
from spillway.simulate.traces import BadTrace, Floats, Trace

ECONOMICS = Economics()


def recorded(bins: int = 400) -> Trace:
    """A made-up trace with swings, noise and empty bins, the same on every machine."""
    t = np.arange(bins)
    requests = np.floor(40 + 30 * np.sin(t / 37.0) + 7 * ((t * 7919) % 11)).astype(np.float64)
    requests[t % 53 == 0] = 0
    return Trace("recorded", requests, requests * (1500 + (t * 31) % 700), requests * (200 + (t * 17) % 90))


# What the study's own work() (prototypes/policy/sim.py) gives for `recorded()` with seed 5 and price C: work and spill
# price of bins 0, 1, 53, 100, 399, and the price of sending everything outside. Fleet 0.5 is thinned.
STUDY = {
    0.5: (
        [0.0, 0.5396471348156943, 0.049651105034549205, 0.7134925648287399, 0.4311278564990597],
        [0.7891756650413023, 0.7643199987368148, 1.5000000000000002, 0.7862202837034716, 0.7800560980996802],
        157.8351330082604,
    ),
    8.0: (
        [0.0, 8.971612363452325, 0.7169974819295397, 12.287067494036142, 7.197853644054533],
        [0.7887593055236454, 0.7445333875959491, 1.5, 0.780713362383446, 0.7733846965939689],
        2524.029777675665,
    ),
}


@pytest.mark.parametrize("fleet", STUDY)
def test_a_scaled_trace_is_the_studys_draw_by_draw(fleet: float) -> None:
    work, spill_usd, everything_outside = STUDY[fleet]
    load = scale(recorded(), ECONOMICS, fleet=fleet, seed=5)
    assert load.natural_fleet == pytest.approx(0.89463375, rel=1e-12)
    assert load.work[[0, 1, 53, 100, 399]] == pytest.approx(work, rel=1e-12)
    assert load.spill_usd[[0, 1, 53, 100, 399]] == pytest.approx(spill_usd, rel=1e-12)
    assert load.work @ load.spill_usd == pytest.approx(everything_outside, rel=1e-12)


def test_a_trace_keeps_its_natural_size_where_no_fleet_is_asked_for() -> None:
    trace, load = recorded(), scale(recorded(), ECONOMICS)
    assert np.array_equal(load.input_tokens, trace.input_tokens)
    assert load.work.mean() == pytest.approx(load.natural_fleet, rel=0.01)  # what is decoded past the end is cut
    assert load.requests.sum() == pytest.approx(trace.requests.sum(), rel=0.01)


def test_only_a_fleet_well_below_the_natural_one_is_thinned_and_then_by_the_seed() -> None:
    natural = scale(recorded(), ECONOMICS).natural_fleet

    def work(share: float, seed: int) -> Floats:
        return scale(recorded(), ECONOMICS, fleet=share * natural, seed=seed).work

    assert np.array_equal(work(0.81, 1), work(0.81, 2))
    assert np.array_equal(work(0.79, 1), work(0.79, 1))
    assert not np.array_equal(work(0.79, 1), work(0.79, 2))


def test_thinning_makes_the_noise_of_few_requests() -> None:
    bins = 5000
    flat = Trace("flat", np.full(bins, 100.0), np.full(bins, 2e5), np.full(bins, 1e3))
    work = scale(flat, ECONOMICS, fleet=0.1 * scale(flat, ECONOMICS).natural_fleet, seed=1).work
    share, requests = 0.1, 10
    # per bin: binomial (1 - p) / n2, and tokens 1.2 (1 - p) / n2
    assert (work.std() / work.mean()) ** 2 == pytest.approx(2.2 * (1 - share) / requests, rel=0.1)


def test_rates_of_less_than_a_request_can_be_thinned() -> None:
    scarce = np.full(5000, 0.4)  # as Prometheus tells it
    trace = Trace("scarce", scarce, scarce * 2000, scarce * 10)
    half = scale(trace, ECONOMICS).natural_fleet / 2
    load = scale(trace, ECONOMICS, fleet=half, seed=1)
    assert load.work.mean() == pytest.approx(half)
    assert (load.work > 0).mean() == pytest.approx(0.5, abs=0.05)


def test_decode_work_falls_due_over_the_residence() -> None:
    one = np.zeros(20)
    one[5] = 1.0
    load = scale(Trace("one", one, one * 20_000, one * 1000), ECONOMICS)  # 40 s of decoding
    decode = load.output_tokens / 1000
    assert decode == pytest.approx([0] * 5 + [1 / 4.5] * 4 + [0.5 / 4.5] + [0] * 10)
    prefill_seconds, decode_seconds = 1.0, 0.1
    assert load.work[5] == pytest.approx((prefill_seconds + decode_seconds / 4.5) / BIN_SECONDS)
    assert load.spill_usd[7] == pytest.approx(1000 * 15e-6 / decode_seconds * BIN_SECONDS)
    assert load.requests.sum() == pytest.approx(1.0)
    assert load.requests[5] > 10 * load.requests[6] > 0


def test_a_bin_without_work_has_the_mean_price() -> None:
    load = scale(recorded(), ECONOMICS, fleet=8)
    mean = (load.work @ load.spill_usd) / load.work.sum()
    assert load.spill_usd[load.work == 0] == pytest.approx(mean)


@pytest.mark.parametrize(
    ("bins", "first"), [(1, 0), (100, 10), (720, 72), (721, 360), (20_000, 360), (20_001, 8640), (60_480, 8640)]
)
def test_what_is_scored_begins_after_a_warm_up(bins: int, first: int) -> None:
    assert score_from(bins) == first


def test_a_load_is_a_week_at_most() -> None:
    long = np.ones(MAXIMUM_LOAD_BINS + 100)
    load = scale(Trace("long", long, long * 1000, long * 100), ECONOMICS, fleet=3)
    assert len(load) == MAXIMUM_LOAD_BINS
    assert load.score_from == 8640


@pytest.mark.parametrize("fleet", [0, -1, float("nan"), float("inf")])
def test_a_fleet_that_is_none_is_refused(fleet: float) -> None:
    with pytest.raises(ValueError, match="above zero"):
        scale(recorded(), ECONOMICS, fleet=fleet)


@pytest.mark.parametrize(("requests", "tokens"), [([], []), ([0, 0], [0, 0]), ([0, 0], [5, 5]), ([3, 3], [0, 0])])
def test_a_trace_without_demand_is_refused(requests: list[float], tokens: list[float]) -> None:
    sums = np.array(tokens, dtype=np.float64)
    with pytest.raises(BadTrace, match="demand"):
        scale(Trace("empty", np.array(requests, dtype=np.float64), sums, sums), ECONOMICS)


def test_a_fleet_too_small_for_any_request_is_refused() -> None:
    with pytest.raises(BadTrace, match="larger fleet"):
        scale(recorded(2), ECONOMICS, fleet=1e-9)


def columns(bins: int) -> st.SearchStrategy[Trace]:
    counts = nst.arrays(np.float64, bins, elements=st.integers(0, 500).map(float) | st.floats(1e-3, 3))
    per_request = nst.arrays(np.float64, bins, elements=st.integers(0, 100_000).map(float))
    return st.builds(
        lambda n, tin, tout, loose: Trace("any", n, n * tin + loose, n * tout), counts, per_request, per_request,
        nst.arrays(np.float64, bins, elements=st.sampled_from([0.0, 0.0, 0.0, 50.0])),
    )  # fmt: skip


@given(
    trace=st.integers(1, 60).flatmap(columns),
    fleet=st.none() | st.floats(0.01, 1000),
    seed=st.integers(0, 2**32),
    prefill=st.floats(1000, 1e5),
    decode=st.floats(1000, 1e5),
)
@settings(max_examples=150, deadline=None)
def test_tokens_and_requests_account_for_the_work_of_every_bin(
    trace: Trace, fleet: float | None, seed: int, prefill: float, decode: float
) -> None:
    economics = Economics(prefill_tokens_per_second=prefill, decode_tokens_per_second=decode)
    try:
        load = scale(trace, economics, fleet, seed)
    except BadTrace:
        assert fleet is not None or trace.requests.sum() == 0 or (trace.input_tokens + trace.output_tokens).sum() == 0
        return
    assert_sound(load, economics)
    if fleet is not None:
        assert load.work.mean() == pytest.approx(fleet, rel=1e-9)


def assert_sound(load: Load, economics: Economics) -> None:
    due = load.input_tokens / economics.prefill_tokens_per_second
    due += load.output_tokens / economics.decode_tokens_per_second
    assert np.allclose(load.work, due / BIN_SECONDS, rtol=1e-9, atol=0)
    assert (load.requests[load.work > 0] > 0).all()
    for column in (load.work, load.spill_usd, load.requests, load.input_tokens, load.output_tokens):
        assert column.shape == load.work.shape
        assert np.isfinite(column).all() and (column >= 0).all()
    usd = load.input_tokens * economics.usd_per_million_input + load.output_tokens * economics.usd_per_million_output
    assert np.allclose(load.work * load.spill_usd, usd / 1e6, rtol=1e-9, atol=1e-300)
