"""Known events raise the floor so early that the replicas answer when they begin."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spillway.decide.snapshot import HintWindow
from spillway.decide.target import hinted_replicas

from .world import BLACKWELL, World, deployment

BEGIN = 20_000.0
EVENT = HintWindow(BEGIN, BEGIN + 3600, 4)


def test_replicas_answer_when_it_begins_and_go_when_it_is_over() -> None:
    world = World(deployment=deployment(hints=(EVENT,)), work=lambda _: 0.3)
    world.run(BEGIN - world.now)
    assert world.ready(BLACKWELL.name) == 4
    told = next(d for d in world.changes() if d.code == "Hint")
    assert "spec.hints wants 4 from 1970-01-01 05:33 UTC on, in 6 min" in told.message
    world.run(3600)
    assert world.ready(BLACKWELL.name) == 4
    world.run(7200)
    assert world.ready(BLACKWELL.name) == 1


def test_not_sooner_than_a_cold_start_before() -> None:
    world = World(deployment=deployment(hints=(EVENT,)), work=lambda _: 0.3)
    world.run(BEGIN - 340 - world.now)
    assert sum(world.asked.values()) == 1


@pytest.mark.parametrize(("now", "expected"), [(-331, 0), (-330, 4), (0, 4), (3599, 4), (3600, 0)])
def test_when(now: float, expected: int) -> None:
    assert hinted_replicas(deployment(hints=(EVENT,)), 300.0, BEGIN + now) == expected


def test_the_largest_of_several_counts() -> None:
    more = replace(EVENT, min_replicas=6, begin=BEGIN + 1000)
    assert hinted_replicas(deployment(hints=(EVENT, more)), 300.0, BEGIN + 800) == 6


@given(st.integers(1, 1000), st.integers(0, 5), st.integers(5, 9))
@settings(max_examples=20, deadline=None)
def test_never_above_the_most_nor_below_the_floor(wanted: int, floor: int, most: int) -> None:
    one = deployment(hints=(HintWindow(0, 1e9, wanted),), min_replicas=floor, max_replicas=most)
    outcome = World(deployment=one, work=lambda _: 0.3, stock={"b200": 80, "h200": 0}, pool_gpus=80).step()
    assert sum(outcome.desired.values()) == min(max(wanted, floor), most)
