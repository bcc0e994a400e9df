"""On which occasions requests may go out (spec.spill.when), and how long one waits that may not (spill.holdSeconds)."""

from __future__ import annotations

import math
from collections.abc import Sequence

from spillway.decide.memory import DeploymentMemory
from spillway.decide.outcome import ProviderPlan
from spillway.decide.reasons import Code
from spillway.decide.snapshot import Deployment, Phase, Snapshot
from spillway.decide.spill import provider_plans
from spillway.decide.starts import cold_start_p90_seconds

HOLD_STARTS = 1.5  # of a slow cold start
LONGEST_HOLD_SECONDS = 900.0
HOLD_STEP_SECONDS = 60.0  # a learned hold is a multiple of it, so that the gateways are rarely told anew


def occasions(deployment: Deployment, out_of_capacity: bool) -> frozenset[str]:
    """What of spec.spill.when is the case now. Replicas that wait for a node are on their way and short of GPUs."""
    phases = {r.phase for r in deployment.replicas}
    serving = Phase.READY in phases
    starting = bool(phases & {Phase.PENDING, Phase.STARTING})
    failed = any(r.failure for r in deployment.replicas)
    revisions = {v.name: v.revision for v in deployment.variants}
    found = {
        "Saturated": serving,
        "ColdStart": starting or not (serving or failed or out_of_capacity),
        "NoCapacity": out_of_capacity or Phase.PENDING in phases,
        "Unavailable": failed,
        "Rollout": any(r.revision != revisions.get(r.variant) for r in deployment.replicas),
    }
    return frozenset(name for name, holds in found.items() if holds)


def may_spill(deployment: Deployment, out_of_capacity: bool) -> tuple[bool, bool]:
    """Whether a request may go out now that finds (the replicas full, no replica). The gateways see a replica go before
    we do: no replica although one is ready means that it failed."""
    wanted = frozenset(deployment.spill_when)
    now = bool(occasions(deployment, out_of_capacity) & wanted)
    if any(r.phase is Phase.READY for r in deployment.replicas):
        return now, "Unavailable" in wanted
    return "Saturated" in wanted, now


def hold_seconds(deployment: Deployment, memory: DeploymentMemory, providers: Sequence[ProviderPlan]) -> float:
    """How long a request waits for the first replica. None does that no provider may answer because it is worth less
    than that costs: a replica of its own would cost more."""
    if deployment.max_replicas == 0 or any(p.reason in (Code.ABOVE_VALUE, Code.BUDGET_PACING) for p in providers):
        return 0.0
    if deployment.hold_seconds is not None:
        return float(deployment.hold_seconds)
    slowest = max((cold_start_p90_seconds(memory, v) for v in deployment.variants), default=0.0)
    return min(math.ceil(HOLD_STARTS * slowest / HOLD_STEP_SECONDS) * HOLD_STEP_SECONDS, LONGEST_HOLD_SECONDS)


def awaited(snapshot: Snapshot, deployment: Deployment, memory: DeploymentMemory) -> bool:
    """Whether somebody may be waiting for the first replica, and nothing else could answer: until the last request is
    older than it could wait there is a replica, or one on its way."""
    age = snapshot.time - deployment.last_request_at
    if not deployment.last_request_at or age >= LONGEST_HOLD_SECONDS or deployment.floor_only:
        return False
    providers = provider_plans(snapshot, deployment)
    goes_out = any(p.permitted for p in providers) and may_spill(deployment, False)[1]
    return not goes_out and age < hold_seconds(deployment, memory, providers)
