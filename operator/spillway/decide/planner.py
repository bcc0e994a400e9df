"""`plan`: from what is known to what shall be. Pure: the operator, the simulator and `explain` call this one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from spillway.decide import drain, placement, pools, regret, spill
from spillway.decide.demand import cold_start_seconds, prices, usd_per_unit, work_per_request
from spillway.decide.memory import DeploymentMemory, DrainingReplica, Memory, PoolMemory
from spillway.decide.outcome import DeploymentPlan, Plan, WorkloadPlan
from spillway.decide.snapshot import Demand, Deployment, Phase, Snapshot, Variant
from spillway.decide.target import Target
from spillway.decide.words import decisions

COLD_START_WEIGHT = 0.3  # of a new measurement in the EWMA


def plan(snapshot: Snapshot, memory: Memory) -> tuple[Plan, Memory]:
    """One tick. Returns the plan and the memory for the next one; equal inputs give equal outputs."""
    seconds = min(max(snapshot.time - memory.time, 0.0), snapshot.settings.longest_step_seconds) if memory.time else 0.0
    pool_memory = {p.name: pools.remember(snapshot, p, memory.pools.get(p.name, PoolMemory())) for p in snapshot.pools}
    open_pools = frozenset(name for name, m in pool_memory.items() if snapshot.time >= m.closed_until)

    targets = {
        d.key: target(snapshot, d, memory.deployments.get(d.key, DeploymentMemory()), open_pools, seconds)
        for d in snapshot.deployments
    }
    free = {p.name: p.free_slots(1) for p in snapshot.pools}
    mixes = placement.solve([t.need for t in targets.values() if t.need is not None], free)

    plans, memories = [], {}
    for deployment in snapshot.deployments:
        outcome, remembered = settle(
            snapshot, deployment, targets[deployment.key], mixes.get(deployment.key), open_pools
        )
        plans.append(outcome)
        memories[deployment.key] = remembered
    pool_plans = tuple(pools.plan_of(p, pool_memory[p.name], snapshot.time) for p in snapshot.pools)
    return (
        Plan(snapshot.time, tuple(plans), pool_plans),
        Memory(time=snapshot.time, deployments=memories, pools=pool_memory),
    )


def fresh_demand(deployment: Deployment, stale_seconds: float) -> Demand | None:
    demand = deployment.demand
    return demand if demand is not None and demand.age_seconds <= stale_seconds else None


def asked_by_variant(deployment: Deployment) -> dict[str, int]:
    asked: dict[str, int] = {}
    for workload in deployment.asked:
        asked[workload.variant] = asked.get(workload.variant, 0) + workload.replicas
    return asked


def without_zeros(replicas: Mapping[str, int]) -> dict[str, int]:
    return {name: n for name, n in replicas.items() if n}


def target(
    snapshot: Snapshot, deployment: Deployment, memory: DeploymentMemory, open_pools: frozenset[str], seconds: float
) -> Target:
    """Layered regret in units of the reference variant, clamped; the choices that may cover it."""
    memory = measure_cold_starts(deployment, memory)
    demand = fresh_demand(deployment, snapshot.settings.metrics_stale_seconds)
    stale = demand is None
    asked = asked_by_variant(deployment)
    if not deployment.variants:
        return Target(memory, stale=stale)
    if deployment.paused or (
        stale and sum(asked.values()) >= deployment.min_replicas and not deployment.pinned_replicas
    ):
        return Target(memory, stale=stale)

    mix = demand or Demand(0.0, 1000.0, 200.0)  # without traffic only the ratio of the variants' speeds matters
    reference = choose_reference(deployment, memory, mix, open_pools)
    stop_seconds = snapshot.settings.deregister_seconds
    rates = prices(deployment, mix, reference, cold_start_seconds(memory, reference), stop_seconds)
    per_request = work_per_request(reference, mix)
    # Rounded, so that the noise of the token mix does not change the choice of variants from tick to tick.
    units = {v.name: round(per_request / work_per_request(v, mix), 2) for v in deployment.variants}
    ready_units = sum(units.get(r.variant, 0.0) for r in deployment.replicas if r.phase is Phase.READY)
    running_units = sum(units.get(name, 0.0) * n for name, n in asked.items())

    ceiling = deployment.max_replicas
    floor = min(deployment.min_replicas, ceiling)
    work = None
    units_before = sum(memory.layers_on)
    if deployment.pinned_replicas:
        floor = ceiling = deployment.pinned_replicas
        count = 0
    elif demand is not None and not deployment.floor_only:
        size = max(1, round(ceiling * max([1.0, *units.values()]) + 0.499))
        # Whoever changed the fleet since the last plan (a restart's older memory, another hand): what runs counts.
        layers = regret.Layers(memory.regrets_usd, memory.layers_on)
        as_planned = memory.reference and without_zeros(memory.asked) == without_zeros(asked)
        on = units_before if as_planned else min(size, round(running_units))
        layers = regret.adopt(layers, size, on, rates.start_usd)
        work = demand.requests_per_second * per_request
        unserved = (demand.spilled_per_second + demand.refused_per_second) * per_request
        load = regret.loads(work, unserved, ready_units, size)
        layers = regret.step(layers, load, rates, seconds)
        # What is paid for anyway is not given up before its billed minimum has passed.
        layers = regret.adopt(
            layers, size, max(layers.count, min(on, paid_ahead(deployment, snapshot.time))), rates.start_usd
        )
        count = layers.count
        memory = replace(memory, regrets_usd=layers.regrets_usd, layers_on=layers.on)
        memory = note_crossing(memory, units_before, work, snapshot.time)
    else:
        count = 0
    need = placement.Need(
        deployment.key, float(count), floor, ceiling, choices(snapshot, deployment, memory, units, open_pools)
    )
    return Target(replace(memory, reference=reference.name), need, reference, rates, work, stale, float(units_before))


def paid_ahead(deployment: Deployment, now: float) -> int:
    """Replicas whose minimum billing has not passed yet."""
    return sum(
        1
        for r in deployment.replicas
        if r.scheduled_at is not None
        and (v := deployment.variant(r.variant)) is not None
        and now - r.scheduled_at < v.minimum_billing_seconds
    )


def note_crossing(memory: DeploymentMemory, layers_on: int, work: float, now: float) -> DeploymentMemory:
    """Since when demand has been above (or well below) what is on, for the words of the decision."""
    outside = work > layers_on or work < layers_on - 1
    if not outside:
        return replace(memory, demand_changed_at=0.0)
    return memory if memory.demand_changed_at else replace(memory, demand_changed_at=now)


def measure_cold_starts(deployment: Deployment, memory: DeploymentMemory) -> DeploymentMemory:
    """Take the measured time from having GPUs to ready of each replica once into its variant's EWMA."""
    known, measured = set(memory.counted_starts), dict(memory.cold_start_seconds)
    present = {r.name for r in deployment.replicas}
    for replica in deployment.replicas:
        if replica.ready_at is None or replica.name in known:
            continue
        known.add(replica.name)
        took = max(replica.ready_at - (replica.scheduled_at or replica.asked_at), 0.0)
        before = measured.get(replica.variant)
        measured[replica.variant] = took if before is None else before + COLD_START_WEIGHT * (took - before)
    return replace(memory, cold_start_seconds=measured, counted_starts=tuple(sorted(known & present)))


def choose_reference(
    deployment: Deployment, memory: DeploymentMemory, demand: Demand, open_pools: frozenset[str]
) -> Variant:
    """The cheapest variant per unit of work with an open pool; the last plan's unless another is 10 % cheaper."""
    candidates = [v for v in deployment.variants if v.pool in open_pools] or list(deployment.variants)
    best = min(candidates, key=lambda v: (usd_per_unit(v, demand), v.name))
    last = next((v for v in candidates if v.name == memory.reference), None)
    if last is not None and usd_per_unit(last, demand) <= usd_per_unit(best, demand) * 1.1:
        return last
    return best


def choices(
    snapshot: Snapshot,
    deployment: Deployment,
    memory: DeploymentMemory,
    units: Mapping[str, float],
    open_pools: frozenset[str],
) -> tuple[placement.Choice, ...]:
    found = []
    for variant in deployment.variants:
        pool = snapshot.pool(variant.pool)
        if pool is None:
            continue
        placed = sum(
            1 for r in deployment.replicas if r.variant == variant.name and r.phase in (Phase.STARTING, Phase.READY)
        )
        start_usd = variant.usd_per_hour / 3600 * cold_start_seconds(memory, variant)
        found.append(
            placement.Choice(
                variant=variant.name,
                pool=variant.pool,
                gpus_per_replica=variant.gpus_per_replica,
                units_per_replica=units[variant.name],
                usd_per_hour=variant.usd_per_hour,
                start_usd=round(start_usd, 1),
                placed=placed,
                slots=pool.free_slots(variant.gpus_per_replica) if variant.pool in open_pools else 0,
            )
        )
    return tuple(found)


def settle(
    snapshot: Snapshot,
    deployment: Deployment,
    wanted: Target,
    mix: placement.Mix | None,
    open_pools: frozenset[str],
) -> tuple[DeploymentPlan, DeploymentMemory]:
    """The plan of one deployment once the pools are shared out."""
    asked = asked_by_variant(deployment)
    if mix is None or wanted.need is None:
        desired = dict(asked)
    else:
        units = {c.variant: c.units_per_replica for c in wanted.need.choices}
        needed = max(wanted.need.units, min(1.0, wanted.need.floor))
        desired = keep_until_replaced(deployment, dict(mix.replicas), asked, units, needed)
    desired = {name: n for name, n in desired.items() if n > 0 or name in asked}
    workloads, draining = plan_workloads(snapshot, deployment, wanted.memory, desired)
    before = wanted.memory.desired or asked
    start_seconds = time_to_ready(deployment, wanted.memory, snapshot.time)
    short = mix is not None and mix.uncovered_units > 0
    outcome = DeploymentPlan(
        key=deployment.key,
        desired=desired,
        workloads=workloads,
        gate=spill.gate(deployment, frozenset(d.name for d in draining)),
        spill=spill.plan_spill(snapshot, deployment, start_seconds, short),
        decisions=decisions(snapshot, deployment, desired, before, wanted, mix, open_pools),
        work=wanted.work,
        reference=wanted.reference.name if wanted.reference else wanted.memory.reference,
        spill_cost_ratio=wanted.prices.spill_cost_ratio if wanted.prices else None,
        metrics_stale=wanted.stale,
        cold_start_seconds={v.name: cold_start_seconds(wanted.memory, v) for v in deployment.variants},
    )
    if deployment.dry_run:
        outcome = as_it_is(outcome, deployment)
    told: dict[str, int] = {}
    for workload in outcome.workloads:
        told[workload.variant] = told.get(workload.variant, 0) + workload.replicas
    remembered = replace(
        wanted.memory, desired=outcome.desired, asked=told, draining=() if deployment.dry_run else draining
    )
    return outcome, remembered


def keep_until_replaced(
    deployment: Deployment,
    mix: dict[str, int],
    asked: Mapping[str, int],
    units: Mapping[str, float],
    target_units: float,
) -> dict[str, int]:
    """Replicas of variants that the mix gives up stay until those that replace them are ready: a replica that has
    its GPUs is worth more than one that waits for them."""
    ready: dict[str, int] = {}
    placed: dict[str, int] = {}
    for replica in deployment.replicas:
        if replica.phase in (Phase.STARTING, Phase.READY):
            placed[replica.variant] = placed.get(replica.variant, 0) + 1
        if replica.phase is Phase.READY:
            ready[replica.variant] = ready.get(replica.variant, 0) + 1
    placed_units = sum(units.get(name, 0.0) * n for name, n in placed.items())
    covered = sum(units.get(name, 0.0) * min(n, mix.get(name, 0)) for name, n in ready.items())
    desired = dict(mix)
    for name in sorted(placed):
        spare = min(placed[name], asked.get(name, 0)) - mix.get(name, 0)
        while spare > 0 and covered < min(target_units, placed_units) - 1e-6:
            desired[name] = desired.get(name, 0) + 1
            covered += units.get(name, 0.0)
            spare -= 1
    for name in asked:
        desired.setdefault(name, 0)
    return desired


def plan_workloads(
    snapshot: Snapshot, deployment: Deployment, memory: DeploymentMemory, desired: Mapping[str, int]
) -> tuple[tuple[WorkloadPlan, ...], tuple[DrainingReplica, ...]]:
    since = {d.name: d.since for d in memory.draining}
    workloads: list[WorkloadPlan] = []
    draining: list[DrainingReplica] = []
    for name, number in sorted(desired.items()):
        variant = deployment.variant(name)
        revisions = sorted({a.revision for a in deployment.asked if a.variant == name})
        if variant is None:  # no longer among the possible ones: its workloads go once another can take over
            if deployment.paused or not deployment.variants:
                own = (a for a in deployment.asked if a.variant == name)
                workloads += [WorkloadPlan(a.variant, a.revision, a.replicas) for a in own]
                continue
            split = dict.fromkeys(revisions, 0)
        else:
            pool = snapshot.pool(variant.pool)
            room = pool is not None and pool.free_slots(variant.gpus_per_replica) > 0
            split = drain.split_revisions(deployment, name, variant.revision, number, room)
        for revision, wanted in split.items():
            workload, drains = drain.workload(
                deployment, name, revision, wanted, since, snapshot.time, snapshot.settings
            )
            workloads.append(workload)
            draining.extend(drains)
    return tuple(workloads), tuple(draining)


def time_to_ready(deployment: Deployment, memory: DeploymentMemory, now: float) -> float:
    """Seconds until the next replica should answer."""
    waits = [
        cold_start_seconds(memory, v) - (now - (r.scheduled_at or now))
        for r in deployment.replicas
        if r.phase in (Phase.STARTING, Phase.PENDING) and (v := deployment.variant(r.variant))
    ]
    starts = waits or [cold_start_seconds(memory, v) for v in deployment.variants]
    return max(1.0, min(starts, default=60.0))


def as_it_is(outcome: DeploymentPlan, deployment: Deployment) -> DeploymentPlan:
    """A dry run: the decisions are told, nothing changes."""
    return replace(
        outcome,
        desired=asked_by_variant(deployment),
        workloads=tuple(WorkloadPlan(a.variant, a.revision, a.replicas) for a in deployment.asked),
    )
