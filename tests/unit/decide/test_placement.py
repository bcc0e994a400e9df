"""The exact mix against all mixes."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spillway.decide.placement import (
    BELOW_FLOOR_USD_PER_HOUR,
    OUTBID_MARGIN,
    SHADOW_PRICE,
    START_COST_HORIZON_HOURS,
    UNCOVERED_USD_PER_HOUR,
    Choice,
    Need,
    Room,
    solve,
)

POOLS = {"b200": 4, "h200": 8}


def rooms(free: Mapping[str, int], **of_all: Any) -> list[Room]:
    return [Room(pool, gpus, **of_all) for pool, gpus in free.items()]


@st.composite
def needs(draw: st.DrawFn) -> list[Need]:
    """One deployment that may have replicas, or two without: who makes way for whom is in the tables below."""
    found = []
    keys = ("chat/a", "chat/b")[: draw(st.integers(1, 2))]
    for key in keys:
        choices = [
            Choice(
                variant=f"{pool}-v",
                pool=pool,
                gpus_per_replica=gpus,
                units_per_replica=draw(st.sampled_from([0.5, 0.6, 1.0])),
                usd_per_hour=draw(st.sampled_from([8.0, 16.8, 20.0])),
                start_usd=draw(st.sampled_from([0.0, 1.4, 9.0])),
                placed=draw(st.integers(0, 2)) if len(keys) == 1 else 0,
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
    """Replicas of a size and larger ones cannot take more than whole slots of that size."""
    new = [
        (choice.pool, choice.gpus_per_replica, count)
        for need, mix in zip(given, combination, strict=True)
        for choice, (_, count) in zip(need.choices, mix, strict=True)
    ]
    return all(
        sum(gpus * count for at, gpus, count in new if at == pool and gpus >= size) <= free[pool] // size * size
        for pool, size, _ in new
    )


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
    found = solve(given, rooms(free))
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
    assert solve(given, rooms(POOLS)) == solve(list(reversed(given)), list(reversed(rooms(POOLS))))


@given(needs(), st.integers(0, 8))
@settings(max_examples=60, deadline=None)
def test_what_is_not_covered_is_told(given: list[Need], free: int) -> None:
    found = solve(given, rooms({"b200": free, "h200": free}))
    for need in given:
        units = sum(c.units_per_replica * found[need.key].replicas[c.variant] for c in need.choices)
        assert found[need.key].uncovered_units == pytest.approx(max(0.0, need.units - units - 2e-3), abs=3e-3)


def test_nothing_to_choose_from() -> None:
    assert solve([], rooms(POOLS)) == {}
    [mix] = solve([Need("chat/a", 2.0, 1, 3, ())], rooms(POOLS)).values()
    assert (dict(mix.replicas), mix.uncovered_units) == ({}, 2.0)


def test_equal_offers_go_in_the_order_of_the_variants() -> None:
    def offer(name: str, pool: str) -> Choice:
        return Choice(name, pool, 4, 1.0, 16.8, 1.0, 0, 4)

    for names in (("x", "y"), ("y", "x")):
        need = Need("chat/a", 1.0, 0, 4, (offer(names[0], "b200"), offer(names[1], "h200")))
        assert solve([need], rooms(POOLS))["chat/a"].replicas == {names[0]: 1, names[1]: 0}


def wants(key: str, units: float, worth: float, *, placed: int = 0, pool: str = "b200") -> Need:
    """Replicas of 4 GPUs, at 16.8 $/h each, that do a unit of work each."""
    choice = Choice(f"{pool}-v", pool, 4, 1.0, 16.8, 1.0, placed, 8)
    return Need(key, units, 0, 8, (choice,), usd_per_unit_hour=worth)


@pytest.mark.parametrize(
    ("running", "worth", "expected"),
    [
        (0, (30.0, 10.0), (2, 0)),
        (0, (10.0, 30.0), (0, 2)),
        (2, (30.0, 10.0), (2, 0)),
        (2, (10.0 * (1 + OUTBID_MARGIN / 2), 10.0), (0, 2)),
        (2, (10.0, 10.0), (0, 2)),
    ],
    ids=["free: worth more", "free: worth less", "running makes way", "not for a little more", "nor for the same"],
)
def test_a_full_pool_goes_to_whom_it_is_worth_most(
    running: int, worth: tuple[float, float], expected: tuple[int, int]
) -> None:
    needs = [wants("chat/a", 2.0, worth[0]), wants("chat/b", 2.0, worth[1], placed=running)]
    found = solve(needs, [Room("b200", 8 - 4 * running)])
    assert (found["chat/a"].replicas["b200-v"], found["chat/b"].replicas["b200-v"]) == expected
    assert sum(mix.uncovered_units for mix in found.values()) == pytest.approx(2.0, abs=1e-2)


def test_who_is_outbid_takes_the_next_pool() -> None:
    both = tuple(wants("", 0.0, 0.0, pool=pool).choices[0] for pool in ("b200", "h200"))
    needs = [wants("chat/a", 2.0, 30.0), Need("chat/b", 2.0, 0, 8, both, usd_per_unit_hour=10.0)]
    found = solve(needs, rooms({"b200": 8, "h200": 8}))
    assert found["chat/a"].replicas == {"b200-v": 2}
    assert found["chat/b"].replicas == {"b200-v": 0, "h200-v": 2}


@pytest.mark.parametrize(("reserved", "expected"), [(0, (0, 2)), (8, (2, 0)), (4, (1, 1))])
def test_gpus_that_are_paid_anyway_come_first(reserved: int, expected: tuple[int, int]) -> None:
    dear = Choice("reserved", "b200", 4, 1.0, 20.0, 0.0, 0, 8)
    cheap = Choice("on-demand", "h200", 4, 1.0, 10.0, 0.0, 0, 8)
    need = Need("chat/a", 2.0, 0, 8, (dear, cheap))
    rooms = [Room("b200", 16, reserved_gpus=reserved, usd_per_gpu_hour=5.0), Room("h200", 16, usd_per_gpu_hour=2.5)]
    found = solve([need], rooms)["chat/a"].replicas
    assert (found["reserved"], found["on-demand"]) == expected
    assert 20.0 * SHADOW_PRICE < 10.0, "the table means something"


def test_a_namespace_takes_no_more_than_its_share() -> None:
    needs = [wants("chat/a", 2.0, 30.0), wants("search/b", 2.0, 10.0)]
    found = solve(needs, [Room("b200", 16, namespace_gpus=(("chat", 4),))])
    assert found["chat/a"].replicas == {"b200-v": 1}
    assert found["chat/a"].uncovered_units == pytest.approx(1.0, abs=1e-2)
    assert found["search/b"].replicas == {"b200-v": 2}
