"""`plan`: from what is known to what shall be. Pure: the operator, the simulator and `explain` call this one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from spillway.decide import (
    capacity,
    drain,
    max_share,
    occasions,
    placement,
    pools,
    providers,
    rollout,
    routed,
    spill,
    starts,
)
from spillway.decide.memory import DeploymentMemory, DrainingReplica, Memory, PoolMemory
from spillway.decide.outcome import Capacity, Decision, DeploymentPlan, Plan, SpillPlan, WorkloadPlan
from spillway.decide.reasons import Code
from spillway.decide.snapshot import Deployment, Phase, Pool, Snapshot
from spillway.decide.starts import cold_start_seconds
from spillway.decide.target import Target, asked_by_variant, held_by_variant, target
from spillway.decide.words import decisions, would_words


def plan(snapshot: Snapshot, memory: Memory) -> tuple[Plan, Memory]:
    """One tick. Returns the plan and the memory for the next one; equal inputs give equal outputs."""
    seconds = min(max(snapshot.time - memory.time, 0.0), snapshot.settings.longest_step_seconds) if memory.time else 0.0
    pool_memory = {p.name: pools.remember(snapshot, p, memory.pools.get(p.name, PoolMemory())) for p in snapshot.pools}
    open_pools = frozenset(name for name, m in pool_memory.items() if snapshot.time >= m.closed_until)

    memories = {
        d.key: remember(snapshot, d, memory.deployments.get(d.key, DeploymentMemory()), seconds)
        for d in snapshot.deployments
    }
    snapshot = replace(
        snapshot,
        deployments=tuple(
            max_share.held_back(
                providers.ranked(snapshot.time, capacity.corrected(d, memories[d.key].capacity), memories[d.key]),
                memories[d.key],
            )
            for d in snapshot.deployments
        ),
    )
    targets = {d.key: target(snapshot, d, memories[d.key], open_pools, seconds) for d in snapshot.deployments}
    dry = {d.key for d in snapshot.deployments if d.dry_run}
    needs = [t.need for t in targets.values() if t.need is not None]
    mixes = share_out([n for n in needs if n.key not in dry], snapshot)
    if dry:  # what these would get is known; nobody makes room for them
        mixes |= {key: mix for key, mix in share_out(needs, snapshot).items() if key in dry}

    plans = []
    for deployment in snapshot.deployments:
        outcome, memories[deployment.key] = settle(snapshot, deployment, targets, mixes.get(deployment.key), open_pools)
        plans.append(outcome)
    pool_plans = tuple(pools.plan_of(p, pool_memory[p.name], snapshot.time) for p in snapshot.pools)
    return (
        Plan(snapshot.time, tuple(plans), pool_plans),
        Memory(time=snapshot.time, deployments=memories, pools=pool_memory),
    )


def remember(snapshot: Snapshot, deployment: Deployment, memory: DeploymentMemory, seconds: float) -> DeploymentMemory:
    """With what this tick shows: revisions that work or fail, how long starts take, what providers and replicas
    really do, how much went out."""
    memory = rollout.remember(snapshot, deployment, memory)
    memory = starts.learn(deployment, memory)
    memory = providers.learn(snapshot.time, deployment, memory, seconds)
    memory = max_share.learn(snapshot.time, deployment, memory, seconds, snapshot.settings)
    return capacity.learn(snapshot, deployment, memory, seconds)


def share_out(needs: Sequence[placement.Need], snapshot: Snapshot) -> dict[str, placement.Mix]:
    """The mix of each need, by key, if all of them are met together."""
    return placement.solve(needs, [room(p, needs, snapshot) for p in snapshot.pools])


def room(pool: Pool, needs: Sequence[placement.Need], snapshot: Snapshot) -> placement.Room:
    """What the pool has for the deployments that are decided on now; others keep what they have."""
    here = [(need, c) for need in needs for c in need.choices if c.pool == pool.name]
    sizes: dict[int, int] = {}
    for variant in (v for d in snapshot.deployments for v in d.variants if v.pool == pool.name):
        fit = pool.free_slots(variant.gpus_per_replica, variant.nodes_per_replica)
        sizes[variant.gpus_per_replica] = max(fit, sizes.get(variant.gpus_per_replica, 0))
    coming = {size: pools.vacating(snapshot, pool.name, size) for size in sizes}
    placed = {need.namespace: 0 for need, _ in here}
    for need, choice in here:
        placed[need.namespace] += choice.placed * choice.gpus_per_replica
    others = max(0, pool.used_gpus - sum(placed.values()))
    left: dict[str, int] = {}
    if pool.max_gpus_per_namespace is not None:
        foreign = {n: max(0, pool.used_by_namespace.get(n, 0) - held) for n, held in placed.items()}
        left = {n: max(0, pool.max_gpus_per_namespace - held) for n, held in foreign.items()}
    return placement.Room(
        pool.name,
        pool.free_slots(1) + max((size * n for size, n in coming.items()), default=0),
        slots=tuple((size, fit + coming[size]) for size, fit in sorted(sizes.items())),
        reserved_gpus=max(0, pool.reserved_gpus - others),
        usd_per_gpu_hour=pool.usd_per_gpu_hour,
        namespace_gpus=tuple(sorted(left.items())),
    )


def settle(
    snapshot: Snapshot,
    deployment: Deployment,
    targets: Mapping[str, Target],
    mix: placement.Mix | None,
    open_pools: frozenset[str],
) -> tuple[DeploymentPlan, DeploymentMemory]:
    """The plan of one deployment once the pools are shared out."""
    wanted = targets[deployment.key]
    asked = asked_by_variant(deployment)
    start_seconds = time_to_ready(deployment, wanted.memory, snapshot.time)
    short = mix is not None and mix.uncovered_units > 0
    held = (wanted.memory.held or spill.hold(deployment)) if deployment.paused or deployment.dry_run else None
    spilling = spill.plan_spill(snapshot, deployment, start_seconds, short, held)
    when_full, when_empty = occasions.may_spill(deployment, short)
    spilling = replace(
        spilling,
        routes=routed.route_plans(snapshot, deployment),
        when_full=when_full,
        when_empty=when_empty,
        hold_seconds=occasions.hold_seconds(deployment, wanted.memory, spilling.providers),
    )
    moves: list[Decision] = []
    if mix is None or wanted.need is None:
        # Of revisions that change places, what they are on their way to; of a drain that comes back, what is there.
        last = wanted.memory.desired
        serving = held_by_variant(deployment)
        desired = {name: max(n, min(last.get(name, n), asked[name])) for name, n in serving.items()}
    else:
        desired = wanted_replicas(deployment, wanted.need, mix, asked)
    if mix is None or wanted.need is None or deployment.dry_run:
        workloads, draining = as_asked(snapshot, deployment, wanted.memory)
    else:
        workloads, draining, moves = plan_workloads(snapshot, deployment, wanted, desired, spilling, open_pools)
    before = wanted.memory.desired or asked
    outcome = DeploymentPlan(
        key=deployment.key,
        desired=desired,
        workloads=workloads,
        gate=spill.gate(deployment, frozenset(d.name for d in draining), held),
        spill=spilling,
        decisions=(*decisions(snapshot, deployment, desired, before, targets, mix, open_pools), *moves),
        work=wanted.work,
        reference=wanted.reference.name if wanted.reference else wanted.memory.reference,
        spill_cost_ratio=wanted.prices.spill_cost_ratio if wanted.prices else None,
        metrics_stale=wanted.stale,
        cold_start_seconds={v.name: cold_start_seconds(wanted.memory, v) for v in deployment.variants},
        capacity={
            v.name: Capacity(
                v.prefill_tokens_per_second,
                v.decode_tokens_per_second,
                learned=(known := wanted.memory.capacity.get(v.name)) is not None and known.corrected,
            )
            for v in deployment.variants
        },
    )
    if deployment.dry_run:
        outcome = as_it_is(outcome, deployment)
    told: dict[str, int] = {}
    for workload in outcome.workloads:
        told[workload.variant] = told.get(workload.variant, 0) + workload.replicas
    remembered = replace(
        wanted.memory,
        desired=outcome.desired,
        asked=told,
        draining=draining,
        held=held,
        provider_order=tuple(option.name for option in deployment.providers),
    )
    return outcome, remembered


def wanted_replicas(
    deployment: Deployment, need: placement.Need, mix: placement.Mix, asked: Mapping[str, int]
) -> dict[str, int]:
    """Replicas by variant: the mix, and what serves until the mix does."""
    units = {c.variant: c.units_per_replica for c in need.choices}
    # What the mix gives up without a substitute, because the GPUs are worth more to others, does not stay.
    covered = sum(units.get(name, 0.0) * n for name, n in mix.replicas.items())
    needed = min(max(need.units, min(1.0, need.floor)), covered)
    if deployment.retired and deployment.rollout != "Recreate":
        # What a retired variant's replica does is not known any more: it counts as one of the reference, and serves
        # until all that takes its place does, or while nothing can.
        units = {**dict.fromkeys((r.name for r in deployment.retired), 1.0), **units}
        needed = max(need.units, covered + max(0, need.floor - sum(mix.replicas.values())))
    desired = keep_until_replaced(deployment, dict(mix.replicas), asked, units, needed)
    return {name: n for name, n in desired.items() if n > 0 or name in asked}


def keep_until_replaced(
    deployment: Deployment,
    mix: dict[str, int],
    asked: Mapping[str, int],
    units: Mapping[str, float],
    target_units: float,
) -> dict[str, int]:
    """Replicas of variants that the mix gives up stay until those that replace them are as far: what serves until
    something else serves, then what has its GPUs until something else has."""
    desired = {**dict.fromkeys(asked, 0), **mix}
    for phases in ((Phase.READY,), (Phase.READY, Phase.STARTING)):
        present: dict[str, int] = {}
        for replica in deployment.replicas:
            if replica.phase in phases:
                present[replica.variant] = present.get(replica.variant, 0) + 1
        needed = min(target_units, sum(units.get(name, 0.0) * n for name, n in present.items()))
        covered = sum(units.get(name, 0.0) * min(n, desired.get(name, 0)) for name, n in present.items())
        for name in sorted(present):
            spare = min(present[name], asked.get(name, 0)) - desired.get(name, 0)
            while spare > 0 and covered < needed - 1e-6:
                desired[name] = desired.get(name, 0) + 1
                covered += units.get(name, 0.0)
                spare -= 1
    return desired


def plan_workloads(
    snapshot: Snapshot,
    deployment: Deployment,
    target: Target,
    desired: dict[str, int],
    spilling: SpillPlan,
    open_pools: frozenset[str],
) -> tuple[tuple[WorkloadPlan, ...], tuple[DrainingReplica, ...], list[Decision]]:
    """Workloads by variant and revision, drains, and what is told of rollouts. Retired variants that make room are
    taken out of `desired`."""
    moves = {
        v.name: rollout.move(snapshot, deployment, v, desired[v.name], target, spilling, v.pool in open_pools)
        for v in deployment.variants
        if v.name in desired
    }
    splits = {name: dict(move.wanted) for name, move in moves.items()}
    pool_of = {retired.name: retired.pool for retired in deployment.retired}
    for name in desired.keys() - moves.keys():
        here = [v.name for v in deployment.variants if v.pool == pool_of.get(name) and v.name in moves]
        desired[name] -= min(desired[name], sum(moves[other].retired_to_free for other in here))
        splits[name] = rollout.of_retired(deployment, name, desired[name])
    since = {d.name: d.since for d in target.memory.draining}
    workloads: list[WorkloadPlan] = []
    draining: list[DrainingReplica] = []
    for name, split in sorted(splits.items()):
        for revision, wanted in split.items():
            workload, drains = drain.workload(
                deployment, name, revision, wanted, since, snapshot.time, snapshot.settings
            )
            kept = name in moves and moves[name].kept == revision
            workloads.append(replace(workload, kept=True) if kept else workload)
            draining.extend(drains)
    return tuple(workloads), tuple(draining), [told for move in moves.values() for told in move.told]


def time_to_ready(deployment: Deployment, memory: DeploymentMemory, now: float) -> float:
    """Seconds until the next replica should answer."""
    waits = [
        cold_start_seconds(memory, v) - (now - (r.scheduled_at or now))
        for r in deployment.replicas
        if r.phase in (Phase.STARTING, Phase.PENDING) and (v := deployment.variant(r.variant))
    ]
    starts = waits or [cold_start_seconds(memory, v) for v in deployment.variants]
    return max(1.0, min(starts, default=60.0))


def as_asked(
    snapshot: Snapshot, deployment: Deployment, memory: DeploymentMemory
) -> tuple[tuple[WorkloadPlan, ...], tuple[DrainingReplica, ...]]:
    """Every workload as it is, of whatever revision, also one that asks for nothing. Who drains comes back, unless
    Kubernetes is about to take it."""
    since = {d.name: d.since for d in memory.draining}
    held = [
        drain.workload(deployment, a.variant, a.revision, a.replicas, since, snapshot.time, snapshot.settings)
        for a in deployment.asked
    ]
    return tuple(replace(workload, kept=True) for workload, _ in held), tuple(d for _, drains in held for d in drains)


def as_it_is(outcome: DeploymentPlan, deployment: Deployment) -> DeploymentPlan:
    """A dry run: what would be done is told, nothing is."""
    held = held_by_variant(deployment)
    total = sum(held.values())
    would = Decision(Code.DRY_RUN, would_words(deployment, outcome), before=total, after=total)
    told = tuple(d for d in outcome.decisions if not d.changes and d.code is not Code.DRY_RUN)
    return replace(outcome, desired=held, decisions=(*told, would))
