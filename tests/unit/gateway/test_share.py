from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from spillway.gateway.share import share

loads = st.dictionaries(st.text("abcdef", min_size=1, max_size=4), st.integers(0, 5000), min_size=1, max_size=12)


@given(st.integers(-5, 100_000), loads)
def test_never_above_the_total_and_something_for_everyone(total: int, in_flight: dict[str, int]) -> None:
    parts = share(total, in_flight)
    assert parts.keys() == in_flight.keys()
    assert sum(parts.values()) <= max(total, 0)
    if total >= len(in_flight):
        assert min(parts.values()) >= 1
        assert sum(parts.values()) > total - len(in_flight)  # no more is lost than rounding down loses
    else:
        assert sum(parts.values()) == max(total, 0)


@given(st.integers(0, 10_000), loads)
def test_who_has_more_in_flight_gets_no_less(total: int, in_flight: dict[str, int]) -> None:
    parts = share(total, in_flight)
    for one, one_load in in_flight.items():
        assert all(parts[one] >= parts[other] for other, load in in_flight.items() if load < one_load)


def test_examples() -> None:
    assert share(10, {"a": 0}) == {"a": 10}
    assert share(10, {"a": 4, "b": 4}) == {"a": 5, "b": 5}
    assert share(100, {"busy": 90, "idle": 0}) == {"busy": 82, "idle": 17}
    assert share(1, {"a": 0, "b": 3}) == {"a": 0, "b": 1}
    assert share(0, {"a": 7}) == {"a": 0}
    assert share(5, {}) == {}
