"""A thinned series shows what the whole one shows."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from spillway.simulate.thinning import kept

VALUES = st.lists(st.integers(0, 5).map(float) | st.floats(0, 1e6), max_size=400).map(np.array)


@given(VALUES, st.integers(1, 20))
def test_no_peak_and_no_gap_is_lost(values: np.ndarray, buckets: int) -> None:
    at = kept(values, buckets)
    borders = np.linspace(0, len(values), min(buckets, len(values)) + 1).astype(int) if len(values) else [0]
    for start, end in pairwise(borders):
        # A step line shows in a stretch what is kept in it, and what was kept last before it.
        shown = values[[*at[at <= start][-1:], *at[(at > start) & (at < end)]]]
        assert values[start:end].max() <= shown.max()
        assert values[start:end].min() >= shown.min()


@given(VALUES, st.integers(1, 20))
def test_it_is_short_and_in_order(values: np.ndarray, buckets: int) -> None:
    at = kept(values, buckets)
    assert len(at) <= 2 * buckets + 2
    assert (np.diff(at) > 0).all()
    if len(values):
        assert (at[0], at[-1]) == (0, len(values) - 1)


def test_few_steps_are_all_kept() -> None:
    # changes at 3 and 700 only, so that four points draw 1000
    values = np.array([1.0] * 3 + [4.0] * 697 + [2.0] * 300)
    assert kept(values, 10).tolist() == [0, 3, 700, 999]


def test_a_spike_of_one_bin_in_a_noisy_week_is_kept() -> None:
    values = np.random.default_rng(1).random(60_480)
    values[31_415] = 9.0
    at = kept(values, 1300)
    assert 31_415 in at
    assert len(at) <= 2602
