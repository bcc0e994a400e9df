"""Single requests out of files and out of bins, as many as are played."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from spillway.simulate.economics import Economics
from spillway.simulate.load import TOKEN_VARIANCE, scale
from spillway.simulate.requests.draw import MAXIMUM_REQUESTS, single_requests
from spillway.simulate.traces import Arrivals, BadTrace, Trace, bin_arrivals, read
from tests.unit.simulate.test_traces import ANYTHING, LAYOUTS, written

ECONOMICS = Economics()


def binned(requests: list[float], tokens_in: float = 1000.0, tokens_out: float = 100.0) -> Trace:
    number = np.array(requests, dtype=np.float64)
    return Trace("bins", number, number * tokens_in, number * tokens_out)


def known(trace: Trace) -> Arrivals:
    assert trace.arrivals is not None
    return trace.arrivals


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_a_file_tells_is_played_as_it_is(tmp_path: Path, layout: str) -> None:
    text, requests, inputs, outputs, seconds = LAYOUTS[layout]
    found = single_requests(read(written(tmp_path, text)), ECONOMICS)
    assert known(found).seconds == pytest.approx(seconds, abs=1e-6)
    assert known(found).input_tokens.sum() == sum(inputs)
    assert found.requests.tolist() == requests
    assert found.output_tokens.tolist() == outputs


def test_bins_have_their_requests_and_their_tokens() -> None:
    trace = binned([5, 0, 1, 300])
    found = single_requests(trace, ECONOMICS, seed=1)
    assert found.requests.tolist() == [5, 0, 1, 300]
    assert found.input_tokens == pytest.approx(trace.input_tokens)
    assert found.output_tokens == pytest.approx(trace.output_tokens)
    assert np.all(np.diff(known(found).seconds) >= 0)
    assert known(found).input_tokens.min() > 0


def test_arrivals_within_a_bin_are_poisson_and_tokens_as_varied_as_in_the_public_traces() -> None:
    counts = np.random.default_rng(1).poisson(10, 4000).astype(float).tolist()
    found = known(single_requests(binned(counts), ECONOMICS, seed=2))
    gaps = np.diff(found.seconds)
    assert gaps.std() / gaps.mean() == pytest.approx(1, abs=0.05)
    assert np.corrcoef(found.input_tokens, found.output_tokens)[0, 1] == pytest.approx(0, abs=0.05)
    many = known(single_requests(binned([100_000.0]), ECONOMICS, seed=2)).input_tokens
    assert (many.std() / many.mean()) ** 2 == pytest.approx(TOKEN_VARIANCE, rel=0.15)


def test_parts_of_requests_come_as_often_as_they_say() -> None:
    found = single_requests(binned([0.25] * 4000), ECONOMICS, seed=3)
    assert len(known(found)) == pytest.approx(1000, rel=0.1)
    assert set(found.requests.tolist()) == {0.0, 1.0}


@pytest.mark.parametrize("told", [True, False])
@pytest.mark.parametrize("factor", [0.1, 0.95, 1.0, 2.5])
def test_a_fleet_is_filled_on_average_by_a_sample_or_by_copies_of_the_same_bin(told: bool, factor: float) -> None:
    trace = binned(np.random.default_rng(0).poisson(20, 2000).astype(float).tolist())
    if told:
        trace = single_requests(trace, ECONOMICS)
    natural = scale(trace, ECONOMICS).natural_fleet
    found = single_requests(trace, ECONOMICS, fleet=natural * factor, seed=1)
    work = found.input_tokens / 20_000 + found.output_tokens / 10_000
    assert work.mean() / 10 == pytest.approx(natural * factor)
    assert found.requests.sum() == pytest.approx(trace.requests.sum() * factor, rel=0.02)
    if factor >= 1:
        assert np.all(np.abs(found.requests - trace.requests * factor) <= np.maximum(trace.requests, 1))
    mean = found.input_tokens.sum() / found.requests.sum()
    assert mean == pytest.approx(1000, rel=0.03), "requests stay as large as they are"


def test_equal_seeds_draw_equal_requests() -> None:
    trace = binned([7.0] * 50)
    one, same, other = (single_requests(trace, ECONOMICS, 0.01, seed=s) for s in (1, 1, 2))
    assert known(one).seconds.tolist() == known(same).seconds.tolist()
    assert known(one).output_tokens.tolist() == known(same).output_tokens.tolist()
    assert known(one).seconds.tolist() != known(other).seconds.tolist()


def test_more_than_is_played_is_refused_with_what_to_do() -> None:
    with pytest.raises(BadTrace, match=r"bins: 24\.0 hours; .* at most 24 .*--slice 0h-1h"):
        single_requests(binned([1.0] * 8641), ECONOMICS)
    huge = binned([MAXIMUM_REQUESTS / 10 + 1] * 10)
    with pytest.raises(BadTrace, match=r"5,000,010 requests; at most 5,000,000 .*--slice.*--fleet"):
        single_requests(huge, ECONOMICS)
    natural = scale(huge, ECONOMICS).natural_fleet
    assert len(known(single_requests(huge, ECONOMICS, fleet=natural / 10_000))) == pytest.approx(500, abs=120)


def test_what_has_no_work_is_refused() -> None:
    for fleet in (None, 3.0):
        with pytest.raises(BadTrace, match="no requests"):
            single_requests(binned([0.0] * 5), ECONOMICS, fleet)
    with pytest.raises(BadTrace, match="nothing is left"):
        single_requests(binned([1.0]), ECONOMICS, fleet=1e-9)
    with pytest.raises(ValueError, match="above zero"):
        single_requests(binned([1.0]), ECONOMICS, fleet=0.0)


@given(st.lists(st.floats(0, 99.999), min_size=1, max_size=40), st.integers(0, 9), st.integers(1, 12))
def test_a_part_has_its_requests_from_its_own_begin(times: list[float], first: int, length: int) -> None:
    at = np.sort(np.array(times))
    whole = bin_arrivals("whole", Arrivals(at, at * 3, at * 2), bins=10)
    part = whole.part(first * 10.0, (first + length) * 10.0)
    assert part.requests.tolist() == whole.requests[first : first + length].tolist()
    of = (at >= first * 10) & (at < (first + length) * 10)
    assert known(part).seconds == pytest.approx(at[of] - first * 10)
    assert known(part).input_tokens.tolist() == (at[of] * 3).tolist()
    assert len(part) == min(length, 10 - first)


def test_a_part_that_is_not_there_is_refused() -> None:
    trace = binned([1.0] * 6)
    for begin, end in ((60.0, 70.0), (20.0, 20.0), (30.0, 10.0)):
        with pytest.raises(BadTrace, match=r"bins: there is nothing from .* it has 60 s"):
            trace.part(begin, end)


@given(content=ANYTHING)
@example(
    content=b"TIMESTAMP,ContextTokens,GeneratedTokens\n0001-11-14\x0116:01:15,.12,9\n0001-11-14\x0116:01:25,1,6\n"
    b"0001-11-14\x0119:01:25,1,6"
)
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_file_has_sound_requests_or_is_refused(tmp_path: Path, content: bytes) -> None:
    path = written(tmp_path, content, "fuzz")
    try:
        found = single_requests(read(path).part(0, 3600), ECONOMICS)
    except BadTrace as refusal:
        assert str(path) in str(refusal) or str(refusal).startswith("fuzz: ")
        return
    assert_sound(found)


def assert_sound(trace: Trace) -> None:
    found = known(trace)
    assert 0 < len(found) <= MAXIMUM_REQUESTS
    for column in (found.seconds, found.input_tokens, found.output_tokens):
        assert column.shape == found.seconds.shape
        assert np.isfinite(column).all() and (column >= 0).all()
    assert np.all(np.diff(found.seconds) >= 0) and found.seconds[-1] < len(trace) * 10
    assert trace.requests.sum() == len(found)
    assert trace.input_tokens.sum() == pytest.approx(found.input_tokens.sum())
