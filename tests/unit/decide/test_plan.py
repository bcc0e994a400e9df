"""What `plan` does over time in a virtual cluster."""

from __future__ import annotations

import math
import re
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spillway.decide import Memory, decode, decode_memory, encode, plan
from spillway.decide.codec import UnreadableMemory
from spillway.decide.outcome import Plan
from spillway.decide.snapshot import Budget, Demand, Phase, Snapshot

from .world import BLACKWELL, HOPPER, REQUESTS_PER_UNIT, ZAI, World, deployment


def test_starts_the_floor_on_the_cheapest_pool_at_once() -> None:
    world = World()
    outcome = world.step()
    assert outcome.desired == {BLACKWELL.name: 1}
    assert "FloorRaised" in world.codes()


def test_steady_demand_never_flaps() -> None:
    world = World(work=lambda _: 2.6)
    world.run(3 * 3600)
    settled = len(world.changes())
    world.run(24 * 3600)
    assert len(world.changes()) == settled
    assert world.ready(BLACKWELL.name) in (2, 3)


def test_demand_that_rises_is_told_in_words_and_dollars() -> None:
    world = World(work=lambda t: 0.5 if t < 5000 else 2.9)
    world.run(8000)
    rose = next(d for d in world.changes() if d.code == "DemandRose")
    assert rose.before == 1
    assert rose.after == 2
    assert "2.9 replicas of work" in rose.message
    assert "$16.80/h" in rose.message
    assert rose.usd_per_hour < 0  # it saves more outside than it costs


def test_what_a_dearer_variant_gives_up_is_told_beside_what_others_take() -> None:
    """Room for two B200 replicas; two and more of H200 go when 2.1 replicas of work are left."""
    world = World(
        work=lambda t: 3.9 if t < 30_000 else 2.1,
        stock={"b200": 8, "h200": 64},
        pool_gpus=8,
        deployment=deployment(max_replicas=10),
    )
    world.run(60_000)
    fell = [d for d in world.changes() if d.code == "DemandFell" and d.variant == HOPPER.name]
    assert fell[-1].after == 0
    outside = float(re.search(r"would take costs \$([\d.]+)/h elsewhere", fell[-1].message)[1])  # type: ignore[index]
    prices = (ZAI.usd_per_million_input * 1155 + ZAI.usd_per_million_output * 211) / 1e6
    assert outside == pytest.approx(0.1 * REQUESTS_PER_UNIT * prices * 3600, rel=0.05)


def test_replicas_fall_after_demand_and_drain_first() -> None:
    world = World(work=lambda t: 3.0 if t < 20000 else 0.5)
    world.run(19000)
    assert world.ready(BLACKWELL.name) == 3
    drained: set[str] = set()
    for _ in range(1000):
        drained |= {name for w in world.step().workloads for name in w.draining}
    assert world.ready(BLACKWELL.name) == 1
    assert len(drained) == 2


def test_a_replica_with_requests_is_not_stopped_before_they_end() -> None:
    world = World(work=lambda t: 3.0 if t < 20000 else 0.5)
    world.run(19000)
    busy = {name: replace(r, in_flight=5) for name, r in world.replicas.items()}
    world.replicas.update(busy)
    while not any(w.draining for w in world.step().workloads):
        assert world.now < 40000
    assert sum(world.asked.values()) == 3
    world.run(100)
    assert sum(world.asked.values()) == 3
    world.replicas.update({name: replace(r, in_flight=0) for name, r in world.replicas.items()})
    world.run(20)
    assert sum(world.asked.values()) < 3


def test_full_pool_falls_back_to_the_next_variant_after_its_timeout() -> None:
    world = World(work=lambda _: 0.8, stock={"b200": 0, "h200": 32}, timeout=120)
    world.run(110)
    assert world.asked[BLACKWELL.name, "rev1"] == 1
    world.run(30)
    assert (BLACKWELL.name, "rev1") not in world.asked
    assert world.asked[HOPPER.name, "rev1"] >= 1
    assert "PoolOutOfCapacity" in world.codes()
    world.run(400)
    assert world.ready(HOPPER.name) >= 1


def test_a_fallback_is_as_large_as_what_it_replaces() -> None:
    """Four B200 replicas wanted, room for two: the rest is asked of H200 at once, more of them as they are smaller."""
    world = World(
        work=lambda t: 0.8 if t < 3000 else 3.9,
        stock={"b200": 8, "h200": 64},
        pool_gpus=64,
        timeout=120,
        deployment=deployment(max_replicas=10),
    )
    world.run(2000 + 2400)
    moved = next(d for d in world.changes() if d.variant == HOPPER.name)
    assert moved.after >= 3
    assert world.asked[BLACKWELL.name, "rev1"] >= 2


def test_what_starting_replicas_will_take_starts_no_more() -> None:
    world = World(work=lambda _: 3.9, deployment=deployment(max_replicas=10))
    spilling = Demand(3.9 * REQUESTS_PER_UNIT, 1155, 211, spilled_per_second=2.9 * REQUESTS_PER_UNIT)
    wanted = set()
    for _ in range(200):
        snapshot = world.snapshot()
        starting = any(r.phase is not Phase.READY for r in world.replicas.values())
        one = replace(snapshot.deployments[0], demand=spilling if starting else snapshot.deployments[0].demand)
        outcome, world.memory = plan(replace(snapshot, deployments=(one,)), world.memory)
        world.follow(outcome)
        world.now += world.tick
        wanted.add(outcome.deployments[0].replicas)
    assert max(wanted) == 4


def test_the_other_pool_serves_on_until_the_cheaper_one_is_ready_again() -> None:
    world = World(work=lambda _: 0.8, stock={"b200": 0, "h200": 32}, timeout=60)
    world.run(1000)
    assert world.ready(HOPPER.name) >= 1
    world.stock["b200"] = 32
    for _ in range(2000):
        world.step()
        assert world.ready(HOPPER.name) + world.ready(BLACKWELL.name) >= 1
    assert world.ready(BLACKWELL.name) == 1
    assert world.ready(HOPPER.name) == 0
    assert "CheaperVariant" in world.codes()


@pytest.mark.parametrize(
    ("demand", "words"),
    [
        (None, "the metrics have not come yet"),
        (Demand(0, 1155, 211, age_seconds=math.inf), "the metrics have not come yet"),
        (Demand(0, 1155, 211, age_seconds=1e9), "the metrics have not come yet"),  # what observe says for none
        (Demand(1, 1155, 211, age_seconds=75.2), "the metrics are 75 s old"),
    ],
)
def test_missing_metrics_are_told_in_words(demand: Demand | None, words: str) -> None:
    snapshot = World().snapshot()
    blind = replace(snapshot.deployments[0], demand=demand)
    told, _ = plan(replace(snapshot, deployments=(blind,)), Memory())
    messages = [d.message for d in told.deployments[0].decisions if d.code == "MetricsStale"]
    assert [message.partition(": ")[2] for message in messages] == [words]


def test_stale_metrics_hold_everything() -> None:
    world = World(work=lambda _: 3.0)
    world.run(20000)
    before = dict(world.asked)
    world.metrics = False
    outcome = world.run(3600)
    assert world.asked == before
    assert outcome.metrics_stale
    assert "MetricsStale" in world.codes()
    world.metrics = True
    world.run(600)
    assert world.asked == before


def test_restart_without_memory_keeps_the_fleet() -> None:
    world = World(work=lambda _: 2.9)
    world.run(20000)
    before, told = dict(world.asked), len(world.changes())
    world.memory = Memory()
    world.run(7200)
    assert world.asked == before
    assert len(world.changes()) == told


def test_spill_that_is_cheaper_than_a_replica_starts_none() -> None:
    cheap = replace(ZAI, usd_per_million_input=0.05, usd_per_million_output=0.1)
    world = World(deployment=deployment(min_replicas=0, providers=(cheap,)), work=lambda _: 3.0)
    outcome = world.run(3600)
    assert outcome.replicas == 0
    assert outcome.spill_cost_ratio is not None
    assert outcome.spill_cost_ratio < 1
    assert outcome.spill.allowed


def test_without_money_outside_the_same_rule_provisions() -> None:
    cheap = replace(ZAI, usd_per_million_input=0.05, usd_per_million_output=0.1, affordable_in_flight=0)
    world = World(deployment=deployment(min_replicas=0, providers=(cheap,)), work=lambda _: 3.0)
    outcome = world.run(3600)
    assert outcome.replicas == 3
    assert not outcome.spill.allowed


def test_spent_budget_is_named_in_the_refusal() -> None:
    from decimal import Decimal

    broke = replace(ZAI, affordable_in_flight=0, unavailable="BudgetSpent", unavailable_message="spent")
    world = World(deployment=deployment(providers=(broke,)))
    world.run(1000)
    snapshot = replace(
        world.snapshot(), budgets=(Budget("team", "api-day", Decimal(5), Decimal(0), resets_at=world.now + 7200),)
    )
    outcome, _ = plan(snapshot, world.memory)
    refusal = outcome.deployments[0].spill.refusal
    assert (refusal.status, refusal.code) == (429, "budget_exhausted")
    assert "CostPolicy 'team'" in refusal.message
    assert refusal.retry_after_seconds == 3600  # capped


def test_pause_pin_and_dry_run() -> None:
    world = World(work=lambda _: 4.0, deployment=deployment(pinned_replicas=2))
    assert world.run(600).replicas == 2
    world.deployment = deployment(paused=True)
    assert world.run(3600).replicas == 2
    world.deployment = deployment(dry_run=True)
    outcome = world.run(3600)
    assert outcome.replicas == 2
    [would] = [d.message for d in outcome.decisions if d.code == "DryRun"]
    assert "DemandRose" in would


def test_a_new_revision_takes_over_replica_by_replica() -> None:
    world = World(work=lambda _: 2.9)
    world.run(20000)
    fresh = tuple(replace(v, revision="rev2") for v in world.deployment.variants)
    world.deployment = replace(world.deployment, variants=fresh)
    for _ in range(200):
        world.step()
        assert world.ready(BLACKWELL.name) >= 3
    assert (BLACKWELL.name, "rev1") not in world.asked
    assert world.asked[BLACKWELL.name, "rev2"] == 3


def test_a_new_revision_makes_room_on_a_full_pool() -> None:
    world = World(work=lambda _: 2.9, stock={"b200": 12, "h200": 0}, pool_gpus=12)
    world.run(20000)
    world.deployment = replace(world.deployment, variants=(replace(BLACKWELL, revision="rev2"),))
    world.run(6000)
    assert world.asked[BLACKWELL.name, "rev2"] == 3
    assert all(r.revision == "rev2" for r in world.replicas.values())


@given(st.floats(0, 40), st.integers(0, 3), st.integers(0, 8), st.floats(0, 5))
@settings(max_examples=60, deadline=None)
def test_never_below_the_floor_nor_above_the_ceiling(work: float, floor: int, ceiling: int, spilled: float) -> None:
    world = World(work=lambda _: work, deployment=deployment(min_replicas=min(floor, ceiling), max_replicas=ceiling))
    for _ in range(40):
        outcome = world.step()
        assert min(floor, ceiling) <= outcome.replicas <= ceiling
        assert outcome.gate >= 0


@given(st.lists(st.floats(0, 12), min_size=3, max_size=12))
@settings(max_examples=40, deadline=None)
def test_snapshots_replay_to_the_same_plan(works: list[float]) -> None:
    world = World(work=lambda t: works[int(t / 100) % len(works)])
    for _ in range(30):
        snapshot, memory = world.snapshot(), world.memory
        first = plan(snapshot, memory)
        again = plan(decode(Snapshot, encode(snapshot)), decode_memory(encode(memory)))
        assert encode(first[0]) == encode(again[0])
        assert decode(Plan, encode(first[0])) == first[0]
        world.step()


@given(st.permutations([0, 1, 2, 3]))
@settings(max_examples=24, deadline=None)
def test_order_of_deployments_changes_nothing(order: list[int]) -> None:
    # Distinct demands and a pool that holds only part of them: someone loses, always the same one.
    base = World(work=lambda _: 1.0)
    demands = [0.3, 1.7, 2.2, 3.9]
    many = tuple(
        replace(deployment(name=f"m{i}"), demand=Demand(w * REQUESTS_PER_UNIT, 1155, 211))
        for i, w in enumerate(demands)
    )
    snapshot = base.snapshot()
    straight, _ = plan(replace(snapshot, deployments=many), Memory())
    shuffled, _ = plan(replace(snapshot, deployments=tuple(many[i] for i in order)), Memory())
    assert {d.key: dict(d.desired) for d in straight.deployments} == {
        d.key: dict(d.desired) for d in shuffled.deployments
    }


@pytest.mark.parametrize("text", ["", "{}x", '{"version": 99}', '{"deployments": 3}'])
def test_unreadable_memory_is_refused(text: str) -> None:
    with pytest.raises(UnreadableMemory):
        decode_memory(text)


def test_gate_counts_only_ready_replicas_that_do_not_drain() -> None:
    world = World(work=lambda _: 0.9)
    world.run(1000)
    one = world.step().gate
    per_second = 1 / (1155 / 22000 + 211 / 2800)
    running = per_second * 211 / (2800 / 68)  # Little's law at 41 tokens/s a stream: 40 of the 68 slots
    assert one == int(running + 10 * per_second)
    assert running < BLACKWELL.concurrency
    for name, r in world.replicas.items():
        world.replicas[name] = replace(r, phase=Phase.STARTING)
    assert world.step().gate == 0


@given(
    st.lists(
        st.tuples(st.floats(0, 5), st.sampled_from([0, 8, 32]), st.sampled_from([0, 8, 32])), min_size=2, max_size=8
    )
)
@settings(max_examples=60, deadline=None)
def test_what_serves_is_never_given_up_before_something_else_does(phases: list[tuple[float, int, int]]) -> None:
    """Clouds that give and refuse at random, demand that jumps: from the first ready replica on there always is one."""
    world = World(work=lambda t: phases[int((t - 1000) / 600) % len(phases)][0], timeout=60)
    served = False
    for step_number in range(60 * len(phases)):
        _, b200, h200 = phases[step_number // 60]
        world.stock = {"b200": b200, "h200": h200}
        world.step()
        ready = world.ready(HOPPER.name) + world.ready(BLACKWELL.name)
        assert ready >= 1 or not served
        served = served or ready >= 1


def test_a_variant_that_is_dearer_than_the_provider_is_not_started_for_want_of_a_cheaper_one() -> None:
    # A unit of work costs $31/h outside, $16.80/h on Blackwell and $40/h on Hopper.
    cheap = replace(ZAI, usd_per_million_input=0.6, usd_per_million_output=2.0)
    world = World(
        deployment=deployment(min_replicas=0, providers=(cheap,)), work=lambda _: 2.9, stock={"b200": 0, "h200": 32}
    )
    world.run(4 * 3600)
    assert world.ready(HOPPER.name) == 0
    floor = World(
        deployment=deployment(min_replicas=1, providers=(cheap,)), work=lambda _: 2.9, stock={"b200": 0, "h200": 32}
    )
    floor.run(4 * 3600)
    assert floor.ready(HOPPER.name) == 1, "the floor is kept at any price"
