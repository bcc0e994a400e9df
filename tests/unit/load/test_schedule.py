from __future__ import annotations

import pytest

from e2e.load.schedule import Schedule
from e2e.load.traces import Bin, Trace

TRACE = Trace(
    "t", "made for the test", False, (Bin(0, 100, 120_000, 21_000), Bin(10, 0, 0, 0), Bin(20, 50, 40_000, 9_000))
)


def test_a_replay_keeps_counts_and_tokens_of_its_bins() -> None:
    schedule = Schedule.of(TRACE, seconds=30, seed=1)
    first = [a for a in schedule.arrivals if a.at < 10]
    assert (len(schedule.arrivals), len(first)) == (150, 100)
    assert not [a for a in schedule.arrivals if 10 <= a.at < 20]
    assert sum(a.prompt_tokens for a in first) == pytest.approx(120_000, rel=0.01)
    assert sum(a.output_tokens for a in first) == pytest.approx(21_000, rel=0.01)
    assert len({a.prompt_tokens for a in first}) > 50
    assert list(schedule.arrivals) == sorted(schedule.arrivals)


def test_same_seed_same_schedule() -> None:
    assert Schedule.of(TRACE, seconds=30, seed=1) == Schedule.of(TRACE, seconds=30, seed=1)
    assert Schedule.of(TRACE, seconds=30, seed=1) != Schedule.of(TRACE, seconds=30, seed=2)


def test_speed_compresses_time_and_the_trace_begins_again() -> None:
    fast = Schedule.of(TRACE, seconds=30, speed=4)
    assert len(fast.arrivals) == 4 * 150
    assert max(a.at for a in fast.arrivals if a.at < 7.5) > 5
    assert not [a for a in fast.arrivals if 2.5 <= a.at < 5.0]


def test_scale_thins_and_start_skips() -> None:
    assert len(Schedule.of(TRACE, seconds=10, scale=0.25).arrivals) == 25
    assert len(Schedule.of(TRACE, seconds=10, start=20).arrivals) == 50


def test_step_multiplies_its_window_alone() -> None:
    plain = Schedule.steady(10, 60)
    stepped = plain.step(5, 20, 10)
    window = [a for a in stepped.arrivals if 20 <= a.at < 30]
    assert len(window) == 500
    assert max(sum(t <= a.at < t + 0.5 for a in window) for t in range(20, 30)) < 50
    assert len(stepped.arrivals) == 500 + 500
    assert [a for a in stepped.arrivals if a.at < 20] == [a for a in plain.arrivals if a.at < 20]
    assert len(plain.step(2, 30).arrivals) == 300 + 600
    assert len(plain.step(0, 30).arrivals) == 300
    assert 250 < len(plain.step(0.5, 0).arrivals) < 350
    assert stepped == plain.step(5, 20, 10)
    with pytest.raises(ValueError, match="negative"):
        plain.step(-1, 0)


def test_first_bounds_the_count() -> None:
    assert len(Schedule.steady(10, 60).first(7).arrivals) == 7


@pytest.mark.parametrize(("seconds", "speed", "scale"), [(0.0, 1.0, 1.0), (30.0, 0.0, 1.0), (30.0, 1.0, -1.0)])
def test_nonsense_is_refused(seconds: float, speed: float, scale: float) -> None:
    with pytest.raises(ValueError, match="above 0"):
        Schedule.of(TRACE, seconds=seconds, speed=speed, scale=scale)
