"""The exact mix against all mixes."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spillway.decide.placement import (
    BELOW_FLOOR_USD_PER_HOUR,
    START_COST_HORIZON_HOURS,
    UNCOVERED_USD_PER_HOUR,
    Choice,
    Need,
    solve,
)

POOLS = {"b200": 4, "h200": 8}


@st.composite
def needs(draw: st.DrawFn) -> list[Need]:
    found = []
    for key in ("chat/a", "chat/b")[: draw(st.integers(1, 2))]:
        choices = [
            Choice(
                variant=f"{pool}-v",
                pool=pool,
                gpus_per_replica=gpus,
                units_per_replica=draw(st.sampled_from([0.5, 0.6, 1.0])),
                usd_per_hour=draw(st.sampled_from([8.0, 16.8, 20.0])),
                start_usd=draw(st.sampled_from([0.0, 1.4, 9.0])),
                placed=draw(st.integers(0, 2)),
                slots=draw(st.integers(0, 2)),
            )
            for pool, gpus in (("b200", 4), ("h200", draw(st.sampled_from([2, 8]))))[: draw(st.integers(1, 2))]
        ]
        floor = draw(st.integers(0, 2))
        ceiling = draw(st.integers(floor, 3))
        found.append(Need(key, float(draw(st.integers(0, 4))), floor, ceiling, tuple(choices)))
    return found


def mixes(need: Need) -> Iterator[tuple[tuple[int, int], ...]]:
    """Kept and new replicas of each choice."""
    ranges = [itertools.product(range(c.placed + 1), range(min(c.slots, need.ceiling) + 1)) for c in need.choices]
    for mix in itertools.product(*ranges):
        if sum(kept + new for kept, new in mix) <= need.ceiling:
            yield mix


def usd(need: Need, mix: Sequence[tuple[int, int]]) -> float:
    units = number = total = 0.0
    for choice, (kept, new) in zip(need.choices, mix, strict=True):
        units += (kept + new) * choice.units_per_replica
        number += kept + new
        total += (kept + new) * choice.usd_per_hour + new * choice.start_usd / START_COST_HORIZON_HOURS
    total += max(0.0, need.units - 1e-3 - units) * UNCOVERED_USD_PER_HOUR
    return total + max(0.0, need.floor - number) * BELOW_FLOOR_USD_PER_HOUR


def fits(given: Sequence[Need], combination: Sequence[Sequence[tuple[int, int]]], free: Mapping[str, int]) -> bool:
    taken = dict.fromkeys(free, 0)
    for need, mix in zip(given, combination, strict=True):
        for choice, (_, new) in zip(need.choices, mix, strict=True):
            taken[choice.pool] += new * choice.gpus_per_replica
    return all(taken[pool] <= free[pool] for pool in free)


def least_usd(given: Sequence[Need], free: Mapping[str, int]) -> float:
    combinations = itertools.product(*(list(mixes(need)) for need in given))
    return min(
        sum(usd(need, mix) for need, mix in zip(given, combination, strict=True))
        for combination in combinations
        if fits(given, combination, free)
    )


def cheapest_split(need: Need, replicas: Mapping[str, int]) -> tuple[tuple[int, int], ...]:
    """Replicas that are there are kept before new ones are started."""
    return tuple((min(c.placed, n := replicas[c.variant]), max(0, n - c.placed)) for c in need.choices)


@given(needs(), st.integers(0, 8), st.integers(0, 16))
@settings(max_examples=150, deadline=None)
def test_no_other_mix_is_cheaper(given: list[Need], b200: int, h200: int) -> None:
    free = {"b200": b200, "h200": h200}
    found = solve(given, free)
    splits = [cheapest_split(need, found[need.key].replicas) for need in given]
    for need, split in zip(given, splits, strict=True):
        for choice, (_, new) in zip(need.choices, split, strict=True):
            assert new <= choice.slots
        assert sum(kept + new for kept, new in split) <= need.ceiling
    assert fits(given, splits, free)
    best = least_usd(given, free)
    # The solver's own gap, and a millionth of a dollar for each tie that it breaks.
    assert sum(usd(need, split) for need, split in zip(given, splits, strict=True)) <= best * (1 + 1e-6) + 1e-3


@given(needs())
@settings(max_examples=30, deadline=None)
def test_the_order_of_needs_changes_nothing(given: list[Need]) -> None:
    assert solve(given, POOLS) == solve(list(reversed(given)), POOLS)


@given(needs(), st.integers(0, 8))
@settings(max_examples=60, deadline=None)
def test_what_is_not_covered_is_told(given: list[Need], free: int) -> None:
    found = solve(given, {"b200": free, "h200": free})
    for need in given:
        units = sum(c.units_per_replica * found[need.key].replicas[c.variant] for c in need.choices)
        assert found[need.key].uncovered_units == pytest.approx(max(0.0, need.units - units - 2e-3), abs=3e-3)


def test_nothing_to_choose_from() -> None:
    assert solve([], POOLS) == {}
    [mix] = solve([Need("chat/a", 2.0, 1, 3, ())], POOLS).values()
    assert (dict(mix.replicas), mix.uncovered_units) == ({}, 2.0)


def test_equal_offers_go_in_the_order_of_the_variants() -> None:
    def offer(name: str, pool: str) -> Choice:
        return Choice(name, pool, 4, 1.0, 16.8, 1.0, 0, 4)

    for names in (("x", "y"), ("y", "x")):
        need = Need("chat/a", 1.0, 0, 4, (offer(names[0], "b200"), offer(names[1], "h200")))
        assert solve([need], POOLS)["chat/a"].replicas == {names[0]: 1, names[1]: 0}
