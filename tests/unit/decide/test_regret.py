"""Layers: more load never gives fewer of them, and no price that makes a replica dear starts one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spillway.decide.demand import Prices
from spillway.decide.regret import Layers, adopt, loads, step

PRICES = Prices(off_usd_per_second=0.02, rent_usd_per_second=0.005, start_usd=1.5)
SHARES = st.floats(0, 1)
LAYERS = st.lists(st.tuples(st.floats(0, 1.5), st.booleans()), min_size=1, max_size=6)


def layers(shape: list[tuple[float, bool]]) -> Layers:
    return Layers(tuple(r for r, _ in shape), tuple(on for _, on in shape))


@given(LAYERS, st.lists(SHARES, min_size=6, max_size=6), st.lists(SHARES, min_size=6, max_size=6), st.floats(0, 300))
def test_more_load_never_gives_fewer_layers(
    shape: list[tuple[float, bool]], first: list[float], second: list[float], seconds: float
) -> None:
    start, size = layers(shape), len(shape)
    less = tuple(min(a, b) for a, b in zip(first, second, strict=True))[:size]
    more = tuple(max(a, b) for a, b in zip(first, second, strict=True))[:size]
    below, above = step(start, less, PRICES, seconds), step(start, more, PRICES, seconds)
    assert all(a <= b for a, b in zip(below.regrets_usd, above.regrets_usd, strict=True))
    assert all(b or not a for a, b in zip(below.on, above.on, strict=True))


@given(st.lists(st.floats(0, 8), min_size=1, max_size=60), st.lists(st.floats(0, 4), min_size=60, max_size=60))
def test_more_work_all_along_never_gives_fewer_layers(works: list[float], extra: list[float]) -> None:
    low = high = Layers((0.0,) * 8, (False,) * 8)
    for work, more in zip(works, extra, strict=False):
        low = step(low, loads(work, 0.0, 0.0, 8), PRICES, 30)
        high = step(high, loads(work + more, 0.0, 0.0, 8), PRICES, 30)
        assert low.count <= high.count


@given(st.lists(st.floats(0, 8), max_size=60), st.floats(0, 0.005))
def test_a_replica_that_never_earns_its_rent_is_never_started(works: list[float], off: float) -> None:
    dear = Prices(off, PRICES.rent_usd_per_second, PRICES.start_usd)
    state = Layers((0.0,) * 8, (False,) * 8)
    for work in works:
        state = step(state, loads(work, 0.0, 0.0, 8), dear, 30)
    assert state.count == 0


@given(LAYERS, st.lists(SHARES, min_size=6, max_size=6), st.floats(0, 1e6))
def test_regret_stays_between_nothing_and_the_price_of_a_start(
    shape: list[tuple[float, bool]], load: list[float], seconds: float
) -> None:
    found = step(layers(shape), tuple(load)[: len(shape)], PRICES, seconds)
    assert all(0 <= regret <= PRICES.start_usd for regret in found.regrets_usd)


@pytest.mark.parametrize(
    ("work", "unserved", "ready", "expected"),
    [
        (0.0, 0.0, 0.0, (0, 0, 0)),
        (1.5, 0.0, 0.0, (1, 0.5, 0)),
        (9.0, 0.0, 0.0, (1, 1, 1)),
        (0.5, 0.7, 1.0, (0.5, 0.7, 0)),
        (0.5, 1.7, 1.0, (0.5, 1, 0.7)),
        (2.0, 0.5, 1.0, (1, 1, 0)),
    ],
)
def test_loads(work: float, unserved: float, ready: float, expected: tuple[float, ...]) -> None:
    assert loads(work, unserved, ready, 3) == pytest.approx(expected)


def test_what_runs_counts_and_has_to_disprove_itself_first() -> None:
    found = adopt(Layers((0.4, 0.3, 9.0), (True, False, False)), 4, 2, 1.5)
    assert found == Layers((0.4, 1.5, 1.5, 0.0), (True, True, False, False))
    fewer = adopt(found, 2, 0, 1.5)
    assert fewer == Layers((0.4, 1.5), (False, False)), "its evidence is kept"


@given(LAYERS, st.integers(0, 6), st.integers(1, 6))
def test_adopting_twice_changes_nothing(shape: list[tuple[float, bool]], units: int, size: int) -> None:
    once = adopt(layers(shape), size, units, 1.5)
    assert adopt(once, size, units, 1.5) == once
    assert once.count == min(units, size)
