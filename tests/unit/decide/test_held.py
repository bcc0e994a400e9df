"""What is held: by a pin, by a pause, by a dry run."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from spillway.decide import decode_memory, encode, plan
from spillway.decide.outcome import DeploymentPlan
from spillway.decide.snapshot import Asked, Phase

from .world import BLACKWELL, HOPPER, ZAI, World, deployment

NEW_REVISION = (replace(BLACKWELL, revision="rev2"), replace(HOPPER, revision="rev2"))


def running(replicas: int = 2, work: float = 0.5, **changes: object) -> World:
    """So many replicas that answer, pinned until now."""
    world = World(work=lambda _: work, deployment=deployment(pinned_replicas=replicas))
    world.run(600)
    assert world.ready(BLACKWELL.name) == replicas
    world.deployment = deployment(**changes)
    world.told.clear()
    return world


def test_what_a_pin_started_is_kept_as_far_as_demand_needs_it_when_it_is_given_back() -> None:
    """Not stopped and started again: what runs counts, and has to disprove itself."""
    world = running(3, work=2.9)
    for _ in range(360):
        assert world.step().replicas == 3
    assert not [d for d in world.changes() if d.code == "DemandFell"]
    idle = running(3, work=0.0)
    idle.run(3600)
    assert idle.ready(BLACKWELL.name) == 1, "what nobody needs goes"


def test_a_pause_holds_revisions_and_takes_back_a_drain() -> None:
    world = running(3, paused=True, variants=NEW_REVISION)
    for _ in range(30):
        outcome = world.step()
        assert [(w.revision, w.replicas, w.draining) for w in outcome.workloads] == [("rev1", 3, ())]

    world = running(3, work=0.0)
    while not any(w.draining for w in world.step().workloads):
        world.replicas = {name: replace(r, in_flight=3) for name, r in world.replicas.items()}
    world.deployment = deployment(paused=True)
    outcome = world.run(600)
    assert (outcome.replicas, [w.draining for w in outcome.workloads]) == (3, [()])


def test_pods_beyond_what_is_asked_stay_out_of_the_gateways_in_a_pause() -> None:
    """Kubernetes takes one of them any moment."""
    world = running(3, paused=True)
    world.asked[BLACKWELL.name, "rev1"] = 2
    outcome, _ = plan(world.snapshot(), world.memory)
    [held] = outcome.deployments[0].workloads
    assert (held.replicas, len(held.draining)) == (2, 1)


def test_a_spent_budget_still_stops_spill_in_a_pause() -> None:
    world = running(2, paused=True)
    assert world.step().spill.allowed
    spent = tuple(replace(p, unavailable="BudgetSpent", affordable_in_flight=0) for p in deployment().providers)
    world.deployment = deployment(paused=True, providers=spent)
    outcome = world.step()
    assert (outcome.replicas, outcome.spill.allowed, outcome.spill.reason) == (2, False, "BudgetSpent")


def would(outcome: DeploymentPlan) -> str:
    [told] = [d.message for d in outcome.decisions if d.code == "DryRun"]
    return told


def test_a_dry_run_of_a_new_deployment_starts_nothing_and_says_what_it_would() -> None:
    world = World(work=lambda _: 0.5, deployment=deployment(dry_run=True))
    for _ in range(30):
        outcome = world.step()
        assert (outcome.replicas, outcome.workloads) == (0, ())
        assert not [d for d in outcome.decisions if d.changes], "nothing changes, so nothing says that it did"
        # The floor asks for it, and soon demand does, too.
        assert re.match(rf"would change 0→1 {BLACKWELL.name} \((FloorRaised|DemandRose), \+\$16.80/h", would(outcome))


def test_a_dry_run_changes_nothing_of_what_runs_and_says_what_it_would() -> None:
    world = running(2, work=4.0, dry_run=True, variants=NEW_REVISION)
    outcome = world.run(3600)
    assert [(w.revision, w.replicas, w.draining) for w in outcome.workloads] == [("rev1", 2, ())]
    assert not [d for _, d in world.told if d.changes]
    assert f"2→4 {BLACKWELL.name} (DemandRose, +$33.60/h of GPUs)" in would(outcome)
    assert f"bring {BLACKWELL.name} to revision rev2" in would(outcome)


def test_a_dry_run_that_would_do_nothing_says_so() -> None:
    assert would(running(1, work=0.5, dry_run=True).run(600)) == "would change nothing"


@pytest.mark.parametrize("hold", ["paused", "dry_run"])
def test_a_variant_that_is_no_longer_possible_is_held_too(hold: str) -> None:
    world = running(2, variants=(HOPPER,), **{hold: True})
    world.deployment = replace(world.deployment, asked=(Asked(BLACKWELL.name, "rev1", 2),))
    snapshot = world.snapshot()
    outcome, _ = plan(snapshot, world.memory)
    assert [(w.variant, w.replicas) for w in outcome.deployments[0].workloads] == [(BLACKWELL.name, 2)]
    assert all(r.phase is Phase.READY for r in snapshot.deployments[0].replicas)


@pytest.mark.parametrize("hold", ["paused", "dry_run"])
def test_spill_settings_are_held_and_follow_the_spec_again_afterwards(hold: str) -> None:
    """The gate of a replica, the order of providers, and that none is added; a restart forgets nothing of it."""
    deepinfra = replace(ZAI, provider="deepinfra")
    world = running(2, work=1.5)
    before = world.step()
    assert [p.provider for p in before.spill.providers] == ["zai"]
    world.deployment = deployment(**{hold: True})
    world.step()
    world.memory = decode_memory(encode(world.memory))
    longer = {"providers": (deepinfra, ZAI), "queue_seconds": 60.0}
    world.deployment = deployment(**{hold: True}, **longer)
    held = world.step()
    assert held.gate == before.gate
    assert [(p.provider, p.permitted) for p in held.spill.providers] == [("zai", True), ("deepinfra", False)]
    assert held.spill.providers[1].reason == {"paused": "Paused", "dry_run": "DryRun"}[hold]
    world.deployment = deployment(**longer)
    after = world.step()
    assert after.gate > before.gate
    assert [(p.provider, p.permitted) for p in after.spill.providers] == [("deepinfra", True), ("zai", True)]


def test_a_held_gate_still_follows_the_replicas_that_are_ready() -> None:
    world = running(2, paused=True)
    both = world.step().gate
    del world.replicas[next(iter(world.replicas))]
    assert world.step().gate == both // 2
