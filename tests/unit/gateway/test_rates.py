"""A provider's requests per minute over gateway processes that come, go and learn of their shares late."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from spillway.gateway.rates import RateShares


def idle(*processes: str) -> dict[str, dict[str, int]]:
    return {process: {} for process in processes}


def test_a_share_grows_only_by_what_another_one_has_given_up() -> None:
    rates = RateShares()
    rates.share_out({"zai": 60}, idle("a"))
    assert rates.of("a") == {"zai": 60}
    rates.share_out({"zai": 60}, idle("a", "b"))
    assert (rates.of("a"), rates.of("b")) == ({"zai": 30}, {"zai": 0})
    assert not rates.acknowledged("a", {"zai": 60}), "what it had before"
    rates.share_out({"zai": 60}, idle("a", "b"))
    assert rates.of("b") == {"zai": 0}
    assert rates.acknowledged("a", {"zai": 30})
    rates.share_out({"zai": 60}, idle("a", "b"))
    assert rates.of("b") == {"zai": 30}
    rates.share_out({"zai": 60}, idle("b"))
    assert rates.of("b") == {"zai": 60}, "a process that is gone sends nothing"


def test_the_division_follows_the_traffic_and_not_its_noise() -> None:
    rates = RateShares()
    rates.share_out({"zai": 100}, {"a": {"zai": 10}, "b": {"zai": 10}})
    even = rates.of("a")
    rates.share_out({"zai": 100}, {"a": {"zai": 12}, "b": {"zai": 9}})
    assert rates.of("a") == even
    rates.share_out({"zai": 100}, {"a": {"zai": 40}, "b": {"zai": 1}})
    assert rates.of("b")["zai"] < 30
    assert rates.acknowledged("b", rates.of("b"))
    rates.share_out({"zai": 100}, {"a": {"zai": 40}, "b": {"zai": 1}})
    assert rates.of("a")["zai"] > 70


def test_a_limit_that_went_is_forgotten() -> None:
    rates = RateShares()
    rates.share_out({"zai": 60, "deep": 5}, idle("a"))
    rates.share_out({"deep": 5}, idle("a"))
    assert rates.of("a") == {"deep": 5}
    assert rates.of("never seen") == {}


steps = st.lists(
    st.tuples(
        st.integers(1, 100),  # the limit
        st.dictionaries(st.sampled_from("abc"), st.integers(0, 50), min_size=1),  # who is alive, and how busy
        st.sets(st.sampled_from("abc")),  # who acknowledges
    ),
    max_size=30,
)


@settings(max_examples=200)
@given(steps)
def test_what_may_be_in_force_never_adds_up_to_more_than_the_limit(
    steps: list[tuple[int, dict[str, int], set[str]]],
) -> None:
    """Each process may have anything that it was told since it last acknowledged."""
    rates = RateShares()
    told: dict[str, list[int]] = {}
    last = 0
    for limit, load, answering in steps:
        rates.share_out({"zai": limit}, {process: {"zai": count} for process, count in load.items()})
        told = {process: [*told.get(process, []), rates.of(process)["zai"]] for process in load}
        assert sum(max(had) for had in told.values()) <= max(limit, last)
        assert sum(had[-1] for had in told.values()) <= limit
        for process in answering & load.keys():
            rates.acknowledged(process, {"zai": told[process][-1]})
            told[process] = told[process][-1:]
        last = sum(max(had) for had in told.values())
