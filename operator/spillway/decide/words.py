"""The reason of each change, and of each change that an observer would expect and that was not made."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

from spillway.decide import pacing
from spillway.decide.holders import holders
from spillway.decide.outcome import Decision, DeploymentPlan
from spillway.decide.placement import Mix
from spillway.decide.reasons import Code
from spillway.decide.snapshot import Deployment, Snapshot, Variant
from spillway.decide.target import Target

LONGEST_AGE_SECONDS = 365 * 86400.0  # an older measurement is none


def duration(seconds: float) -> str:
    """`45 s`, `4 min`, `2 h`: as a person would say it."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.0f} h"


def decisions(
    snapshot: Snapshot,
    deployment: Deployment,
    desired: Mapping[str, int],
    before: Mapping[str, int],
    targets: Mapping[str, Target],
    mix: Mix | None,
    open_pools: frozenset[str],
) -> tuple[Decision, ...]:
    """Changes of wanted replicas by variant (`before` is the last plan's), then what held the plan back. `targets`: of
    all deployments, by key."""
    short = mix is not None and mix.uncovered_units > 0
    told = [
        change(snapshot, deployment, variant, before, desired, targets, open_pools, short)
        for variant in deployment.variants
        if before.get(variant.name, 0) != desired.get(variant.name, 0)
    ]
    for name in sorted(before.keys() - {v.name for v in deployment.variants}):
        if before[name] != desired.get(name, 0):
            message = (
                f"{before[name]}→{desired.get(name, 0)} {name}: the spec or its pool no longer allows this variant"
            )
            told.append(Decision(Code.NO_VARIANT, message, name, before[name], desired.get(name, 0)))
    return (*told, *limits(snapshot, deployment, desired, targets, mix, open_pools))


def change(
    snapshot: Snapshot,
    deployment: Deployment,
    variant: Variant,
    before: Mapping[str, int],
    desired: Mapping[str, int],
    targets: Mapping[str, Target],
    open_pools: frozenset[str],
    short: bool,
) -> Decision:
    """Why the wanted replicas of one variant change, with the dollars. `short`: the pools do not hold all wanted."""
    target = targets[deployment.key]
    old, new = before.get(variant.name, 0), desired.get(variant.name, 0)
    code, why = cause(snapshot, deployment, variant, before, desired, target, open_pools)
    if new < old and short and code is Code.CHEAPER_VARIANT:
        code, why = Code.OUTBID, f"makes way; {holders(snapshot, deployment, variant, targets)}"
    usd = (new - old) * variant.usd_per_hour
    if code in (Code.DEMAND_ROSE, Code.DEMAND_FELL) and target.work is not None and target.prices is not None:
        why, usd = demand_words(snapshot, variant, old, desired, target)
    return Decision(code, f"{old}→{new} {variant.name}: {why}", variant.name, old, new, round(usd, 2))


def cause(
    snapshot: Snapshot,
    deployment: Deployment,
    variant: Variant,
    before: Mapping[str, int],
    desired: Mapping[str, int],
    target: Target,
    open_pools: frozenset[str],
) -> tuple[Code, str]:
    old, new = before.get(variant.name, 0), desired.get(variant.name, 0)
    rate = f"${variant.usd_per_hour:.2f}/h each"
    closed = ", ".join(sorted({v.pool for v in deployment.variants if v.pool not in open_pools}))
    others = ", ".join(name for name, n in sorted(desired.items()) if n > 0 and name != variant.name)
    wanted = target.need.units if target.need else 0.0
    units = {c.variant: c.units_per_replica for c in target.need.choices} if target.need else {}
    covered = sum(units.get(name, 1.0) * n for name, n in before.items())
    if deployment.pinned_replicas:
        return Code.PINNED, f"spec.replicas pins {deployment.pinned_replicas} ({rate})"
    if new > old:
        if wanted > target.units_before:
            return Code.DEMAND_ROSE, rate
        if closed:
            return Code.POOL_OUT_OF_CAPACITY, f"pool {closed} gives no GPUs; next cheapest is {variant.pool} at {rate}"
        if target.awaited and target.need is not None and target.need.floor == 1 and not sum(before.values()):
            return Code.REQUEST_WAITS, f"a request waits for the first replica, and nothing else may answer it ({rate})"
        if target.need is not None and sum(before.values()) < target.need.floor > deployment.min_replicas:
            return Code.HINT, f"spec.hints {hint_words(snapshot, deployment, target.need.floor)} ({rate})"
        if sum(before.values()) < deployment.min_replicas:
            return Code.FLOOR_RAISED, f"minReplicas is {deployment.min_replicas} ({rate})"
        pool = snapshot.pool(variant.pool)
        if pool is not None and pool.reserved_gpus >= pool.used_gpus + variant.gpus_per_replica:
            return Code.RESERVED_FIRST, f"{variant.pool} has GPUs that are paid anyway (listed at {rate})"
        if covered < wanted - 1e-3 and sum(desired.values()) > sum(before.values()):  # there was no room for it before
            return Code.DEMAND_ROSE, rate
        return Code.CHEAPER_VARIANT, f"to take the place of {others or 'dearer replicas'}, at {rate}"
    if deployment.floor_only:
        return Code.BUDGET_SPENT, f"a GPU budget is spent: down to minReplicas {deployment.min_replicas} ({rate})"
    if wanted < target.units_before:
        return Code.DEMAND_FELL, rate
    if variant.pool not in open_pools:
        return Code.POOL_OUT_OF_CAPACITY, f"pool {variant.pool} gives no GPUs; {others or 'asked again later'}"
    return Code.CHEAPER_VARIANT, f"{others or 'nothing'} has taken over ({rate})"


def hint_words(snapshot: Snapshot, deployment: Deployment, floor: int) -> str:
    """`wants 4 from 2026-11-27 08:00 UTC, in 6 min`: the event that begins first of those that want so many."""
    wanting = [h for h in deployment.hints if h.min_replicas >= floor and h.end > snapshot.time]
    hint = min(wanting, key=lambda h: h.begin)
    begin = datetime.fromtimestamp(hint.begin, UTC).strftime("%Y-%m-%d %H:%M UTC")
    ahead = hint.begin - snapshot.time
    return f"wants {hint.min_replicas} from {begin} on" + (f", in {duration(ahead)}" if ahead > 0 else "")


def demand_words(
    snapshot: Snapshot, variant: Variant, old: int, desired: Mapping[str, int], target: Target
) -> tuple[str, float]:
    """`2.6 replicas of work for 4 min; what a replica would take costs $41.00/h elsewhere, a replica $16.80/h`, and the
    change of the running cost in $/h: rent less what it saves outside. What other variants take is not this one's."""
    work, prices = target.work or 0.0, target.prices
    assert prices is not None
    units = {c.variant: c.units_per_replica for c in target.need.choices} if target.need else {}
    new = desired.get(variant.name, 0)
    low, high = min(old, new), max(old, new)
    own = units.get(variant.name, 1.0)
    elsewhere = sum(units.get(name, 1.0) * n for name, n in desired.items() if name != variant.name)
    left = max(work - elsewhere - low * own, 0.0)
    outside_usd = prices.off_usd_per_second * min(left, (high - low) * own) * 3600
    rent_usd = (high - low) * variant.usd_per_hour
    since = target.memory.demand_changed_at
    lasting = f" for {duration(snapshot.time - since)}" if since and snapshot.time - since >= 1 else ""
    count = "a replica" if high - low == 1 else f"{high - low} replicas"
    words = (
        f"{work:.1f} replicas of work{lasting}; what {count} would take costs ${outside_usd:.2f}/h elsewhere, "
        f"{count} ${rent_usd:.2f}/h"
    )
    usd = rent_usd - outside_usd
    return words, usd if new > old else -usd


def would_words(deployment: Deployment, outcome: DeploymentPlan) -> str:
    """`would change 0→1 b200-nvfp4-vllm (FloorRaised, +$16.80/h of GPUs)`: what a dry run leaves undone. Of the GPUs'
    dollars only, and without the numbers of the load, so that it is the same from tick to tick."""
    parts = []
    for decision in (d for d in outcome.decisions if d.changes):
        variant = deployment.variant(decision.variant)
        usd = (decision.after - decision.before) * variant.usd_per_hour if variant else 0.0
        rent = f", {'-' if usd < 0 else '+'}${abs(usd):.2f}/h of GPUs" if variant else ""
        parts.append(f"change {decision.before}→{decision.after} {decision.variant} ({decision.code}{rent})")
    for asked in deployment.asked:
        variant = deployment.variant(asked.variant)
        if variant and asked.replicas and asked.revision != variant.revision and outcome.desired.get(asked.variant):
            parts.append(f"bring {asked.variant} to revision {variant.revision}")
    return "would " + ("; ".join(parts) or "change nothing")


def limits(
    snapshot: Snapshot,
    deployment: Deployment,
    desired: Mapping[str, int],
    targets: Mapping[str, Target],
    mix: Mix | None,
    open_pools: frozenset[str],
) -> list[Decision]:
    """What kept the plan from what demand asks for."""
    target = targets[deployment.key]
    told: list[Decision] = []
    total = sum(desired.values())
    if not deployment.variants:
        told.append(
            Decision(Code.NO_VARIANT, "no GPU pool can run this model; see condition Ready for each pool's reason")
        )
    if deployment.paused:
        told.append(
            Decision(Code.PAUSED, f"held at {total} by annotation spillway.dev/paused", before=total, after=total)
        )
    if target.stale and not deployment.pinned_replicas:
        # Before the first measurement the age is beyond all bounds.
        known = deployment.demand is not None and deployment.demand.age_seconds < LONGEST_AGE_SECONDS
        age = f"are {deployment.demand.age_seconds:.0f} s old" if deployment.demand and known else "have not come yet"
        message = f"held at {total}: the metrics {age}"
        told.append(Decision(Code.METRICS_STALE, message, before=total, after=total))
    if behind := pacing.words(snapshot, deployment):
        told.append(Decision(Code.BUDGET_PACING, behind, before=total, after=total))
    if deployment.floor_limit:
        told.append(Decision(Code.FLOOR_LIMITED, deployment.floor_limit, before=total, after=total))
    if mix is not None and mix.uncovered_units > 0:
        by_pool = {v.pool: v for v in reversed(deployment.variants)}
        who = ". ".join(
            holders(snapshot, deployment, variant, targets) if pool in open_pools else f"{pool}: out of capacity"
            for pool, variant in sorted(by_pool.items())
        )
        message = f"the pools lack room for {mix.uncovered_units:.1f} replicas of work; it spills or is refused. {who}"
        told.append(Decision(Code.NO_GPU, message, before=total, after=total))
    if (
        target.need is not None
        and target.work is not None
        and target.work > target.need.ceiling >= 1
        and total >= target.need.ceiling
    ):
        message = f"held at maxReplicas {deployment.max_replicas}: demand is {target.work:.1f} replicas of work"
        told.append(Decision(Code.MAX_REPLICAS, message, before=total, after=total))
    return told
