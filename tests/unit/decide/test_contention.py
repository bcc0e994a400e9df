"""Who gets the GPUs of a pool that cannot hold all that is wanted, and GPUs that are paid anyway."""

from __future__ import annotations

from dataclasses import replace

import pytest

from spillway.decide import Memory, plan
from spillway.decide.outcome import Decision, DeploymentPlan
from spillway.decide.snapshot import Asked, Demand, Deployment, Phase, Pool, Replica, Snapshot

from .world import BLACKWELL, HOPPER, REQUESTS_PER_UNIT, ZAI, World, deployment

RUNNING = 2


def contender(namespace: str, work: float, provider_price: float, running: int = 0) -> Deployment:
    """Wants `work` replicas of Blackwell; what they cannot serve goes out at that price for a million tokens."""
    name = BLACKWELL.name
    replicas = tuple(
        Replica(f"{namespace}-{i}", name, "rev1", Phase.READY, 0.0, 0.0, 300.0, in_flight=0) for i in range(running)
    )
    return deployment(
        namespace=namespace,
        min_replicas=0,
        variants=(BLACKWELL,),
        demand=Demand(work * REQUESTS_PER_UNIT, 1155, 211),
        providers=(replace(ZAI, usd_per_million_input=provider_price, usd_per_million_output=3 * provider_price),),
        asked=(Asked(name, "rev1", running),) if running else (),
        replicas=replicas,
    )


def decided(*contenders: Deployment, pool: Pool) -> dict[str, DeploymentPlan]:
    """After an hour of the same demand, in which nothing starts."""
    memory, outcome = Memory(), None
    for tick in range(360):
        outcome, memory = plan(Snapshot(1000.0 + 10 * tick, contenders, (pool,)), memory)
    assert outcome is not None
    return {d.key: d for d in outcome.deployments}


def told(outcome: DeploymentPlan, code: str) -> Decision:
    return next(d for d in outcome.decisions if d.code == code)


@pytest.mark.parametrize(("dear", "cheap"), [("a", "b"), ("b", "a")])
def test_a_free_pool_goes_to_whom_it_saves_more(dear: str, cheap: str) -> None:
    pool = Pool("b200", free_gpus_by_node=(8,), usd_per_gpu_hour=4.2)
    found = decided(*sorted((contender(dear, 2.0, 9.0), contender(cheap, 2.0, 3.0)), key=lambda d: d.key), pool=pool)
    assert found[f"{dear}/glm-5"].desired == {BLACKWELL.name: 2}
    assert found[f"{cheap}/glm-5"].replicas == 0
    assert "it spills or is refused" in told(found[f"{cheap}/glm-5"], "NoGPU").message


def test_who_runs_stays_for_an_equal_and_makes_way_for_one_that_saves_much_more() -> None:
    pool = Pool("b200", free_gpus_by_node=(0,), used_gpus=8, usd_per_gpu_hour=4.2)
    holder = contender("holder", 2.0, 3.0, running=RUNNING)
    found = decided(contender("equal", 2.0, 3.0), holder, pool=pool)
    assert found["holder/glm-5"].desired == {BLACKWELL.name: RUNNING}
    words = told(found["equal/glm-5"], "NoGPU").message
    assert "b200: 8 GPUs are holder/glm-5's, to whom one is worth $" in words, words

    found = decided(contender("dear", 2.0, 9.0), holder, pool=pool)
    assert found["dear/glm-5"].desired == {BLACKWELL.name: 2}
    assert found["holder/glm-5"].desired == {BLACKWELL.name: 0}
    [leaves] = found["holder/glm-5"].workloads
    assert leaves.draining or leaves.replicas < RUNNING, "it drains before it goes"


def test_who_waits_for_gpus_that_another_leaves_goes_on_waiting() -> None:
    """Replicas that stop hold their GPUs until their last answer: they are neither free nor anybody's to give."""
    held = Pool("b200", free_gpus_by_node=(0,), used_gpus=8, usd_per_gpu_hour=4.2)
    name = BLACKWELL.name
    contenders = [contender("dear", 2.0, 9.0), contender("holder", 2.0, 3.0, running=RUNNING)]
    memory, outcome = Memory(), None
    for tick in range(360):
        outcome, memory = plan(Snapshot(1000.0 + 10 * tick, tuple(contenders), (held,)), memory)
    assert outcome is not None
    assert outcome.deployments[0].desired == {name: 2}
    waiting = tuple(Replica(f"dear-{i}", name, "rev1", Phase.PENDING, 4600.0, None, None) for i in range(2))
    stopping = tuple(replace(r, phase=Phase.STOPPING) for r in contenders[1].replicas)
    after = (
        replace(contenders[0], replicas=waiting, asked=(Asked(name, "rev1", 2),)),
        replace(contenders[1], replicas=stopping, asked=()),
    )
    for tick in range(12):
        outcome, memory = plan(Snapshot(4600.0 + 10 * tick, after, (held,)), memory)
        assert outcome.deployments[0].desired == {name: 2}, tick
        assert outcome.deployments[1].replicas == 0
        assert {d.code for d in outcome.deployments[0].decisions} <= {"DemandRose"}


def test_a_replica_that_room_was_found_for_is_for_the_demand_that_was_there() -> None:
    world = World(work=lambda _: 2.9, stock={"b200": 4, "h200": 0}, pool_gpus=4, timeout=1e9)
    world.run(3600)
    assert world.ready(BLACKWELL.name) == 1
    world.stock["b200"] = world.pool_gpus = 16
    world.run(60)
    last = world.changes()[-1]
    assert (last.code, last.before, last.after) == ("DemandRose", 1, 3)
    assert "2.9 replicas of work" in last.message


def test_a_dry_run_takes_no_gpus_from_anybody() -> None:
    """Neither those that another runs on, nor those that are free."""
    dry = replace(contender("dear", 2.0, 9.0), dry_run=True)
    held = Pool("b200", free_gpus_by_node=(0,), used_gpus=8, usd_per_gpu_hour=4.2)
    found = decided(dry, contender("holder", 2.0, 3.0, running=RUNNING), pool=held)
    assert found["holder/glm-5"].desired == {BLACKWELL.name: RUNNING}
    assert "would change 0→2" in told(found["dear/glm-5"], "DryRun").message
    free = Pool("b200", free_gpus_by_node=(8,), usd_per_gpu_hour=4.2)
    found = decided(contender("cheap", 2.0, 3.0), dry, pool=free)
    assert (found["cheap/glm-5"].replicas, found["dear/glm-5"].replicas) == (2, 0)


def test_a_namespace_at_its_limit_hears_of_it() -> None:
    pool = Pool("b200", (8, 8), used_gpus=8, used_by_namespace={"chat": 8}, max_gpus_per_namespace=8)
    found = decided(contender("chat", 4.0, 9.0, running=2), pool=pool)
    assert found["chat/glm-5"].replicas == 2
    assert (
        "namespace chat holds 8 of the 8 GPUs that spec.maxGPUsPerNamespace gives it"
        in told(found["chat/glm-5"], "NoGPU").message
    )


def test_gpus_of_others_and_scattered_ones_are_told() -> None:
    pool = Pool("b200", (3, 3), foreign_gpus=10)
    words = told(decided(contender("chat", 1.0, 9.0), pool=pool)["chat/glm-5"], "NoGPU").message
    assert "10 GPUs are held by pods that are not Spillway's; 6 GPUs are free, but not 4 together" in words


def test_gpus_that_are_paid_anyway_come_first_although_their_list_price_is_higher() -> None:
    world = World(work=lambda _: 0.9, reserved={"h200": 16})
    world.run(2 * 3600)
    assert (world.ready(HOPPER.name) >= 1, world.ready(BLACKWELL.name)) == (True, 0)
    settled = len(world.changes())
    world.run(24 * 3600)
    assert len(world.changes()) == settled, "it does not flap"


def test_gpus_that_are_paid_anyway_are_taken_for_less_demand() -> None:
    """A quarter of a replica's work does not pay for a second one at list price, but it does for the shadow price."""
    at_list, reserved = World(work=lambda _: 1.12), World(work=lambda _: 1.12, reserved={"b200": 16})
    for world in (at_list, reserved):
        world.run(6 * 3600)
    assert (at_list.ready(BLACKWELL.name), reserved.ready(BLACKWELL.name)) == (1, 2)
