"""From one revision to the next: how many replicas of each revision a variant has while they change places.

Surge: new replicas first, as far as the pool has room; an old one goes for each new one that answers. SpillAssisted:
where there is no room, one old replica goes first, if the others carry its requests or if these may spill for as long
as a start takes. Recreate: all old ones go first. A revision that fails is given up for the last one that worked.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from spillway.decide.demand import work_per_request
from spillway.decide.memory import DeploymentMemory, FailedRevision
from spillway.decide.outcome import Decision, SpillPlan
from spillway.decide.reasons import Code
from spillway.decide.snapshot import Deployment, Phase, Replica, Snapshot, Variant
from spillway.decide.starts import cold_start_seconds
from spillway.decide.target import Target, fresh_demand, slots
from spillway.decide.words import duration

ERROR_SHARE = 0.05  # of the replicas' answers: a new revision that takes it above this, and far above before, is bad
ERROR_GROWTH = 3.0
FEWEST_ERRORS_PER_SECOND = 5 / 60  # below which a share says nothing
PROBATION_SECONDS = 300.0  # for which a new revision must have served alone before there is no way back


@dataclass(frozen=True, slots=True)
class Move:
    """Of one variant: replicas wanted by revision; the revision whose workload stays, though it may ask for none, to
    return to; how many replicas of retired variants go to make room; what is told."""

    wanted: Mapping[str, int]
    kept: str = ""
    retired_to_free: int = 0
    told: tuple[Decision, ...] = ()


@dataclass(frozen=True, slots=True)
class Pace:
    """Whether one replica less may serve for as long as a start takes, and why, in words and dollars."""

    allowed: bool
    words: str


@dataclass(frozen=True, slots=True)
class Fleet:
    """The replicas of one variant, by what they are to a rollout to revision `to`."""

    to: str
    ready: int  # of `to`
    starting: int  # of `to`, with GPUs
    leaving: Mapping[str, int]  # ready ones of other revisions
    retired: int  # ready ones of variants that the spec no longer has, in the same pool
    stopping: int  # of any revision, and of retired variants in the pool: their GPUs are free in a moment

    @property
    def old(self) -> int:
        return sum(self.leaving.values()) + self.retired


def failure(snapshot: Snapshot, deployment: Deployment, variant: Variant, memory: DeploymentMemory) -> str:
    """Why the current revision of a variant is no good, in words; empty while nothing speaks against it. It is only
    judged beside another one that worked."""
    if memory.worked.get(variant.name, variant.revision) == variant.revision:
        return ""
    new = [r for r in _of(deployment, variant.name, variant.revision) if r.phase is not Phase.STOPPING]
    if words := next((r.failure for r in new if r.failure), ""):
        return words
    budget = snapshot.settings.start_budget_seconds
    for replica in new:
        if replica.phase is Phase.STARTING and replica.scheduled_at is not None:
            lasted = snapshot.time - replica.scheduled_at
            if lasted > budget:
                return f"{replica.name} is not ready after {duration(lasted)} (its budget is {duration(budget)})"
    share = error_share(deployment, snapshot.settings.metrics_stale_seconds)
    if share is not None and any(r.phase is Phase.READY for r in new):
        limit = max(ERROR_SHARE, ERROR_GROWTH * memory.error_share)
        if share > limit:
            return f"{share:.0%} of the replicas' answers are errors, {memory.error_share:.0%} before it"
    return ""


def error_share(deployment: Deployment, stale_seconds: float) -> float | None:
    """Share of the replicas' answers that are errors, 0 for a few; None: not known."""
    demand = fresh_demand(deployment, stale_seconds)
    if demand is None or demand.local_answers_per_second <= 0:
        return None
    if demand.local_errors_per_second < FEWEST_ERRORS_PER_SECOND:
        return 0.0
    return demand.local_errors_per_second / demand.local_answers_per_second


def remember(snapshot: Snapshot, deployment: Deployment, memory: DeploymentMemory) -> DeploymentMemory:
    """Which revision of each variant worked last, which ones have failed, and the errors while nothing changed."""
    names = {v.name: v for v in deployment.variants}
    worked = {name: revision for name, revision in memory.worked.items() if name in names}
    alone: dict[str, float] = {}
    began_with: dict[str, int] = {}
    failed = {name: f for name, f in memory.failed.items() if name in names and f.revision == names[name].revision}
    judging = False
    for name, variant in names.items():
        answering = [r.revision for r in deployment.replicas if r.variant == name and r.phase is Phase.READY]
        ready = set(answering)
        if name not in worked and ready:
            worked[name] = min(ready - {variant.revision}, default=variant.revision)
        updated = replace(memory, worked=worked)
        if name not in failed and (words := failure(snapshot, deployment, variant, updated)):
            failed[name] = FailedRevision(variant.revision, words)
        moving = worked.get(name, variant.revision) != variant.revision
        if moving:
            began_with[name] = memory.began_with.get(name, len(answering))
        judging = judging or (moving and variant.revision in ready)
        others = any(a.variant == name and a.revision != variant.revision and a.replicas for a in deployment.asked)
        if variant.revision in ready and name not in failed and not others:
            alone[name] = memory.alone_since.get(name, snapshot.time)
            if snapshot.time - alone[name] >= PROBATION_SECONDS:
                worked[name] = variant.revision
    share = error_share(deployment, snapshot.settings.metrics_stale_seconds)
    before = memory.error_share if judging or failed or share is None else share
    return replace(memory, worked=worked, alone_since=alone, began_with=began_with, failed=failed, error_share=before)


def move(
    snapshot: Snapshot,
    deployment: Deployment,
    variant: Variant,
    wanted: int,
    target: Target,
    spill: SpillPlan,
    is_open: bool,
) -> Move:
    """One tick of the variant's replicas on their way to the revision that the spec asks for."""
    memory = target.memory
    asked = {a.revision: a.replicas for a in deployment.asked if a.variant == variant.name}
    worked, failed = memory.worked.get(variant.name, ""), memory.failed.get(variant.name)
    back = failed is not None and worked != variant.revision and worked in asked
    seen = fleet(snapshot, deployment, variant, worked if back else variant.revision)
    kept = worked if worked in asked and worked != variant.revision else ""
    told = [_given_up(variant, worked, failed.words, wanted)] if back and failed else []
    others = asked.keys() - {seen.to}

    if not wanted or (not seen.old and not (deployment.rollout == "Recreate" and seen.stopping)):
        return Move({seen.to: wanted, **dict.fromkeys(others, 0)}, kept, told=tuple(told))
    if deployment.rollout == "Recreate":
        told.append(_words(Code.ROLLOUT_RECREATE, variant, seen, wanted, "all old replicas go before new ones come"))
        coming = min(wanted, seen.ready + seen.starting)
        return Move({seen.to: coming, **dict.fromkeys(others, 0)}, kept, seen.retired, tuple(told))

    room = _room(snapshot, deployment, variant, is_open)
    coming = min(wanted, seen.ready + seen.starting + room)
    stay, free = max(0, wanted - seen.ready), False
    missing = _missing(variant, seen, target)
    if coming < wanted and room == 0 and not seen.starting and not seen.stopping:
        free, decision = _without_room(snapshot, deployment, variant, seen, wanted, missing, target, spill)
        told.append(decision)
    elif wanted > seen.ready + seen.old:
        told.append(_words(Code.ROLLOUT_SPILL, variant, seen, wanted, "one less serves until a new one answers"))
    else:
        told.append(_surge(variant, seen, wanted, coming, cold_start_seconds(memory, variant)))
    if free and not seen.retired:
        stay -= 1
    return Move(
        {seen.to: coming, **dict.fromkeys(others, 0), **_shared_out(seen.leaving, stay)},
        kept,
        _replicas_for(snapshot, deployment, variant) if free and seen.retired else 0,
        tuple(told),
    )


def fleet(snapshot: Snapshot, deployment: Deployment, variant: Variant, to: str) -> Fleet:
    own = [r for r in deployment.replicas if r.variant == variant.name]
    leaving: dict[str, int] = {}
    for replica in own:
        if replica.revision != to and replica.phase is Phase.READY:
            leaving[replica.revision] = leaving.get(replica.revision, 0) + 1
    retired = retired_in(deployment, variant.pool)
    return Fleet(
        to=to,
        ready=sum(r.revision == to and r.phase is Phase.READY for r in own),
        starting=sum(r.revision == to and r.phase is Phase.STARTING for r in own),
        leaving=leaving,
        retired=sum(r.phase is Phase.READY for r in retired),
        stopping=sum(r.phase is Phase.STOPPING for r in (*own, *retired)),
    )


def of_retired(deployment: Deployment, name: str, number: int) -> dict[str, int]:
    """So many replicas of a retired variant by revision: of those that answer."""
    ready: dict[str, int] = {a.revision: 0 for a in deployment.asked if a.variant == name}
    for replica in deployment.replicas:
        if replica.variant == name and replica.phase is Phase.READY:
            ready[replica.revision] = ready.get(replica.revision, 0) + 1
    return _shared_out(ready, number)


def retired_in(deployment: Deployment, pool: str) -> list[Replica]:
    """Replicas in a pool of variants that the spec no longer has."""
    names = {r.name for r in deployment.retired if r.pool == pool}
    return [r for r in deployment.replicas if r.variant in names]


def pace(
    snapshot: Snapshot, deployment: Deployment, variant: Variant, target: Target, spill: SpillPlan, serving: int
) -> Pace:
    """May one of `serving` ready replicas of the variant go before its successor answers?"""
    demand = fresh_demand(deployment, snapshot.settings.metrics_stale_seconds)
    if demand is None or target.reference is None or target.prices is None:
        return Pace(False, "what it serves is not known without metrics")
    units = {c.variant: c.units_per_replica for c in target.need.choices} if target.need else {}
    unit = units.get(variant.name, 1.0)
    ready = sum(units.get(r.variant, 1.0) for r in deployment.replicas if r.phase is Phase.READY)
    work = demand.requests_per_second * work_per_request(target.reference, demand)
    over = min(max(work - max(ready - unit, 0.0), 0.0), unit)
    if over <= 0:
        others = "the others carry its requests" if serving > 1 else "it has none"
        return Pace(True, f"{others} meanwhile")
    seconds = cold_start_seconds(target.memory, variant) + snapshot.settings.deregister_seconds
    usd = target.prices.off_usd_per_second * over * seconds
    if not spill.allowed:
        return Pace(False, f"the others cannot carry its requests, and these may not spill: {spill.message}")
    left = min(
        (b for b in snapshot.budgets if b.policy in deployment.policies and b.stops_spill),
        key=lambda b: b.remaining,
        default=None,
    )
    price = f"about ${usd:.2f} for {duration(seconds)}"
    if left is not None and usd > left.remaining:
        rest = f"budget {left.name} has ${left.remaining:.2f} left"
        return Pace(False, f"its requests would spill, {price}, and {rest}")
    of = f", of ${left.remaining:.2f} left in budget {left.name}" if left is not None else ""
    return Pace(True, f"its requests spill meanwhile, {price}{of}")


def _without_room(
    snapshot: Snapshot,
    deployment: Deployment,
    variant: Variant,
    seen: Fleet,
    wanted: int,
    missing: int,
    target: Target,
    spill: SpillPlan,
) -> tuple[bool, Decision]:
    """Whether an old replica makes room now, and what is told."""
    full = f"pool {variant.pool} has no room for a new replica"
    if deployment.rollout == "Surge":
        hint = "waits for room; spec.rollout.strategy SpillAssisted would give up an old one first"
        return False, _words(Code.ROLLOUT_WAITING, variant, seen, wanted, f"{full}: {hint}")
    if missing > 0 and not seen.retired:
        return False, _words(Code.ROLLOUT_WAITING, variant, seen, wanted, f"{full}: others took what was given up")
    found = pace(snapshot, deployment, variant, target, spill, seen.old + seen.ready)
    if found.allowed:
        return True, _words(Code.ROLLOUT_SPILL, variant, seen, wanted, f"{full}: an old one goes first; {found.words}")
    hint = "waits for a quiet hour; spec.rollout.strategy Recreate does not wait"
    return False, _words(Code.ROLLOUT_WAITING, variant, seen, wanted, f"{full}: {found.words}; {hint}")


def _room(snapshot: Snapshot, deployment: Deployment, variant: Variant, is_open: bool) -> int:
    """New replicas that would get GPUs; of a pool that gives no more machines, on those that are there."""
    pool = snapshot.pool(variant.pool)
    if pool is None:
        return 0
    return slots(pool if is_open else replace(pool, growable_gpus=0), variant, deployment.namespace)


def _missing(variant: Variant, seen: Fleet, target: Target) -> int:
    """Replicas fewer than the rollout began with that are still needed: others may take what is given up, and then
    the pools' shares no longer have them."""
    if target.need is None:
        return 0
    unit = next((c.units_per_replica for c in target.need.choices if c.variant == variant.name), 1.0) or 1.0
    needed = max(target.need.floor, math.ceil(target.need.units / unit - 1e-3))
    return min(needed, target.memory.began_with.get(variant.name, 0)) - seen.ready - seen.old


def _replicas_for(snapshot: Snapshot, deployment: Deployment, variant: Variant) -> int:
    """Retired replicas in the variant's pool that make room for one of the variant."""
    sizes = [r.gpus_per_replica for r in deployment.retired if r.pool == variant.pool]
    return math.ceil(variant.gpus_per_replica / max(1, min(sizes, default=1)))


def _shared_out(ready: Mapping[str, int], number: int) -> dict[str, int]:
    """So many of the ready replicas, revision by revision."""
    shared: dict[str, int] = {}
    for revision in sorted(ready):
        shared[revision] = max(0, min(ready[revision], number))
        number -= shared[revision]
    return shared


def _of(deployment: Deployment, variant: str, revision: str) -> list[Replica]:
    return [r for r in deployment.replicas if (r.variant, r.revision) == (variant, revision)]


def _words(code: Code, variant: Variant, seen: Fleet, wanted: int, why: str) -> Decision:
    message = f"{variant.name}: {seen.ready} of {wanted} replicas answer in revision {seen.to}, {seen.old} older; {why}"
    return Decision(code, message, variant.name, wanted, wanted)


def _surge(variant: Variant, seen: Fleet, wanted: int, coming: int, start_seconds: float) -> Decision:
    extra = max(0, coming - seen.ready)
    rent = f"${extra * variant.usd_per_hour:.2f}/h more for about {duration(start_seconds)}"
    why = f"{extra} start beside those that serve, {rent}" if extra else "those that are replaced finish what they have"
    return _words(Code.ROLLOUT_SURGE, variant, seen, wanted, why)


def _given_up(variant: Variant, back_to: str, words: str, wanted: int) -> Decision:
    message = (
        f"{variant.name}: revision {variant.revision} is given up, back to {back_to}: {words}. Correct the spec, or "
        "try again with a new value of annotation spillway.dev/restart"
    )
    return Decision(Code.ROLLOUT_FAILED, message, variant.name, wanted, wanted)
