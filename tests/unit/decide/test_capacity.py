"""What a replica really does is learned from engines that are full, and bounded by what is plausible."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spillway.decide.capacity import BOUNDS, corrected, learn
from spillway.decide.memory import CapacityMemory, DeploymentMemory
from spillway.decide.snapshot import Deployment, EngineRates, Phase, Replica, Settings, Snapshot

from .world import BLACKWELL, deployment

P0, D0 = BLACKWELL.prefill_tokens_per_second, BLACKWELL.decode_tokens_per_second
TICK = 10.0
Mix = tuple[float, float]  # input and output tokens of a request


def full(
    seconds: float,
    true: tuple[float, float],
    mixes: Sequence[Mix] = ((1155, 211),),
    waiting: int = 3,
    load: float = 1.0,
    **changes: object,
) -> DeploymentMemory:
    """Memory after that long at `load` of what a replica truly does, (prefill, decode) tokens per second."""
    memory = DeploymentMemory()
    rates_changes = {k: v for k, v in changes.items() if k.endswith(("latency_seconds", "token_seconds_p95"))}
    for tick in range(round(seconds / TICK)):
        tokens_in, tokens_out = mixes[tick * len(mixes) // round(seconds / TICK)]
        per_second = load / (tokens_in / true[0] + tokens_out / true[1])
        seen = seen_at(tick, waiting, per_second * tokens_in, per_second * tokens_out, rates_changes, changes)
        memory = learn(seen, seen.deployments[0], memory, TICK)
    return memory


def seen_at(
    tick: int, waiting: int, rate_in: float, rate_out: float, rates: dict[str, object], changes: dict[str, object]
) -> Snapshot:
    now = 10_000.0 + tick * TICK
    replica = Replica("a", BLACKWELL.name, "rev1", Phase.READY, 0.0, 0.0, 300.0, in_flight=60, waiting=waiting)
    one = deployment(
        replicas=(replica,),
        rates=(EngineRates(BLACKWELL.name, rate_in, rate_out, **rates),),  # type: ignore[arg-type]
        **{k: v for k, v in changes.items() if k not in rates},
    )
    return Snapshot(now, (one,), (), settings=Settings(metrics_window_seconds=60))


def rates_of(memory: DeploymentMemory, base: Deployment | None = None) -> tuple[float, float]:
    variant = corrected(base or deployment(), memory.capacity).variants[0]
    return variant.prefill_tokens_per_second, variant.decode_tokens_per_second


@pytest.mark.parametrize("factor", [0.6, 0.8, 1.0, 1.25, 2.0])
def test_a_few_full_hours_show_what_a_replica_does(factor: float) -> None:
    prefill, decode = rates_of(full(4 * 3600, (P0 * factor, D0 * factor)))
    per_request = 1155 / prefill + 211 / decode
    true = (1155 / P0 + 211 / D0) / factor
    assert per_request == pytest.approx(true, rel=0.05)


def test_two_mixes_tell_prefill_from_decode() -> None:
    prefill, decode = rates_of(full(40 * 3600, (P0 * 2, D0 * 0.7), mixes=[(8000, 50), (200, 400)] * 20))
    assert prefill == pytest.approx(P0 * 2, rel=0.15)
    assert decode == pytest.approx(D0 * 0.7, rel=0.1)


def test_engines_with_room_say_nothing() -> None:
    assert full(3600, (P0 / 2, D0 / 2), waiting=0, load=0.9).capacity == {}


def test_more_than_a_replica_could_do_is_believed_though_nothing_waits() -> None:
    prefill, _ = rates_of(full(4 * 3600, (P0 * 1.5, D0 * 1.5), waiting=0))
    assert prefill > P0 * 1.3


def test_full_for_less_than_the_window_says_nothing() -> None:
    memory = full(50, (P0 / 2, D0 / 2))
    assert not memory.capacity[BLACKWELL.name].corrected


def test_slower_than_promised_counts_as_less() -> None:
    fast = rates_of(full(3600, (P0, D0)))
    slow = rates_of(full(3600, (P0, D0), inter_token_seconds=0.05, inter_token_latency_seconds=0.1))
    assert slow[1] < 0.75 * fast[1]


@given(
    st.lists(
        st.tuples(st.floats(0, 1e9), st.floats(0, 1e9), st.integers(0, 5), st.floats(0, 600)), min_size=1, max_size=80
    )
)
@settings(max_examples=100, deadline=None)
def test_whatever_engines_say_it_stays_within_bounds(told: list[tuple[float, float, int, float]]) -> None:
    memory = DeploymentMemory()
    for tick, (rate_in, rate_out, waiting, seconds) in enumerate(told):
        seen = seen_at(tick, waiting, rate_in, rate_out, {}, {})
        memory = learn(seen, seen.deployments[0], memory, seconds)
    prefill, decode = rates_of(memory)
    low, high = BOUNDS
    assert low * 0.999 <= prefill / P0 <= high * 1.001
    assert low * 0.999 <= decode / D0 <= high * 1.001


def test_one_absurd_measurement_moves_little() -> None:
    memory = full(2 * 3600, (P0, D0))
    for times in (2.0, 50.0):
        seen = seen_at(10_000, 3, times * P0, times * D0, {}, {})
        known = replace(memory.capacity[BLACKWELL.name], full_since=1.0)
        after = learn(seen, seen.deployments[0], replace(memory, capacity={BLACKWELL.name: known}), TICK)
        assert rates_of(after)[0] == pytest.approx(P0, rel=0.1)


def test_nothing_is_kept_of_a_variant_that_is_gone() -> None:
    seen = seen_at(0, 0, 0, 0, {}, {})
    memory = DeploymentMemory(capacity={"gone": CapacityMemory(seconds=5, prefill_correction=2)})
    assert "gone" not in learn(seen, seen.deployments[0], memory, TICK).capacity
