"""Rollouts: by strategy, with and without room, with and without money; bad revisions; other precisions and pools."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spillway.decide.planner import plan
from spillway.decide.reasons import Code
from spillway.decide.snapshot import Budget, Snapshot, Variant

from .world import BLACKWELL, HOPPER, World, deployment

V = BLACKWELL.name
FP8 = replace(BLACKWELL, name="b200-fp8-vllm", precision="FP8", gpus_per_replica=8, usd_per_hour=33.6)


class Playing(World):
    """A world whose deployment has a policy with a budget, and no other pool than Blackwell's."""

    budget: Decimal = Decimal(100)

    def snapshot(self) -> Snapshot:
        own = Budget("team", "api-day", Decimal(100), self.budget, resets_at=1e9)
        return replace(super().snapshot(), budgets=(own,))


def playing(strategy: str = "SpillAssisted", gpus: int = 32, work: float = 2.9, **changes: Any) -> Playing:
    """Three replicas of the first revision that serve; then the second one is wanted."""
    shape: dict[str, Any] = {
        "min_replicas": 3,
        "max_replicas": 3,
        "variants": (BLACKWELL,),
        "rollout": strategy,
    } | changes
    world = Playing(
        work=lambda _: work, deployment=deployment(**shape), stock={"b200": gpus, "h200": 0}, pool_gpus=gpus
    )
    world.run(1000)
    assert (world.ready(V), world.codes() & set(ROLLOUTS)) == (3, set())
    revise(world, "rev2")
    return world


ROLLOUTS = (Code.ROLLOUT_SURGE, Code.ROLLOUT_SPILL, Code.ROLLOUT_RECREATE, Code.ROLLOUT_WAITING, Code.ROLLOUT_FAILED)


def revise(world: World, revision: str) -> None:
    variants = tuple(replace(v, revision=revision) for v in world.deployment.variants)
    world.deployment = replace(world.deployment, variants=variants)


def fewest(world: World, seconds: float) -> int:
    """The smallest number of replicas that answer at any moment."""
    return min(world.answering() for _ in range(round(seconds / world.tick)) if world.step())


def told(world: World, code: Code) -> str:
    return next(d.message for _, d in reversed(world.told) if d.code is code)


def revisions(world: World) -> dict[str, int]:
    return {revision: n for (_, revision), n in world.asked.items()}


def test_with_room_new_replicas_come_first() -> None:
    for strategy in ("SpillAssisted", "Surge"):
        world = playing(strategy)
        assert fewest(world, 2000) == 3
        assert revisions(world) == {"rev2": 3}
        assert "3 start beside those that serve, $50.40/h more for about 5 min" in next(
            d.message for _, d in world.told if d.code is Code.ROLLOUT_SURGE
        )


def test_without_room_one_replica_at_a_time_goes_first_and_its_price_is_told() -> None:
    world = playing(gpus=12)
    assert fewest(world, 4000) == 2
    assert revisions(world) == {"rev2": 3}
    spilling = [d.message for _, d in world.told if d.code is Code.ROLLOUT_SPILL]
    assert "no room for a new replica: an old one goes first; its requests spill meanwhile, about $" in spilling[0]
    assert "of $100.00 left in budget api-day" in spilling[0]


def test_what_was_given_up_and_taken_by_others_is_given_up_only_once() -> None:
    world = playing(gpus=12, work=0.5)
    while world.answering() == 3:
        world.step()
    world.stock["b200"] = world.pool_gpus = 8
    assert fewest(world, 3000) == 2
    assert "others took what was given up" in told(world, Code.ROLLOUT_WAITING)


def test_what_the_others_carry_goes_without_spilling() -> None:
    world = playing(gpus=12, work=1.5, providers=())
    assert fewest(world, 4000) == 2
    assert revisions(world) == {"rev2": 3}
    assert "the others carry its requests meanwhile" in next(
        d.message for _, d in world.told if d.code is Code.ROLLOUT_SPILL
    )


@pytest.mark.parametrize(
    ("changes", "budget", "why"),
    [
        ({"providers": ()}, "100", "these may not spill: spec.spill.providers names no provider"),
        ({}, "0.01", "and budget api-day has $0.01 left; waits for a quiet hour"),
    ],
)
def test_what_may_not_spill_waits_for_a_quiet_hour(changes: dict[str, Any], budget: str, why: str) -> None:
    world = playing(gpus=12, **changes)
    world.budget = Decimal(budget)
    assert fewest(world, 4000) == 3
    assert revisions(world) == {"rev1": 3}
    assert why in told(world, Code.ROLLOUT_WAITING)
    world.work = lambda _: 0.5
    assert fewest(world, 4000) == 2
    assert revisions(world) == {"rev2": 3}


def test_surge_waits_for_room_and_says_what_would_not() -> None:
    world = playing("Surge", gpus=12, work=0.5)
    assert fewest(world, 4000) == 3
    assert revisions(world) == {"rev1": 3}
    assert "waits for room; spec.rollout.strategy SpillAssisted would" in told(world, Code.ROLLOUT_WAITING)


def test_recreate_ends_all_old_replicas_before_the_first_new_one() -> None:
    world = playing("Recreate")
    together = 0
    for _ in range(200):
        world.step()
        old, new = len(world.of((V, "rev1"))), len(world.of((V, "rev2")))
        together = max(together, min(old, new))
    assert together == 0
    assert revisions(world) == {"rev2": 3}


def test_a_pool_that_gives_no_more_machines_is_a_full_pool() -> None:
    world = playing(gpus=12)
    world.pool_gpus = 32  # it may grow, they say; nothing comes
    world.timeout = 100
    assert fewest(world, 6000) == 2
    assert revisions(world) == {"rev2": 3}


@pytest.mark.parametrize(("strategy", "gpus"), [("SpillAssisted", 32), ("SpillAssisted", 12), ("Recreate", 12)])
def test_a_revision_that_cannot_start_is_given_up_for_the_one_that_worked(strategy: str, gpus: int) -> None:
    world = playing(strategy, gpus)
    world.broken = frozenset({"rev2"})
    world.run(3000)
    assert revisions(world)["rev1"] == 3
    assert world.of((V, "rev2")) == []
    assert world.answering() == 3
    words = told(world, Code.ROLLOUT_FAILED)
    assert "revision rev2 is given up, back to rev1: pod-" in words
    assert "CrashLoopBackOff after exit code 2" in words
    revise(world, "rev3")
    world.run(5000)
    assert revisions(world) == {"rev3": 3}, "another revision is tried"
    assert world.step().decisions == ()


def test_a_start_that_takes_too_long_is_a_failure() -> None:
    world = playing()
    world.cold_start = 1e9
    world.run(3500)
    assert Code.ROLLOUT_FAILED not in world.codes()
    world.run(300)
    assert "is not ready after 60 min (its budget is 60 min)" in told(world, Code.ROLLOUT_FAILED)
    assert world.answering() == 3


def test_errors_that_come_with_a_revision_end_it() -> None:
    world = playing()
    world.run(400)
    world.errors = 0.2 * world.snapshot().deployments[0].demand.requests_per_second  # type: ignore[union-attr]
    world.run(600)
    assert "20% of the replicas' answers are errors, 0% before it" in told(world, Code.ROLLOUT_FAILED)
    assert world.of((V, "rev2")) == []
    assert world.answering() == 3


def test_a_few_errors_say_nothing() -> None:
    world = playing(work=0.02)
    world.run(400)
    world.errors = 4 / 60
    assert world.errors > 0.2 * world.snapshot().deployments[0].demand.requests_per_second  # type: ignore[union-attr]
    world.run(600)
    assert Code.ROLLOUT_FAILED not in world.codes()
    assert revisions(world) == {"rev2": 3}


def test_errors_that_were_there_before_are_not_the_new_revisions_fault() -> None:
    world = playing()
    revise(world, "rev1")
    world.errors = 0.2 * world.snapshot().deployments[0].demand.requests_per_second  # type: ignore[union-attr]
    world.run(100)
    revise(world, "rev2")
    world.run(3000)
    assert revisions(world) == {"rev2": 3}


def test_a_first_revision_that_fails_has_nothing_to_go_back_to() -> None:
    world = Playing(deployment=deployment(variants=(BLACKWELL,)), broken=frozenset({"rev1"}))
    world.run(3000)
    assert revisions(world) == {"rev1": 1}
    assert Code.ROLLOUT_FAILED not in world.codes()


def retiring(gpus: int, old: Variant, new: Variant, strategy: str = "SpillAssisted") -> Playing:
    """Two replicas of one variant that serve; then the spec has another one."""
    shape = {"min_replicas": 2, "max_replicas": 2, "rollout": strategy}
    world = Playing(
        deployment=deployment(variants=(old,), **shape),
        work=lambda _: 1.0,
        stock={"b200": gpus, "h200": 0 if new.pool == "h200" and gpus == 0 else 16},
        pool_gpus=16,
    )
    world.run(1000)
    assert world.ready(old.name) == 2
    world.deployment = replace(world.deployment, variants=(new,))
    return world


@pytest.mark.parametrize(
    ("old", "new", "least"),
    [
        (FP8, BLACKWELL, 1),  # the pool is full: one of eight GPUs makes way for two of four
        (BLACKWELL, FP8, 1),  # half full: the first has room, the second needs what both old ones hold
        (BLACKWELL, HOPPER, 2),  # another pool, which has room
    ],
)
def test_another_precision_or_pool_takes_over(old: Variant, new: Variant, least: int) -> None:
    world = retiring(16, old, new)
    assert fewest(world, 6000) >= least
    assert (world.ready(new.name), world.answering()) == (2, 2)
    assert {name for name, _ in world.asked} == {new.name}


def test_a_retired_variant_serves_until_its_successor_gets_gpus() -> None:
    world = retiring(16, BLACKWELL, HOPPER)
    world.stock["h200"] = 0
    assert fewest(world, 4000) == 2
    assert world.ready(V) == 2
    world.stock["h200"] = 16
    world.run(8000)
    assert (world.ready(HOPPER.name), world.answering()) == (2, 2)


def test_recreate_ends_a_retired_variant_first() -> None:
    world = retiring(16, FP8, BLACKWELL, "Recreate")
    together = 0
    for _ in range(200):
        world.step()
        together = max(together, min(len(world.of((FP8.name, "rev1"))), len(world.of((V, "rev1")))))
    assert together == 0
    assert world.answering() == 2


@pytest.mark.parametrize("hold", ["metrics", "paused"])
def test_what_is_held_in_the_middle_stays_as_it_is(hold: str) -> None:
    world = playing(gpus=20)
    world.run(100)
    before = revisions(world)
    assert set(before) == {"rev1", "rev2"}
    if hold == "metrics":
        world.metrics = False
    else:
        world.deployment = replace(world.deployment, paused=True)
    outcome = world.run(3000)
    assert revisions(world) == before
    assert outcome.replicas == 3, "three are wanted, whatever stands in for them"
    world.metrics, world.deployment = True, replace(world.deployment, paused=False)
    world.run(3000)
    assert revisions(world) == {"rev2": 3}


def test_a_second_change_in_the_middle_goes_on_from_there() -> None:
    world = playing(gpus=20)
    world.run(100)
    revise(world, "rev3")
    assert fewest(world, 5000) >= 2
    assert revisions(world) == {"rev3": 3}


@given(
    st.sampled_from(["SpillAssisted", "Surge", "Recreate"]),
    st.integers(1, 4),
    st.integers(3, 9),
    st.floats(0, 4),
    st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_replicas_never_fall_further_than_the_strategy_says(
    strategy: str, wanted: int, slots: int, work: float, broken: bool
) -> None:
    gpus = 4 * max(slots, wanted)
    world = Playing(
        work=lambda _: work,
        deployment=deployment(min_replicas=wanted, max_replicas=wanted, variants=(BLACKWELL,), rollout=strategy),
        stock={"b200": gpus, "h200": 0},
        pool_gpus=gpus,
    )
    world.run(1000)
    revise(world, "rev2")
    world.broken = frozenset({"rev2"} if broken else ())
    least = {"Surge": wanted, "SpillAssisted": wanted - 1, "Recreate": 0}[strategy]
    for step in range(700):
        if step % 20 == 0:
            snapshot, memory = world.snapshot(), world.memory
            assert plan(snapshot, memory) == plan(snapshot, memory)
        world.step()
        assert least <= world.answering()
        assert len(world.replicas) <= 2 * wanted
    full = gpus < 4 * (wanted + 1)
    done = "rev1" if broken or (strategy == "Surge" and full) else "rev2"
    assert {r.revision for r in world.replicas.values()} == {done}
    assert world.answering() == wanted
