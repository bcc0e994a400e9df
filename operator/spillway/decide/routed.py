"""What spec.routes sends away: which of its pairs may be asked, and what a client of a shut one reads.

A route is an order, not a choice: it is not weighed against what a request is worth, nor against the pace of a budget.
Permission, budgets and caps bind it as they bind spill; while they shut it, its requests are refused, never served by
the replicas.
"""

from __future__ import annotations

from spillway.decide.outcome import Refusal, RoutePlan
from spillway.decide.reasons import Code
from spillway.decide.snapshot import Deployment, ProviderOption, Snapshot
from spillway.decide.spill import BUDGET_REASONS, retry_after, spent_budget, spent_words

SHUT_SECONDS = 60.0  # after which a client may ask again where nothing says when a route opens
FULL_SECONDS = 5.0


def route_plans(snapshot: Snapshot, deployment: Deployment) -> tuple[RoutePlan, ...]:
    """Each pair of the routes, in their order."""
    return tuple(_route(snapshot, deployment, option) for option in deployment.routed)


def _route(snapshot: Snapshot, deployment: Deployment, option: ProviderOption) -> RoutePlan:
    reason, message = option.unavailable, option.unavailable_message
    if not reason and option.affordable_in_flight < 1:
        reason = Code.BUDGET_SPENT
        message = "what is left of the budget does not cover one more request"
    return RoutePlan(
        option.provider,
        option.model,
        permitted=not reason,
        cap=0 if reason else option.affordable_in_flight,
        refusal=_refusal(snapshot, deployment, option, reason, message),
        reason=reason,
        message=message,
    )


def _refusal(snapshot: Snapshot, deployment: Deployment, option: ProviderOption, reason: str, message: str) -> Refusal:
    """For want of money 429 and when it comes back; for what only people can put right 503; else the pair is full."""
    what = f"This request of {deployment.key} is routed to {option.name}"
    if reason in BUDGET_REASONS:
        budget = spent_budget(snapshot, deployment)
        if budget is None:
            return Refusal(429, "budget_exhausted", f"{what}: {message}.", retry_after(SHUT_SECONDS))
        wait = retry_after(budget.resets_at - snapshot.time)
        return Refusal(429, "budget_exhausted", f"{what}, and {spent_words(budget)}.", wait)
    if reason:
        return Refusal(503, "route_unavailable", f"{what}: {message}.", retry_after(SHUT_SECONDS))
    return Refusal(
        429, "capacity_exceeded", f"{what}, which takes no more requests now. Retry later.", retry_after(FULL_SECONDS)
    )
