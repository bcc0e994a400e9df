"""The median of histograms that only grow."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spillway.controller.first_token import WINDOW_SECONDS, Buckets, FirstTokens, Histograms, added, median

INF = float("inf")
BOUNDS = (100.0, 200.0, 500.0, 1000.0, INF)


def buckets(*milliseconds: float, bounds: Sequence[float] = BOUNDS) -> Buckets:
    return {le: sum(ms <= le for ms in milliseconds) for le in bounds}


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ({}, None),
        (buckets(), None),
        (buckets(150), 150),
        (buckets(150, 150), 150),
        (buckets(50, 150, 400, 400), 200),
        (buckets(400, 400, 400), 350),
        (buckets(5000, 5000), 1000),
    ],
)
def test_median(found: Buckets, expected: float | None) -> None:
    assert median(found) == expected


@given(st.lists(st.floats(0.1, 999), min_size=1))
def test_the_median_lies_in_the_bucket_of_the_real_one(values: list[float]) -> None:
    found, real = median(buckets(*values)), sorted(values)[(len(values) - 1) // 2]
    assert found is not None
    lower = max((b for b in BOUNDS if b < real), default=0.0)
    assert lower <= found <= min(b for b in BOUNDS if b >= real)


def test_gateways_with_other_bounds_are_added_where_they_agree() -> None:
    other = buckets(150, 450, bounds=(200, 300, 500, INF))
    assert added([buckets(150), other]) == {200: 2, 500: 3, INF: 3}


def told(*processes: tuple[str, Buckets], provider: str = "zai") -> dict[tuple[str, str], Histograms]:
    return {("gw", process): {(provider, "glm-5"): found} for process, found in processes}


def test_only_the_last_minutes_count_and_no_process_counts_backwards() -> None:
    watch = FirstTokens()
    watch.note(told(("p1", buckets(*[900] * 50))), 0)
    assert watch.medians() == {}, "when these were is not known"
    watch.note(told(("p1", buckets(*[900] * 50, 150, 150))), 2)
    assert watch.medians() == {"zai": 0.15}
    watch.note(told(("p2", buckets(450))), 4)
    assert watch.medians() == {}
    watch.note(told(("p2", buckets(450, 150)), ("p1", buckets(*[900] * 50, 150, 150))), 20)
    assert watch.medians() == {"zai": 0.15}
    for at in range(30, int(WINDOW_SECONDS) + 40, 10):
        watch.note(told(("p2", buckets(450, 150))), at)
    assert watch.medians() == {}
