"""What may go out, and what a client hears when nothing may."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime

from spillway.decide import pacing
from spillway.decide.demand import work_per_request
from spillway.decide.memory import HeldSpill
from spillway.decide.outcome import ProviderPlan, Refusal, SpillPlan
from spillway.decide.reasons import Code
from spillway.decide.snapshot import Budget, Deployment, Phase, ProviderOption, Snapshot, Variant

RETRY_AFTER_STEPS = (1, 5, 10, 30, 60, 120, 300, 600, 1200, 1800, 3600)
BUDGET_REASONS = frozenset({Code.BUDGET_SPENT, Code.BUDGET_PACING, Code.ABOVE_VALUE, Code.SUSPENDED, Code.NO_BUDGET})


def hold(deployment: Deployment) -> HeldSpill:
    """The spill settings of now, to be kept."""
    return HeldSpill(
        gates={v.name: replica_gate(deployment, v) for v in deployment.variants},
        providers=tuple((o.provider, o.model) for o in deployment.providers),
    )


def replica_gate(deployment: Deployment, variant: Variant) -> float:
    """In-flight requests that a ready replica takes."""
    if deployment.demand is None:
        return float(variant.concurrency)
    per_second = 1 / work_per_request(variant, deployment.demand)
    stream_tokens_per_second = variant.decode_tokens_per_second / variant.concurrency
    running = per_second * deployment.demand.output_tokens_per_request / stream_tokens_per_second
    return min(running, variant.concurrency) + per_second * deployment.queue_seconds


def gate(deployment: Deployment, draining: frozenset[str], held: HeldSpill | None = None) -> int:
    """In-flight requests that the ready replicas take: those that run while a replica is just busy (Little's law, at
    most its concurrency), and a queue that it works off in `queue_seconds`. More would only wait longer.

    The gateways count what draining replicas still answer, too: that comes on top, or the others would look full."""
    total = 0.0
    for replica in deployment.replicas:
        # What a retired variant's replica takes is not known any more: as much as the first variant's.
        variant = deployment.variant(replica.variant) or next(iter(deployment.variants), None)
        if replica.phase is not Phase.READY or variant is None:
            continue
        if replica.name in draining:
            total += replica.in_flight or 0
            continue
        kept = held.gates.get(variant.name) if held else None
        total += kept if kept is not None else replica_gate(deployment, variant)
    return max(math.floor(total), 1 if total else 0)


def provider_plans(
    snapshot: Snapshot, deployment: Deployment, held: HeldSpill | None = None
) -> tuple[ProviderPlan, ...]:
    """Each configured pair, in the order of `providers.ranked`: permitted where nothing speaks against it and the money
    gives it at least one request in flight. Where settings are held, their order, and none that was not there."""
    plans = []
    options = list(deployment.providers)
    order = {pair: n for n, pair in enumerate(held.providers)} if held else {}
    for option in sorted(options, key=lambda o: order.get((o.provider, o.model), len(order))):
        reason, message = option.unavailable, option.unavailable_message
        if held and not reason and (option.provider, option.model) not in order:
            reason = Code.PAUSED if deployment.paused else Code.DRY_RUN
            message = f"{option.provider}/{option.model} was named while an annotation holds the deployment as it was"
        if not reason and option.affordable_in_flight < 1:
            reason = Code.BUDGET_SPENT
            message = "what is left of the budget does not cover one more request"
        if not reason:
            reason, message = not_worth_it(snapshot, deployment, option)
        plans.append(
            ProviderPlan(
                option.provider,
                option.model,
                permitted=not reason,
                cap=0 if reason else option.affordable_in_flight,
                reason=reason,
                message=message,
            )
        )
    return tuple(plans)


def not_worth_it(snapshot: Snapshot, deployment: Deployment, option: ProviderOption) -> tuple[str, str]:
    """Why a request is not worth the provider's price now (code and words); empty if it is."""
    demand, value = deployment.demand, deployment.usd_value_per_request
    if demand is None:
        return "", ""
    usd = option.usd_per_request(demand.input_tokens_per_request, demand.output_tokens_per_request)
    counts = pacing.multipliers(snapshot, deployment).external
    if usd * counts <= value:
        return "", ""
    costs = f"a request costs ${usd:.4f} at {option.provider}/{option.model}"
    if usd <= value:
        return Code.BUDGET_PACING, f"{costs} and is worth ${value:.4f}; {pacing.words(snapshot, deployment)}"
    return Code.ABOVE_VALUE, f"{costs}, more than the ${value:.4f} that serving it is worth (valuePerRequest)"


def at_work(deployment: Deployment, out_of_capacity: bool) -> tuple[str, str]:
    """Why requests go out now (code and words); empty when none do."""
    demand = deployment.demand
    if demand is None or demand.spilled_per_second <= 0:
        return "", ""
    rate = f"{demand.spilled_per_second:.1f} requests/s go to providers"
    if any(r.phase is Phase.STARTING for r in deployment.replicas):
        return Code.COLD_START_COVER, f"{rate} while replicas start"
    if out_of_capacity or any(r.phase is Phase.PENDING for r in deployment.replicas):
        return Code.NO_GPU, f"{rate}: the pools give no more GPUs"
    return Code.SATURATED, f"{rate}: the ready replicas are full"


def spent_budget(snapshot: Snapshot, deployment: Deployment) -> Budget | None:
    """The budget that stops this deployment's spill: the one that opens again last."""
    spent = [b for b in snapshot.budgets if b.policy in deployment.policies and b.stops_spill and b.remaining <= 0]
    return max(spent, key=lambda b: b.resets_at, default=None)


def spent_words(budget: Budget) -> str:
    """Which budget is spent, and when it opens again."""
    reset = datetime.fromtimestamp(budget.resets_at, UTC).strftime("%Y-%m-%d %H:%M UTC")
    return f"budget '{budget.name}' of CostPolicy '{budget.policy}' is spent; it opens again at {reset}"


def refusal(
    snapshot: Snapshot, deployment: Deployment, providers: Sequence[ProviderPlan], start_seconds: float
) -> Refusal:
    """The honest answer for a request that neither a replica nor a provider takes."""
    ready = any(r.phase is Phase.READY for r in deployment.replicas)
    by_money = [p for p in providers if p.reason in BUDGET_REASONS]
    if providers and by_money and not any(p.permitted for p in providers):
        budget = spent_budget(snapshot, deployment)
        if budget is not None:
            words = f"The GPUs of {deployment.key} are full and {spent_words(budget)}."
            wait = budget.resets_at - snapshot.time
        else:
            words = f"The GPUs of {deployment.key} are full and no money may be spent outside: {by_money[0].message}."
            wait = 60.0
        return Refusal(429, "budget_exhausted", words, retry_after(min(wait, start_seconds if not ready else wait)))
    if not ready:
        return Refusal(
            503,
            "no_capacity",
            f"No replica of {deployment.key} is ready yet. Retry later.",
            retry_after(start_seconds),
        )
    return Refusal(
        429, "capacity_exceeded", f"All replicas of {deployment.key} are at capacity. Retry later.", retry_after(5)
    )


def retry_after(seconds: float) -> int:
    """Rounded up to a step, so that the gateways are not told anew every tick."""
    return next((step for step in RETRY_AFTER_STEPS if step >= seconds), RETRY_AFTER_STEPS[-1])


def plan_spill(
    snapshot: Snapshot,
    deployment: Deployment,
    start_seconds: float,
    out_of_capacity: bool,
    held: HeldSpill | None = None,
) -> SpillPlan:
    """Permissions, caps and lease of one deployment; the reason why it spills, or why it may not."""
    providers = provider_plans(snapshot, deployment, held)
    allowed = any(p.permitted for p in providers)
    reason, message = at_work(deployment, out_of_capacity)
    if not allowed:
        blocked = next((p for p in providers if p.reason), None)
        reason = blocked.reason if blocked else Code.NO_PROVIDER
        message = blocked.message if blocked else "spec.spill.providers names no provider"
    return SpillPlan(
        allowed=allowed,
        lease_seconds=deployment.lease_seconds,
        providers=providers,
        refusal=refusal(snapshot, deployment, providers, start_seconds),
        reason=reason,
        message=message,
    )
