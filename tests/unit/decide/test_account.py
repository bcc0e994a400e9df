"""The account of a decision: demand, options, limits, and an honest paragraph for each variant."""

from __future__ import annotations

from dataclasses import replace

import pytest

from spillway.decide import Account, Memory, account, decode, encode, plan
from spillway.decide.memory import CapacityMemory, DeploymentMemory, PoolMemory
from spillway.decide.outcome import Plan
from spillway.decide.snapshot import Asked, Demand, Deployment, HintWindow, Phase, Pool, Replica, Snapshot

from .world import BLACKWELL, HOPPER, ZAI, World, deployment

NOW = 1_800_000_000.0
KEY = "chat/glm-5"
POOLS = (Pool("b200", (32,), usd_per_gpu_hour=4.2), Pool("h200", (32,), usd_per_gpu_hour=2.5))
LOAD = Demand(18.0, 1155, 211)


def running(variant: str, number: int) -> tuple[Replica, ...]:
    return tuple(
        Replica(f"{variant}-{n}", variant, "rev1", Phase.READY, NOW - 9000, NOW - 8900, NOW - 8600, 0)
        for n in range(number)
    )


def settled(
    own: Deployment, *pools: Pool, memory: Memory | None = None, wanted: dict[str, int] | None = None
) -> Account:
    """The account of a plan; with `wanted`, of one that wants just that."""
    snapshot = Snapshot(NOW, (own,), pools or POOLS)
    before = memory or Memory()
    planned, _ = plan(snapshot, before)
    if wanted is not None:
        (one,) = planned.deployments
        planned = Plan(NOW, (replace(one, desired=wanted, decisions=()),))
    return account(snapshot, before, KEY, planned)


def on_blackwell(demand: Demand | None = LOAD, number: int = 3, **changes: object) -> Deployment:
    asked = (Asked(BLACKWELL.name, "rev1", number),) if number else ()
    return deployment(demand=demand, asked=asked, replicas=running(BLACKWELL.name, number), **changes)


def test_demand_and_options_in_words_and_dollars() -> None:
    found = settled(on_blackwell(replace(LOAD, spilled_per_second=2.0)), wanted={BLACKWELL.name: 3})
    assert found.demand == (
        "18.0 requests/s are asked for, each 1,155 tokens in and 211 out. That would fill 2.3 replicas of "
        "b200-nvfp4-vllm (or 4.3 of h200-fp8-vllm). Of these 2.0/s go to providers."
    )
    by_name = {o.name: o for o in (*found.variants, *found.providers)}
    assert (by_name[BLACKWELL.name].replicas, by_name[BLACKWELL.name].usd_per_hour) == (3, 50.40)
    assert (by_name[HOPPER.name].replicas, by_name[HOPPER.name].usd_per_hour) == (5, 100.0)
    assert by_name["zai/glm-5"].usd_per_hour == pytest.approx(18 * 3600 * (1155 + 211 * 3.2) / 1e6, abs=0.01)
    kappa = by_name[BLACKWELL.name].spill_cost_ratio
    assert kappa == pytest.approx((1155 + 211 * 3.2) / 1e6 / (1155 / 22000 + 211 / 2800) * 3600 / 16.8, rel=1e-6)
    assert found.chosen.startswith(
        "Wanted: 3 × b200-nvfp4-vllm (3 ready) for $50.40/h; what they cannot take goes to zai"
    )
    assert found.usd_per_hour == 50.40


def test_an_account_is_that_of_the_plan_and_travels_as_json() -> None:
    world = World(work=lambda t: 2.5)
    world.run(3600.0)
    snapshot = world.snapshot()
    planned, _ = plan(snapshot, world.memory)
    found = account(snapshot, world.memory, KEY)
    assert found == account(snapshot, world.memory, KEY, planned)
    assert {o.name: o.chosen for o in found.variants if o.chosen} == {
        k: n for k, n in planned.deployments[0].desired.items() if n
    }
    assert decode(Account, encode(found)) == found
    with pytest.raises(KeyError):
        account(snapshot, world.memory, "chat/other")


@pytest.mark.parametrize(
    ("demand", "words"),
    [(None, "there are no fresh metrics"), (replace(LOAD, requests_per_second=0.0), "Nothing is asked for now.")],
)
def test_demand_that_is_not_known_or_not_there(demand: Demand | None, words: str) -> None:
    found = settled(on_blackwell(demand))
    assert words in found.demand
    if demand is None:
        assert {o.usd_per_hour for o in (*found.variants, *found.providers)} == {None}


def other(name: str, gpus: int) -> Deployment:
    return deployment(
        name=name,
        demand=replace(LOAD, requests_per_second=6.0 * gpus / 8),
        asked=(Asked(HOPPER.name, "rev1", gpus // 8),),
        replicas=running(HOPPER.name, gpus // 8),
        variants=(HOPPER,),
    )


CLOSED = Memory(time=NOW - 10, pools={"h200": PoolMemory(NOW + 900, NOW - 1800, 2)})
CHEAP = replace(HOPPER, usd_per_hour=4.0)


@pytest.mark.parametrize(
    ("own", "pools", "memory", "wanted", "words"),
    [
        (on_blackwell(), POOLS, None, {HOPPER.name: 2}, "It is used: 2 replicas are wanted of it and 0 answer"),
        (
            on_blackwell(),
            POOLS,
            CLOSED,
            {BLACKWELL.name: 3},
            "Pool h200 gave no GPUs (2 times in a row, since 07:30 UTC) and is closed until 08:15 UTC",
        ),
        (
            on_blackwell(),
            POOLS,
            None,
            {BLACKWELL.name: 3},
            "one replica of b200-nvfp4-vllm costs $16.80/h there and $37.05/h here, $20.25/h more",
        ),
        (
            on_blackwell(variants=(BLACKWELL, CHEAP)),
            (POOLS[0], Pool("h200", (0,), foreign_gpus=8)),
            None,
            {BLACKWELL.name: 3},
            "There is no room: h200: 8 GPUs are held by pods that are not Spillway's",
        ),
        (
            on_blackwell(variants=(BLACKWELL, replace(HOPPER, usd_per_hour=400.0))),
            POOLS,
            None,
            {},
            "no replica of it pays",
        ),
        (
            on_blackwell(variants=(BLACKWELL, CHEAP)),
            POOLS,
            None,
            {BLACKWELL.name: 3},
            "It is cheaper than b200-nvfp4-vllm by $9.",
        ),
        (
            on_blackwell(number=0),
            POOLS,
            None,
            {},
            "Nothing is wanted at all: 2.30 replicas of work do not earn",
        ),
        (on_blackwell(paused=True), POOLS, None, {BLACKWELL.name: 3}, "The deployment is paused"),
        (
            on_blackwell(dry_run=True),
            POOLS,
            None,
            {BLACKWELL.name: 3},
            "It is a dry run (annotation spillway.dev/dry-run), which changes nothing: Spillway would change nothing",
        ),
        (
            on_blackwell(floor_only=True, min_replicas=3),
            POOLS,
            None,
            {BLACKWELL.name: 3},
            "A GPU budget is spent, so no more than minReplicas 3 runs",
        ),
        (on_blackwell(None), POOLS, None, {BLACKWELL.name: 3}, "There are no fresh metrics, so what runs is held"),
        (on_blackwell(), POOLS[:1], None, {BLACKWELL.name: 3}, "Its pool h200 is gone"),
        (
            on_blackwell(max_replicas=1, variants=(BLACKWELL, replace(HOPPER, usd_per_hour=8.9))),
            POOLS,
            None,
            {BLACKWELL.name: 1},
            "maxReplicas 1 is reached",
        ),
    ],
)
def test_why_not(
    own: Deployment, pools: tuple[Pool, ...], memory: Memory | None, wanted: dict[str, int], words: str
) -> None:
    assert words in settled(own, *pools, memory=memory, wanted=wanted).why_not[HOPPER.name]


def test_who_holds_the_gpus_is_named_with_what_they_are_worth_to_them() -> None:
    own = on_blackwell(variants=(BLACKWELL, CHEAP))
    pool = Pool("h200", (0,), used_gpus=16)
    snapshot = Snapshot(NOW, (own, other("rival", 16)), (POOLS[0], pool))
    planned, _ = plan(snapshot, Memory())
    mine, rivals = planned.deployments
    planned = replace(planned, deployments=(replace(mine, desired={BLACKWELL.name: 3}), rivals))
    found = account(snapshot, Memory(), KEY, planned)
    assert "16 GPUs are chat/rival's, to whom one is worth $" in found.why_not[HOPPER.name]


def test_more_than_one_reason_is_told_in_one_paragraph() -> None:
    found = settled(on_blackwell(), POOLS[0], Pool("h200", (0,)), wanted={BLACKWELL.name: 3}).why_not[HOPPER.name]
    assert found.startswith("It is dearer:")
    assert "Besides, there is no room: h200: its nodes have no room for a replica." in found


def test_limits_are_told() -> None:
    spent = replace(ZAI, affordable_in_flight=0, unavailable="BudgetSpent", unavailable_message="budget day is spent")
    tiny = replace(LOAD, requests_per_second=0.1)
    found = settled(on_blackwell(tiny, min_replicas=3, providers=(spent,)), memory=CLOSED, wanted={BLACKWELL.name: 3})
    told = " | ".join(found.limits)
    assert "minReplicas 3 keeps more than demand would fill (0.0)" in told
    assert "pool h200 gives no GPUs; it is asked again at 08:15 UTC" in told
    assert "zai/glm-5 may not be used: budget day is spent" in told
    assert "nothing may go to providers (budget day is spent)" in found.chosen
    assert settled(on_blackwell(pinned_replicas=3)).limits[-1] == "Pinned: spec.replicas pins 3"


def test_a_known_event_that_holds_replicas_is_told() -> None:
    tiny = replace(LOAD, requests_per_second=0.1)
    hints = (HintWindow(NOW + 60, NOW + 3600, 3), HintWindow(NOW + 90_000, NOW + 99_000, 8))
    found = settled(on_blackwell(tiny, hints=hints), wanted={BLACKWELL.name: 3})
    assert "Hint: spec.hints wants 3 from 2027-01-15 08:01 UTC on, in 60 s" in found.limits
    over = settled(on_blackwell(tiny, hints=(replace(hints[0], end=NOW),)), wanted={BLACKWELL.name: 3})
    assert not any("Hint" in limit for limit in over.limits)


def test_providers_are_told_in_the_order_and_at_the_price_that_they_really_have() -> None:
    wordy = replace(ZAI, provider="wordy", verbosity=2.0)
    found = settled(on_blackwell(providers=(wordy, ZAI)), wanted={BLACKWELL.name: 3})
    assert [o.name for o in found.providers] == ["zai/glm-5", "wordy/glm-5"]
    usual, twice = (o.usd_per_hour or 0.0 for o in found.providers)
    assert twice - usual == pytest.approx(18 * 3600 * 211 * 3.2 / 1e6, abs=0.02)


def test_what_replicas_really_do_counts() -> None:
    """The account speaks of learned rates, as the plan does."""
    learned = DeploymentMemory(capacity={BLACKWELL.name: CapacityMemory(prefill_correction=2.0, decode_correction=2.0)})
    slow = settled(on_blackwell(), memory=Memory(deployments={KEY: learned}), wanted={BLACKWELL.name: 3})
    assert slow.variants[0].work == pytest.approx(2 * settled(on_blackwell()).variants[0].work, rel=0.01)
