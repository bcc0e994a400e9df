"""What one deployment wants before the pools are shared out: layered regret, clamped, in units of one variant."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from spillway.decide import occasions, pacing, placement, pools, provisioning
from spillway.decide.demand import Prices, prices, usd_per_unit, work_per_request
from spillway.decide.memory import DeploymentMemory
from spillway.decide.placement import Need
from spillway.decide.snapshot import Demand, Deployment, Phase, Pool, Snapshot, Variant
from spillway.decide.starts import cold_start_p90_seconds, cold_start_seconds

HINT_MARGIN_SECONDS = 30.0  # beside a cold start, for the tick, the node and the gateways' endpoints


@dataclass(frozen=True, slots=True)
class Target:
    """`need` is None where what is asked now is kept. `work` and `units_before` (what the last plan wanted) are in
    units of the reference variant."""

    memory: DeploymentMemory
    need: Need | None = None
    reference: Variant | None = None
    prices: Prices | None = None
    work: float | None = None
    stale: bool = False
    units_before: float = 0.0
    awaited: bool = False  # a request may wait for the first replica


def target(
    snapshot: Snapshot, deployment: Deployment, memory: DeploymentMemory, open_pools: frozenset[str], seconds: float
) -> Target:
    """Layered regret in units of the reference variant, clamped; the choices that may cover it."""
    demand = fresh_demand(deployment, snapshot.settings.metrics_stale_seconds)
    stale = demand is None
    asked = asked_by_variant(deployment)
    if not deployment.variants:
        return Target(memory, stale=stale)
    awaited = occasions.awaited(snapshot, deployment, memory)
    least = max(deployment.min_replicas, int(awaited))
    if deployment.paused or (stale and sum(asked.values()) >= least and not deployment.pinned_replicas):
        return Target(memory, stale=stale)

    mix = demand or Demand(0.0, 1000.0, 200.0)  # without traffic only the ratio of the variants' speeds matters
    reference = choose_reference(deployment, memory, mix, open_pools)
    stop_seconds = snapshot.settings.deregister_seconds
    paced = pacing.multipliers(snapshot, deployment)
    rates = prices(deployment, mix, reference, cold_start_seconds(memory, reference), stop_seconds, paced)
    off_usd_per_hour = rates.off_usd_per_second * 3600
    per_request = work_per_request(reference, mix)
    # Rounded, so that the noise of the token mix does not change the choice of variants from tick to tick.
    units = {v.name: round(per_request / work_per_request(v, mix), 2) for v in deployment.variants}
    rates = replace(rates, rent_shares=rent_shares(snapshot, deployment, reference, units, open_pools))
    before = deployment.variant(memory.reference)
    if before is not None and before.name != reference.name and memory.provisioning is not None:
        beta_before = prices(deployment, mix, before, cold_start_seconds(memory, before), stop_seconds, paced).start_usd
        ratio = rates.start_usd / beta_before if beta_before > 0 else 1.0
        rescaled = provisioning.rescale(memory.provisioning, units[before.name], ratio)
        memory = replace(memory, provisioning=rescaled)

    ceiling = deployment.max_replicas
    hinted = hinted_replicas(deployment, cold_start_p90_seconds(memory, reference), snapshot.time)
    floor = min(max(least, hinted), ceiling)
    work = None
    units_before = float(memory.layers_on)
    if deployment.dry_run:  # the last plan was not carried out
        units_before = sum(units.get(name, 0.0) * n for name, n in held_by_variant(deployment).items())
    if deployment.pinned_replicas:
        floor = ceiling = deployment.pinned_replicas
    count = 0
    if demand is not None and not deployment.floor_only:
        memory = advance(snapshot, deployment, memory, demand, reference, rates, units, per_request, seconds)
        if not deployment.pinned_replicas:
            work = demand.requests_per_second * per_request
            count = memory.layers_on
            memory = note_crossing(memory, units_before, work, snapshot.time)
    offers = choices(snapshot, deployment, memory, units, open_pools, off_usd_per_hour, floor)
    need = placement.Need(deployment.key, float(count), floor, ceiling, offers, off_usd_per_hour)
    memory = replace(memory, reference=reference.name)
    return Target(memory, need, reference, rates, work, stale, units_before, awaited)


def advance(
    snapshot: Snapshot,
    deployment: Deployment,
    memory: DeploymentMemory,
    demand: Demand,
    reference: Variant,
    rates: Prices,
    units: Mapping[str, float],
    per_request: float,
    seconds: float,
) -> DeploymentMemory:
    """The rule's state after `seconds` of this demand. `units`: what a replica does, by variant; `per_request`: its
    work. A pinned deployment's rule goes on, too, so that it knows what is needed when the pin ends."""
    asked = asked_by_variant(deployment)
    most = max(deployment.max_replicas, deployment.pinned_replicas)
    size = max(1, math.ceil(most * max([1.0, *units.values()])))
    # Whoever changed the fleet since the last plan (a restart's older memory, another hand): what runs counts.
    as_planned = memory.reference and without_zeros(memory.asked) == without_zeros(asked)
    running_units = sum(units.get(name, 0.0) * n for name, n in held_by_variant(deployment).items())
    on = memory.layers_on if as_planned and not deployment.pinned_replicas else round(running_units)
    ready_units = sum(units.get(r.variant, 0.0) for r in deployment.replicas if r.phase is Phase.READY)
    unserved = 0.0
    if ready_units >= running_units - 0.01:  # what replicas on their way will take is no reason for one more
        unserved = (demand.spilled_per_second + demand.refused_per_second) * per_request
    evidence = provisioning.Evidence(
        time=snapshot.time,
        seconds=seconds,
        work=demand.requests_per_second * per_request,
        unserved=unserved,
        ready=ready_units,
        on=min(size, on),
        layers=size,
        off_usd=rates.off_usd_per_second,
        rent_usd=rates.rent_usd_per_second,
        delay_seconds=cold_start_seconds(memory, reference),
        drain_seconds=snapshot.settings.deregister_seconds,
        minimum_seconds=reference.minimum_billing_seconds,
        queue_seconds=deployment.queue_seconds,
        youngest_seconds=youngest_seconds(deployment, snapshot.time),
        rent_shares=rates.rent_shares,
    )
    state = provisioning.advance(snapshot.settings.rule, memory.provisioning, evidence)
    seen_at = snapshot.time if evidence.work > 0 else memory.demand_seen_at
    return replace(memory, provisioning=state, demand_seen_at=seen_at)


def youngest_seconds(deployment: Deployment, now: float) -> float:
    """Age of the youngest replica that has its GPUs; infinite without any."""
    return min(
        (
            now - r.scheduled_at
            for r in deployment.replicas
            if r.scheduled_at is not None and r.phase in (Phase.STARTING, Phase.READY)
        ),
        default=math.inf,
    )


def hinted_replicas(deployment: Deployment, lead_seconds: float, now: float) -> int:
    """Replicas that known events ask for now: asked for so long before they begin that they are ready by then."""
    lead_seconds += HINT_MARGIN_SECONDS
    return max((h.min_replicas for h in deployment.hints if h.begin - lead_seconds <= now < h.end), default=0)


def fresh_demand(deployment: Deployment, stale_seconds: float) -> Demand | None:
    demand = deployment.demand
    return demand if demand is not None and demand.age_seconds <= stale_seconds else None


def asked_by_variant(deployment: Deployment) -> dict[str, int]:
    asked: dict[str, int] = {}
    for workload in deployment.asked:
        asked[workload.variant] = asked.get(workload.variant, 0) + workload.replicas
    return asked


def held_by_variant(deployment: Deployment) -> dict[str, int]:
    """Replicas that serve by variant: while revisions change places, those of one of them stand in for the other's."""
    held: dict[str, int] = {}
    for workload in deployment.asked:
        held[workload.variant] = max(held.get(workload.variant, 0), workload.replicas)
    return held


def without_zeros(replicas: Mapping[str, int]) -> dict[str, int]:
    return {name: n for name, n in replicas.items() if n}


def note_crossing(memory: DeploymentMemory, layers_on: float, work: float, now: float) -> DeploymentMemory:
    """Since when demand has been above (or well below) what is on, for the words of the decision."""
    outside = work > layers_on or work < layers_on - 1
    if not outside:
        return replace(memory, demand_changed_at=0.0)
    return memory if memory.demand_changed_at else replace(memory, demand_changed_at=now)


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
    off_usd_per_hour: float,
    floor: int,
) -> tuple[placement.Choice, ...]:
    """What may cover the need. A variant whose work costs less elsewhere is only taken for the floor; its replicas
    that run stay until something else serves."""
    found = []
    below_floor = max(0, floor - sum(r.phase in (Phase.STARTING, Phase.READY) for r in deployment.replicas))
    inherited = retired_gpus(deployment)
    for variant in deployment.variants:
        pool = snapshot.pool(variant.pool)
        if pool is None:
            continue
        placed = sum(
            1 for r in deployment.replicas if r.variant == variant.name and r.phase in (Phase.STARTING, Phase.READY)
        )
        # The first variant of a pool takes over the GPUs of those that the spec no longer has.
        placed += inherited.pop(variant.pool, 0) // variant.gpus_per_replica
        start_usd = variant.usd_per_hour / 3600 * cold_start_seconds(memory, variant)
        is_open = variant.pool in open_pools
        room = slots(pool, variant, deployment.namespace) if is_open else 0
        if is_open:
            waiting = sum(r.variant == variant.name and r.phase is Phase.PENDING for r in deployment.replicas)
            room = max(room, min(waiting, room + pools.vacating(snapshot, pool.name, variant.gpus_per_replica)))
        if variant.usd_per_hour > units[variant.name] * off_usd_per_hour:
            is_open, room = False, min(room, below_floor)
        found.append(
            placement.Choice(
                variant=variant.name,
                pool=variant.pool,
                gpus_per_replica=variant.gpus_per_replica,
                units_per_replica=units[variant.name],
                usd_per_hour=variant.usd_per_hour,
                start_usd=round(start_usd, 1),
                placed=placed,
                slots=room,
                open=is_open,
            )
        )
    return tuple(found)


def retired_gpus(deployment: Deployment) -> dict[str, int]:
    """GPUs, by pool, that replicas of retired variants hold."""
    gpus: dict[str, int] = {}
    for retired in deployment.retired:
        number = sum(
            r.variant == retired.name and r.phase in (Phase.STARTING, Phase.READY) for r in deployment.replicas
        )
        gpus[retired.pool] = gpus.get(retired.pool, 0) + number * retired.gpus_per_replica
    return gpus


def slots(pool: Pool, variant: Variant, namespace: str) -> int:
    """Replicas of the variant that the pool has room for and the namespace may still take."""
    room, allowed = pool.free_slots(variant.gpus_per_replica, variant.nodes_per_replica), pool.namespace_gpus(namespace)
    return room if allowed is None else min(room, allowed // variant.gpus_per_replica)


def rent_shares(
    snapshot: Snapshot,
    deployment: Deployment,
    reference: Variant,
    units: Mapping[str, float],
    open_pools: frozenset[str],
) -> tuple[float, ...]:
    """What the first layers cost of the reference's rent, as far as GPUs that are paid anyway carry them: those that
    the deployment's replicas hold now and those that nobody holds, at the shadow price."""
    cheap: list[tuple[float, float]] = []  # share of the rent, units of work
    for variant in deployment.variants:
        pool = snapshot.pool(variant.pool)
        if pool is None or not pool.reserved_gpus or not units[variant.name]:
            continue
        own = sum(
            variant.gpus_per_replica
            for r in deployment.replicas
            if r.variant == variant.name and r.phase in (Phase.STARTING, Phase.READY)
        )
        # Where more is held than is reserved, each holder has the same share of it at the low price.
        carried = own * min(1.0, pool.reserved_gpus / max(pool.used_gpus, own, 1))
        if pool.name in open_pools:
            carried += max(0, pool.reserved_gpus - pool.used_gpus)
        usd_per_unit = variant.usd_per_hour / units[variant.name]
        share = placement.SHADOW_PRICE * usd_per_unit / max(reference.usd_per_hour, 1e-9)
        cheap.append((min(share, 1.0), carried / variant.gpus_per_replica * units[variant.name]))
    shares: list[float] = []
    left, whole = 1.0, 0.0  # of the present layer: what no GPU carries yet, and its share so far
    for share, carried_units in sorted(cheap):
        while carried_units > 1e-9:
            part = min(left, carried_units)
            left, whole, carried_units = left - part, whole + part * share, carried_units - part
            if left <= 1e-9:
                shares.append(whole)
                left, whole = 1.0, 0.0
    return tuple([*shares, whole + left] if left < 1.0 else shares)
