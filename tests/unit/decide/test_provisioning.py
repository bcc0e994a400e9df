"""The rules that say how many replicas: what each must do whatever the load, and what is particular to each."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from spillway.decide.provisioning import RULES, Evidence, State, advance, layer_loads, rescale
from spillway.decide.provisioning.hedge import HexState
from spillway.decide.provisioning.lcp import LcpState

STORED: TypeAdapter[State] = TypeAdapter(State)
TICK = 30.0
LAYERS = 8
WORKS = st.lists(st.floats(0, 8), min_size=1, max_size=120)


def evidence(**changes: object) -> Evidence:
    base: dict[str, object] = {
        "time": 1e9,
        "seconds": TICK,
        "work": 0.0,
        "unserved": 0.0,
        "ready": 0.0,
        "on": 0,
        "layers": LAYERS,
        "off_usd": 0.02,
        "rent_usd": 0.005,
        "delay_seconds": 300.0,
        "drain_seconds": 60.0,
        "minimum_seconds": 0.0,
        "queue_seconds": 10.0,
        "youngest_seconds": math.inf,
    }
    return Evidence(**{**base, **changes})  # type: ignore[arg-type]


def play(rule: str, works: Sequence[float], stored: bool = False, **changes: object) -> Iterator[int]:
    """Layers on, tick by tick, of a fleet that does what the rule says; `stored`: by way of JSON."""
    state: State | None = None
    on, started = 0, -math.inf
    for tick, work in enumerate(works):
        now = 1e9 + tick * TICK
        seen = evidence(time=now, work=work, on=on, ready=float(on), youngest_seconds=now - started, **changes)
        state = advance(rule, state, seen)
        if stored:
            state = STORED.validate_json(STORED.dump_json(state))
        if state.on > on:
            started = now
        on = state.on
        yield on


@pytest.mark.parametrize("rule", RULES)
@given(works=WORKS)
@settings(max_examples=25, deadline=None)
def test_never_above_the_most_nor_below_none(rule: str, works: list[float]) -> None:
    assert all(0 <= on <= LAYERS for on in play(rule, works))


@pytest.mark.parametrize("rule", RULES)
@given(works=WORKS, off=st.floats(0, 0.005))
@settings(max_examples=25, deadline=None)
def test_a_replica_that_never_earns_its_rent_is_never_started(rule: str, works: list[float], off: float) -> None:
    assert not any(play(rule, works, off_usd=off))


@pytest.mark.parametrize("rule", RULES)
@given(works=WORKS, more=WORKS)
@settings(max_examples=25, deadline=None)
def test_what_comes_later_changes_nothing_before(rule: str, works: list[float], more: list[float]) -> None:
    assert list(play(rule, works)) == list(play(rule, [*works, *more]))[: len(works)]


@pytest.mark.parametrize("rule", RULES)
@given(works=st.lists(st.floats(0, 8), min_size=20, max_size=60))
@settings(max_examples=15, deadline=None)
def test_a_state_that_was_stored_goes_on_as_if_it_had_not_been(rule: str, works: list[float]) -> None:
    assert list(play(rule, works)) == list(play(rule, works, stored=True))


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("work", [0.0, 0.3, 1.0, 2.5, 6.9, 20.0])
def test_steady_demand_never_flaps(rule: str, work: float) -> None:
    day = round(86_400 / TICK)
    played = list(play(rule, [work] * (2 * day)))
    assert len(set(played[day:])) == 1
    assert abs(played[-1] - min(work, LAYERS)) <= 1


@pytest.mark.parametrize("rule", RULES)
def test_demand_that_stays_is_served_and_demand_that_ends_is_given_up(rule: str) -> None:
    hour = round(3600 / TICK)
    played = list(play(rule, [0.0] * hour + [4.0] * (3 * hour) + [0.0] * (6 * hour)))
    assert played[hour - 1] == 0
    assert played[4 * hour - 1] >= 4
    assert played[-1] == 0


@pytest.mark.parametrize("rule", RULES)
def test_nothing_stops_before_the_youngest_has_paid_off(rule: str) -> None:
    state = advance(rule, None, evidence(on=3, ready=3.0, work=0.0, youngest_seconds=math.inf))
    for tick in range(1, 400):
        state = advance(rule, state, evidence(time=1e9 + tick * TICK, on=3, ready=3.0, youngest_seconds=200.0))
        assert state.on == 3
    later = advance(rule, state, evidence(time=1e9 + 400 * TICK, on=3, ready=3.0, youngest_seconds=300.0))
    assert later.on < 3


@pytest.mark.parametrize("rule", RULES)
def test_what_runs_counts_when_the_state_is_lost(rule: str) -> None:
    state = advance(rule, None, evidence(on=3, ready=3.0, work=2.9, seconds=0.0))
    for tick in range(1, 240):
        assert state.on == 3
        state = advance(rule, state, evidence(time=1e9 + tick * TICK, on=3, ready=3.0, work=2.9))


@pytest.mark.parametrize("rule", RULES)
def test_replicas_that_are_paid_anyway_start_sooner(rule: str) -> None:
    works = [0.5] * 240
    paid = next((i for i, on in enumerate(play(rule, works, rent_shares=(0.05,))) if on), len(works))
    dear = next((i for i, on in enumerate(play(rule, works)) if on), len(works))
    assert paid < dear


@pytest.mark.parametrize("rule", RULES)
def test_another_rules_state_is_not_used(rule: str) -> None:
    foreign: State = HexState(on=7) if rule == "lcp" else LcpState(on=7)
    assert advance(rule, foreign, evidence(work=1.0)).rule == rule


@pytest.mark.parametrize("rule", RULES)
def test_in_other_units_and_back_it_is_the_same_number(rule: str) -> None:
    state: State | None = None
    for tick in range(60):
        state = advance(rule, state, evidence(time=1e9 + tick * TICK, on=4, ready=4.0, work=3.7))
    assert state is not None
    there = rescale(state, 0.5, 2.0)
    assert there.on == 2
    assert rescale(there, 2.0, 0.5).on == state.on
    advance(rule, there, evidence(time=1e9 + 61 * TICK, on=2, ready=2.0, work=1.8))  # and it goes on


@pytest.mark.parametrize("rule", RULES)
@given(
    works=st.lists(st.floats(0, 30), min_size=1, max_size=30),
    unserved=st.floats(0, 30),
    seconds=st.floats(0, 60),
    delay=st.floats(0, 7200),
    prices=st.tuples(st.floats(0, 10), st.floats(1e-12, 10)),
)
@settings(max_examples=50, deadline=None)
def test_every_number_stays_finite(
    rule: str, works: list[float], unserved: float, seconds: float, delay: float, prices: tuple[float, float]
) -> None:
    state: State | None = None
    for tick, work in enumerate(works):
        seen = evidence(
            time=1e9 + tick * seconds,
            seconds=seconds,
            work=work,
            unserved=unserved,
            on=state.on if state else 0,
            delay_seconds=delay,
            off_usd=prices[0],
            rent_usd=prices[1],
        )
        state = advance(rule, state, seen)
        text = STORED.dump_json(state).decode()
        assert "NaN" not in text
        assert "Infinity" not in text
        assert "null" not in text


@given(WORKS, st.lists(st.floats(0, 4), min_size=120, max_size=120))
@settings(max_examples=25, deadline=None)
def test_lcp_more_work_all_along_never_gives_fewer_layers(works: list[float], extra: list[float]) -> None:
    more = [work + e for work, e in zip(works, extra, strict=False)]
    fewer = list(play("lcp", works))
    # Without the hold of young replicas, which depends on when they were started.
    assert all(a <= b for a, b in zip(_free("lcp", works), _free("lcp", more), strict=True))
    assert len(fewer) == len(works)


@given(WORKS, st.floats(0.006, 0.1), st.floats(1, 4))
@settings(max_examples=25, deadline=None)
def test_lcp_a_dearer_outside_never_gives_fewer_layers(works: list[float], off: float, factor: float) -> None:
    assert all(
        a <= b for a, b in zip(_free("lcp", works, off_usd=off), _free("lcp", works, off_usd=off * factor), strict=True)
    )


def _free(rule: str, works: Sequence[float], **changes: object) -> Iterator[int]:
    state: State | None = None
    for tick, work in enumerate(works):
        seen = evidence(time=1e9 + tick * TICK, work=work, on=state.on if state else 0, **changes)
        state = advance(rule, state, seen)
        yield state.on


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
    assert layer_loads(evidence(work=work, unserved=unserved, ready=ready), 3) == pytest.approx(expected)


def test_lcp_by_hand() -> None:
    # beta = 0.005 * 360 s = $1.80; a full layer gains (0.02 - 0.005) * 30 s = $0.45 a tick: on after four ticks.
    assert list(play("lcp", [1.0] * 5)) == [0, 0, 0, 1, 1]
    # A layer that does nothing loses $0.15 a tick: off after twelve.
    state = LcpState(1, (1.8,))
    for tick in range(12):
        assert state.on == 1, tick
        state = advance("lcp", state, evidence(time=1e9 + tick * TICK, on=1, ready=1.0))  # type: ignore[assignment]
    assert state.on == 0


def test_hex_follows_the_expert_that_is_cheapest_on_this_traffic() -> None:
    """Bursts of two minutes every hour never pay for a start of five minutes; bursts of forty minutes do."""

    def bursts(minutes: int) -> list[float]:
        return [3.0 if (tick * TICK) % 3600 < minutes * 60 else 0.0 for tick in range(round(2 * 86_400 / TICK))]

    short = list(play("hex", bursts(2)))[-round(86_400 / TICK) :]
    long = list(play("hex", bursts(40)))[-round(86_400 / TICK) :]
    assert max(short) <= 1
    assert np.mean(long) > 1.5


def _advice(monkeypatch: pytest.MonkeyPatch, path: Callable[[float], float]) -> None:
    def scenarios(history: object, level: float) -> np.ndarray:
        return np.full((16, 24), path(level))

    monkeypatch.setattr("spillway.decide.provisioning.forecast.scenarios", scenarios)


def test_plcp_a_forecast_only_starts_earlier_or_stops_later(monkeypatch: pytest.MonkeyPatch) -> None:
    hour = round(3600 / TICK)
    works = [0.0] * hour + [2.0] * (2 * hour) + [0.0] * (3 * hour)
    plain = list(play("lcp", works))
    for advised in (lambda _: 0.0, lambda _: 5.0):
        with monkeypatch.context() as patched:
            _advice(patched, advised)
            played = list(play("plcp", works))
        assert all(a >= b for a, b in zip(played, plain, strict=True))
