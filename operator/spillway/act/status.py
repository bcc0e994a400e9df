"""Status of MoEDeployments: pure, from what was resolved, seen and planned."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Literal

from spillway.act.cost import cost
from spillway.api import (
    MAX_DECISIONS,
    Condition,
    ConditionType,
    DecisionStatus,
    LoadStatus,
    MoEDeployment,
    MoEDeploymentStatus,
    Reason,
    Resource,
    SpillStatus,
    VariantCapacity,
    VariantStatus,
    find_condition,
    not_acted_on,
    not_acted_on_words,
    set_condition,
)
from spillway.build import endpoint, selector_text
from spillway.decide.outcome import Capacity, Decision, DeploymentPlan
from spillway.decide.reasons import Code
from spillway.decide.snapshot import Deployment, EngineRates, Phase, Retired, Variant
from spillway.ledger import LEASES_SECONDS
from spillway.observe.autoscalers import Autoscaler
from spillway.observe.prefetch import Prefetched
from spillway.observe.resolve import Problem, Resolved

ROLLOUT = (Code.ROLLOUT_SURGE, Code.ROLLOUT_SPILL, Code.ROLLOUT_RECREATE, Code.ROLLOUT_WAITING)
SPILL_MONEY_REASONS = (Reason.BUDGET_SPENT, Reason.NO_BUDGET, Reason.SUSPENDED)


class ConditionSet:
    """Conditions being set for one generation at one moment."""

    def __init__(self, before: Iterable[Condition], generation: int, now: datetime) -> None:
        self.conditions = tuple(before)
        self._generation = generation
        self._now = now

    def set(self, kind: str, holds: bool | None, reason: str, message: str) -> None:
        status: Literal["True", "False", "Unknown"] = "Unknown" if holds is None else "True" if holds else "False"
        self.conditions = set_condition(
            self.conditions,
            kind,
            status,
            reason,
            message,
            self._generation,
            self._now,
        )

    def set_not_acted_on(self, obj: Resource) -> None:
        """NotActedOn: fields that the owner set in vain. Absent where there never were any."""
        if paths := not_acted_on(obj):
            self.set(ConditionType.NOT_ACTED_ON, True, Reason.NOT_YET, not_acted_on_words(paths))
        elif find_condition(self.conditions, ConditionType.NOT_ACTED_ON):
            self.set(ConditionType.NOT_ACTED_ON, False, Reason.ACTED_ON, "this version acts on all that spec asks for")


def usd(amount: float) -> Decimal:
    return Decimal(str(round(amount, 2)))


def of_problem(problem: Problem, before: MoEDeploymentStatus, now: datetime) -> MoEDeploymentStatus:
    """The spec cannot be served: say why; what was seen before stays."""
    conditions = ConditionSet(before.conditions, problem.metadata.generation, now)
    conditions.set(ConditionType.READY, False, problem.reason, problem.message)
    conditions.set(ConditionType.PROGRESSING, False, problem.reason, "nothing is done until that is put right")
    return before.model_copy(
        update={
            "observed_generation": problem.metadata.generation,
            "conditions": conditions.conditions,
            "summary": None,
        }
    )


def of_refusal(before: MoEDeploymentStatus, generation: int, words: str, now: datetime) -> MoEDeploymentStatus:
    """A child was refused by the API server: what was seen before stays, and Degraded says why nothing changes."""
    conditions = ConditionSet(before.conditions, generation, now)
    conditions.set(ConditionType.DEGRADED, True, Reason.APPLY_REFUSED, words)
    return before.model_copy(update={"conditions": conditions.conditions})


def of_deployment(
    resolved: Resolved,
    seen: Deployment,
    plan: DeploymentPlan,
    before: MoEDeploymentStatus,
    changes: Iterable[Decision],
    spill_usd_per_hour: float,
    now: datetime,
    autoscalers: Sequence[Autoscaler] = (),
    prefetched: Sequence[Prefetched] = (),
) -> MoEDeploymentStatus:
    """What is seen and planned. `changes`: decisions since the last write; `spill_usd_per_hour`: cost of spill now;
    `autoscalers`: those of others that target the deployment; `prefetched`: what comes to nodes beforehand."""
    moe = resolved.moe
    ready = sum(1 for r in seen.replicas if r.phase is Phase.READY)
    present = sum(1 for r in seen.replicas if r.phase is not Phase.STOPPING)
    usd_by_variant = {v.name: v.usd_per_hour for v in seen.variants} | {r.name: r.usd_per_hour for r in seen.retired}
    gpu_usd = sum(usd_by_variant.get(r.variant, 0.0) for r in seen.replicas if r.phase is not Phase.PENDING)
    reference = plan.reference or (seen.variants[0].name if seen.variants else "")
    return MoEDeploymentStatus(
        observed_generation=moe.metadata.generation,
        replicas=present,
        desired_replicas=plan.replicas,
        ready_replicas=ready,
        selector=selector_text(moe.metadata.name),
        endpoint=endpoint(moe),
        summary=f"{ready}/{plan.replicas}",
        revision=resolved.revisions.get(reference),
        variants=variants(seen, plan),
        load=load(seen),
        spill=SpillStatus(
            active=plan.spill.allowed,
            reason=plan.spill.reason or Reason.AS_EXPECTED,
            share=spill_share(seen),
            cost_per_hour=usd(spill_usd_per_hour),
            lease_until=lease_until(seen, plan, before.spill.lease_until if before.spill else None, now),
        ),
        cost=cost(seen, plan, gpu_usd, spill_usd_per_hour),
        decisions=history(changes, before.decisions, now),
        conditions=conditions(resolved, seen, plan, before.conditions, ready, now, autoscalers, prefetched),
    )


def spill_usd_per_hour(seen: Deployment, plan: DeploymentPlan) -> float:
    """What spilled requests cost at the rate of now, at the prices of the first provider that may be used. The ledger
    knows the exact dollars, but only of what has ended."""
    demand = seen.demand
    permitted = {(p.provider, p.model) for p in plan.spill.providers if p.permitted}
    options = [o for o in seen.providers if (o.provider, o.model) in permitted] or list(seen.providers)
    if demand is None or not options:
        return 0.0
    each = options[0].usd_per_request(demand.input_tokens_per_request, demand.output_tokens_per_request)
    return demand.spilled_per_second * each * 3600


def lease_until(seen: Deployment, plan: DeploymentPlan, before: datetime | None, now: datetime) -> datetime | None:
    """Until when requests go on spilling without a word from the operator. Told while some do, and again when half of
    it is over: a status that changed with each renewal would be written all the time."""
    seconds = plan.spill.lease_seconds
    spills = plan.spill.allowed and seen.demand is not None and seen.demand.spilled_per_second > 0
    if not spills or seconds <= LEASES_SECONDS[0]:
        return None
    lease = timedelta(seconds=seconds)
    return before if before is not None and lease / 2 <= before - now <= lease else now + lease


def spill_share(seen: Deployment) -> float:
    """Share of the requests that spill now, in whole percent so that noise writes nothing."""
    demand = seen.demand
    if demand is None or demand.requests_per_second <= 0:
        return 0.0
    return round(min(1.0, demand.spilled_per_second / demand.requests_per_second), 2)


def variants(seen: Deployment, plan: DeploymentPlan) -> tuple[VariantStatus, ...]:
    """The possible variants, then those that the spec no longer has while replicas of them are left."""
    found = []
    every: list[Variant | Retired] = [*seen.variants, *seen.retired]
    for variant in every:
        by_phase = dict.fromkeys(Phase, 0)
        for replica in seen.replicas:
            if replica.variant == variant.name:
                by_phase[replica.phase] += 1
        if isinstance(variant, Retired) and not any(by_phase.values()):
            continue
        holding = by_phase[Phase.READY] + by_phase[Phase.STARTING] + by_phase[Phase.STOPPING]
        start = plan.cold_start_seconds.get(variant.name)
        found.append(
            VariantStatus(
                name=variant.name,
                desired=plan.desired.get(variant.name, 0),
                ready=by_phase[Phase.READY],
                starting=by_phase[Phase.STARTING],
                pending=by_phase[Phase.PENDING],
                gpus_per_replica=variant.gpus_per_replica,
                cost_per_hour=usd(holding * variant.usd_per_hour),
                cold_start_seconds=None if start is None else round(start),
                capacity=capacity(plan.capacity.get(variant.name)),
            )
        )
    return tuple(found)


def capacity(does: Capacity | None) -> VariantCapacity | None:
    """What a replica does; a retired variant's is not known any more."""
    if does is None:
        return None
    return VariantCapacity(
        prefill_tokens_per_second=round(does.prefill_tokens_per_second),
        decode_tokens_per_second=round(does.decode_tokens_per_second),
        source="Learned" if does.learned else "Catalog",
    )


def load(seen: Deployment) -> tuple[LoadStatus, ...]:
    """Load of the variants whose engines are known to Prometheus, rounded so that noise writes nothing."""
    rates = {one.variant: one for one in seen.rates}
    found = []
    for variant in seen.variants:
        known = [r for r in seen.replicas if r.variant == variant.name and r.in_flight is not None]
        if not known:
            continue
        lately = rates.get(variant.name, EngineRates(variant.name))
        waiting = sum(r.waiting or 0 for r in known)
        found.append(
            LoadStatus(
                variant=variant.name,
                running=sum(r.in_flight or 0 for r in known) - waiting,
                waiting=waiting,
                kv_use=round(min(1.0, sum(r.kv_use or 0.0 for r in known) / len(known)), 2),
                saturated=sum(r.saturated for r in known),
                input_tokens_per_second=round(lately.input_tokens_per_second),
                output_tokens_per_second=round(lately.output_tokens_per_second),
                preemptions_per_minute=round(60 * lately.preemptions_per_second),
                rejections_per_minute=round(60 * lately.rejections_per_second),
                time_to_first_token_seconds=rounded(lately.time_to_first_token_seconds),
                inter_token_latency_seconds=rounded(lately.inter_token_latency_seconds),
            )
        )
    return tuple(found)


def rounded(seconds: float | None) -> float | None:
    """In milliseconds, which is finer than any histogram's buckets."""
    return None if seconds is None else round(seconds, 3)


def history(
    decisions: Iterable[Decision], before: tuple[DecisionStatus, ...], now: datetime
) -> tuple[DecisionStatus, ...]:
    """The last changes, newest first."""
    new = [
        DecisionStatus(
            time=now,
            replicas_before=d.before,
            replicas_after=d.after,
            variant=d.variant,
            reason=d.code,
            message=d.message,
            dollars_per_hour=usd(d.usd_per_hour),
        )
        for d in decisions
        if d.changes
    ]
    return (*reversed(new), *before)[:MAX_DECISIONS]


def conditions(
    resolved: Resolved,
    seen: Deployment,
    plan: DeploymentPlan,
    before: tuple[Condition, ...],
    ready: int,
    now: datetime,
    autoscalers: Sequence[Autoscaler] = (),
    prefetched: Sequence[Prefetched] = (),
) -> tuple[Condition, ...]:
    """Ready first: it sums up the others."""
    moe = resolved.moe
    told = ConditionSet(before, moe.metadata.generation, now)
    by_code = {d.code: d for d in plan.decisions}
    starting = sum(1 for r in seen.replicas if r.phase in (Phase.STARTING, Phase.PENDING))

    told.set(ConditionType.READY, *readiness(seen, plan, ready, find_condition(before, ConditionType.READY) is None))
    rolling = next((d for d in plan.decisions if d.code in ROLLOUT), None)
    if rolling is not None:
        told.set(ConditionType.PROGRESSING, True, Reason.ROLLING_OUT, rolling.message)
    elif starting:
        told.set(ConditionType.PROGRESSING, True, Reason.STARTING, f"{starting} replicas are on their way")
    else:
        told.set(ConditionType.PROGRESSING, False, Reason.AS_EXPECTED, "no replica is on its way")
    if plan.metrics_stale:
        words = by_code[Code.METRICS_STALE].message if Code.METRICS_STALE in by_code else "no metrics yet"
        told.set(ConditionType.METRICS_AVAILABLE, False, Reason.METRICS_STALE, f"{words}; replicas are not changed")
    else:
        told.set(ConditionType.METRICS_AVAILABLE, True, Reason.AS_EXPECTED, "Prometheus has fresh gateway metrics")
    if plan.spill.allowed:
        names = ", ".join(f"{p.provider}/{p.model}" for p in plan.spill.providers if p.permitted)
        told.set(
            ConditionType.SPILL_AVAILABLE, True, Reason.AS_EXPECTED, f"what the replicas cannot take goes to {names}"
        )
    else:
        told.set(ConditionType.SPILL_AVAILABLE, False, plan.spill.reason, plan.spill.message)
    shut = next((route for route in plan.spill.routes if not route.permitted), None)
    if shut is not None:
        told.set(ConditionType.ROUTES_AVAILABLE, False, shut.reason, shut.message)
    elif plan.spill.routes or find_condition(before, ConditionType.ROUTES_AVAILABLE):
        told.set(ConditionType.ROUTES_AVAILABLE, True, Reason.AS_EXPECTED, "what spec.routes takes may go out")
    limit = next((by_code[c] for c in (Code.MAX_REPLICAS, Code.NO_GPU, Code.FLOOR_LIMITED) if c in by_code), None)
    if limit is not None:
        told.set(ConditionType.SCALING_LIMITED, True, limit.code, limit.message)
    else:
        told.set(ConditionType.SCALING_LIMITED, False, Reason.AS_EXPECTED, "nothing limits the number of replicas")
    money = next((p for p in plan.spill.providers if p.reason in SPILL_MONEY_REASONS), None)
    if seen.floor_only or (money is not None and money.reason == Reason.BUDGET_SPENT):
        words = money.message if money else "a GPU budget is spent: replicas are at the floor"
        told.set(ConditionType.WITHIN_BUDGET, False, Reason.BUDGET_SPENT, words)
    else:
        told.set(ConditionType.WITHIN_BUDGET, True, Reason.AS_EXPECTED, "no budget is spent")
    broken = next(filter(None, (r.failure for r in seen.replicas)), "")
    if Code.ROLLOUT_FAILED in by_code:
        told.set(ConditionType.DEGRADED, True, Reason.ROLLOUT_FAILED, by_code[Code.ROLLOUT_FAILED].message)
    elif broken:
        told.set(ConditionType.DEGRADED, True, Reason.REPLICAS_FAIL, f"a replica cannot start: {broken}")
    elif find_condition(before, ConditionType.DEGRADED):
        told.set(ConditionType.DEGRADED, False, Reason.AS_EXPECTED, "all that this deployment needs is there")
    if seen.pinned_replicas:
        told.set(
            ConditionType.PINNED,
            True,
            Reason.PINNED_BY_REPLICAS,
            f"spec.replicas pins {seen.pinned_replicas}; 0 is automatic",
        )
    elif find_condition(before, ConditionType.PINNED):
        told.set(ConditionType.PINNED, False, Reason.NOT_PINNED, "replicas follow demand")
    if seen.paused or seen.dry_run:
        reason, words = Reason.PAUSED_BY_ANNOTATION, "replicas are held; remove annotation spillway.dev/paused to go on"
        if seen.dry_run:
            would = by_code[Code.DRY_RUN].message if Code.DRY_RUN in by_code else "would change nothing"
            reason, words = Reason.DRY_RUN, f"{would}; remove annotation spillway.dev/dry-run to let it"
        told.set(ConditionType.PAUSED, True, reason, words)
    elif find_condition(before, ConditionType.PAUSED):
        told.set(ConditionType.PAUSED, False, Reason.AS_EXPECTED, "replicas follow the plan")
    if autoscalers:
        reason = Reason.AUTOSCALER_PINS if seen.pinned_replicas else Reason.AUTOSCALER_INACTIVE
        words = autoscaler_words(moe, autoscalers, seen.pinned_replicas)
        told.set(ConditionType.FOREIGN_AUTOSCALER, True, reason, words)
    elif find_condition(before, ConditionType.FOREIGN_AUTOSCALER):
        words = "no HorizontalPodAutoscaler targets this deployment"
        told.set(ConditionType.FOREIGN_AUTOSCALER, False, Reason.NO_AUTOSCALER, words)
    if prefetched:
        told.set(ConditionType.PREFETCHED, *fetching(prefetched))
    elif find_condition(before, ConditionType.PREFETCHED):
        told.set(ConditionType.PREFETCHED, False, Reason.AS_EXPECTED, "spec.model.cache.prefetch is false")
    told.set_not_acted_on(moe)
    return told.conditions


def fetching(prefetched: Sequence[Prefetched]) -> tuple[bool, str, str]:
    """The Prefetched condition: how many nodes have image and weights of each variant."""
    counts = ", ".join(f"{one.variant} on {len(one.ready)} of {len(one.nodes)} nodes" for one in prefetched)
    if refused := "; ".join(one.refused for one in prefetched if one.refused):
        return False, Reason.CACHE_TOO_SMALL, f"{counts}; {refused}"
    if any(len(one.ready) < len(one.nodes) for one in prefetched):
        return False, Reason.FETCHING, f"image and weights are coming: {counts}"
    return True, Reason.AS_EXPECTED, f"image and weights are there: {counts}"


def autoscaler_words(moe: MoEDeployment, autoscalers: Sequence[Autoscaler], pinned: int) -> str:
    """What they do to the deployment, and what to do about them."""
    namespace, name = moe.metadata.namespace, moe.metadata.name
    names = ", ".join(a.name for a in autoscalers)
    does = "does nothing while spec.replicas is 0"
    if pinned:
        does = f"is active because spec.replicas is {pinned}, and pins what it sets there"
    elif any(a.min_replicas == 0 for a in autoscalers):
        # HPAScaleToZero (on since Kubernetes 1.37): one that has set 0 itself goes on from there.
        does += ", but with minReplicas 0 it may set it and so pin the number"
    makers = ", ".join(a.maker for a in autoscalers if a.maker)
    fix = f"delete {makers}, which made it" if makers else f"kubectl delete hpa {names.replace(',', '')} -n {namespace}"
    back = f"; then kubectl scale moe/{name} -n {namespace} --replicas=0" if pinned else ""
    return f"HorizontalPodAutoscaler {names} {does}: Spillway scales by itself. Remove it: {fix}{back}"


def readiness(seen: Deployment, plan: DeploymentPlan, ready: int, first: bool) -> tuple[bool | None, str, str]:
    """The Ready condition: at least one replica answers, or none is meant to."""
    if ready and ready >= plan.replicas:
        return True, Reason.AS_EXPECTED, f"{ready} of {plan.replicas} replicas answer"
    if ready:
        return True, Reason.FEWER_REPLICAS_THAN_WANTED, f"{ready} of {plan.replicas} replicas answer"
    if plan.replicas == 0:
        return (
            plan.spill.allowed,
            Reason.SCALED_TO_ZERO,
            "no replica is wanted; requests "
            + ("go to providers" if plan.spill.allowed else "wait for a cold start, as nothing may spill"),
        )
    waiting = next((r for r in seen.replicas if r.phase is Phase.PENDING), None)
    covered = "; providers answer meanwhile" if plan.spill.allowed else ""
    if waiting is not None:
        return False, Reason.NO_READY_REPLICA, f"0 of {plan.replicas} replicas answer: waiting for GPUs{covered}"
    return (
        None if first else False,
        Reason.STARTING,
        f"0 of {plan.replicas} replicas answer: loading the model{covered}",
    )


def stamp(now: float) -> datetime:
    """Status times are whole seconds, as Kubernetes writes them."""
    return datetime.fromtimestamp(int(now), UTC)
