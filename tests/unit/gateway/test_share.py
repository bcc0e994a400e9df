from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from spillway.gateway.share import growing, share

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


@given(st.integers(0, 1000), loads, st.dictionaries(st.text("abcdef", min_size=1, max_size=4), st.integers(0, 1000)))
def test_shares_grow_only_out_of_what_nobody_holds(total: int, in_flight: dict[str, int], held: dict[str, int]) -> None:
    wanted = share(total, in_flight)
    told = growing(total, wanted, held)
    assert all(0 <= told[process] <= wanted[process] for process in wanted)
    worst = sum(max(told.get(process, 0), has) for process, has in held.items())
    worst += sum(part for process, part in told.items() if process not in held)
    assert worst <= max(total, sum(held.values()))


def test_a_share_moves_in_two_steps() -> None:
    wanted = {"a": 4, "b": 6}
    assert growing(10, wanted, {"a": 10}) == {"a": 4, "b": 0}
    assert growing(10, wanted, {"a": 4}) == {"a": 4, "b": 6}
    assert growing(10, wanted, {}) == wanted
    assert growing(10, {"b": 10}, {"a": 7, "b": 3}) == {"b": 3}, "one that is no longer asked still holds"
