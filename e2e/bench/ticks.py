"""How long a tick takes, and what the exact mix is worth beside a greedy one."""

from __future__ import annotations

import random
import statistics
import time
from dataclasses import replace
from typing import Any

from spillway.decide import Memory, plan
from spillway.decide.placement import Choice, Mix, Need, Room, solve
from spillway.decide.snapshot import Asked, Demand, Deployment, Phase, Pool, ProviderOption, Replica, Snapshot, Variant

POOLS = 20
TICKS = 40
SEED = 0


def fleet(deployments: int, seed: int = SEED) -> Snapshot:
    """Deployments of one to six replicas, each on two of twenty pools, with a provider."""
    chance = random.Random(seed)
    pools = []
    for number in range(POOLS):
        gpus = 8 * max(4, deployments * 8 // POOLS)
        pools.append(Pool(f"pool-{number}", growable_gpus=gpus, max_gpus=10 * gpus, usd_per_gpu_hour=2.0 + number % 5))
    found = [_deployment(number, pools, chance) for number in range(deployments)]
    return Snapshot(1e9, tuple(found), tuple(pools))


def _deployment(number: int, pools: list[Pool], chance: random.Random) -> Deployment:
    variants = []
    for pool in chance.sample(pools, 2):
        speed = chance.uniform(0.7, 1.3)
        variants.append(
            Variant(
                f"{pool.name}-fp8-vllm",
                pool.name,
                "FP8",
                "vLLM",
                "1",
                8,
                8 * pool.usd_per_gpu_hour,
                20_000 * speed,
                4_000 * speed,
                100,
                300.0,
            )
        )
    first = variants[0]
    running = chance.randint(1, 6)
    replicas = tuple(
        Replica(f"m{number}-{i}", first.name, "1", Phase.READY, 0.0, 0.0, 300.0, in_flight=10) for i in range(running)
    )
    return Deployment(
        f"team-{number % 50}",
        f"model-{number}",
        1,
        8,
        0,
        10.0,
        tuple(variants),
        asked=(Asked(first.name, "1", running),),
        replicas=replicas,
        demand=Demand(running * 4.0, 1500.0, 250.0),
        providers=(ProviderOption("api", "model", 1.0, 3.0, affordable_in_flight=50),),
        usd_value_per_request=0.02,
    )


def moved(snapshot: Snapshot, chance: random.Random) -> Snapshot:
    """Ten seconds later: demand has moved a little everywhere."""
    deployments = []
    for one in snapshot.deployments:
        assert one.demand is not None
        rate = one.demand.requests_per_second * chance.uniform(0.95, 1.05)
        deployments.append(replace(one, demand=replace(one.demand, requests_per_second=rate)))
    return replace(snapshot, time=snapshot.time + 10, deployments=tuple(deployments))


def tick_seconds(deployments: int, ticks: int = TICKS) -> dict[str, Any]:
    """Wall time of `plan`, tick by tick, with demand that moves and a cluster that does as planned."""
    chance = random.Random(SEED)
    snapshot, memory = fleet(deployments), Memory()
    took = []
    for _ in range(ticks):
        begin = time.perf_counter()
        planned, memory = plan(snapshot, memory)
        took.append(time.perf_counter() - begin)
        asked = {
            d.key: tuple(Asked(w.variant, w.revision, w.replicas) for w in d.workloads) for d in planned.deployments
        }
        snapshot = moved(
            replace(snapshot, deployments=tuple(replace(d, asked=asked[d.key]) for d in snapshot.deployments)), chance
        )
    return {
        "deployments": deployments,
        "pools": POOLS,
        "ticks": ticks,
        "median_seconds": round(statistics.median(took), 5),
        "p95_seconds": round(sorted(took)[int(0.95 * len(took))], 5),
        "first_seconds": round(took[0], 4),
        "max_seconds": round(max(took), 4),
    }


def problem(needs: int, chance: random.Random) -> tuple[list[Need], list[Room]]:
    """Deployments that want more than three pools hold, with variants of different worth and size."""
    rooms = [
        Room(f"pool-{i}", gpus := 8 * chance.randint(2, 4 + needs), slots=((4, gpus // 4), (8, gpus // 8)))
        for i in range(3)
    ]
    made = []
    for number in range(needs):
        choices = []
        for room in chance.sample(rooms, chance.randint(1, 3)):
            gpus = chance.choice((4, 8))
            choices.append(
                Choice(
                    f"{room.pool}-{gpus}",
                    room.pool,
                    gpus,
                    round(chance.uniform(0.4, 1.2) * gpus / 8, 2),
                    gpus * chance.uniform(2, 5),
                    round(chance.uniform(0.5, 3), 1),
                    0,
                    dict(room.slots)[gpus],
                )
            )
        made.append(
            Need(f"team/m{number:03d}", float(chance.randint(1, 4)), 0, 8, tuple(choices), chance.uniform(120, 240))
        )
    return made, rooms


def greedy(needs: list[Need], rooms: list[Room]) -> dict[str, Mix]:
    """What most schedulers do: one need after the other, each the choice with the least $ per unit that has room."""
    free = {room.pool: room.free_gpus for room in rooms}
    found = {}
    for need in sorted(needs, key=lambda n: -n.usd_per_unit_hour):
        left, replicas = need.units, {c.variant: 0 for c in need.choices}
        for choice in sorted(need.choices, key=lambda c: (c.usd_per_hour + c.start_usd) / c.units_per_replica):
            while (
                left > 1e-3 and free[choice.pool] >= choice.gpus_per_replica and sum(replicas.values()) < need.ceiling
            ):
                replicas[choice.variant] += 1
                free[choice.pool] -= choice.gpus_per_replica
                left -= choice.units_per_replica
        found[need.key] = Mix(replicas, max(0.0, left))
    return found


def usd_per_hour(needs: list[Need], mixes: dict[str, Mix]) -> float:
    """Rent and starts of a mix, and what the uncovered work costs elsewhere."""
    total = 0.0
    for need in needs:
        mix = mixes[need.key]
        total += mix.uncovered_units * need.usd_per_unit_hour
        total += sum(mix.replicas.get(c.variant, 0) * (c.usd_per_hour + c.start_usd) for c in need.choices)
    return total


def exact_against_greedy(needs: int, trials: int = 30) -> dict[str, Any]:
    """Dollars and seconds of both on the same random problems."""
    chance = random.Random(SEED)
    ratios, seconds = [], {"exact": 0.0, "greedy": 0.0}
    for _ in range(trials):
        wanted, rooms = problem(needs, chance)
        begin = time.perf_counter()
        exact = solve(wanted, rooms)
        seconds["exact"] += time.perf_counter() - begin
        begin = time.perf_counter()
        simple = greedy(wanted, rooms)
        seconds["greedy"] += time.perf_counter() - begin
        ratios.append(usd_per_hour(wanted, simple) / usd_per_hour(wanted, exact))
    return {
        "deployments": needs,
        "trials": trials,
        "greedy_over_exact_mean": round(statistics.mean(ratios), 4),
        "greedy_over_exact_max": round(max(ratios), 4),
        "greedy_over_exact_min": round(min(ratios), 4),
        "exact_seconds": round(seconds["exact"] / trials, 5),
        "greedy_seconds": round(seconds["greedy"] / trials, 6),
    }
