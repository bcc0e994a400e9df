"""On which occasions requests may go out (spec.spill.when), and how long one waits that may not (spill.holdSeconds)."""

from __future__ import annotations

import math

from spillway.decide.memory import DeploymentMemory
from spillway.decide.snapshot import Deployment, Phase
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


def hold_seconds(deployment: Deployment, memory: DeploymentMemory) -> float:
    """How long a request waits for the first replica."""
    if deployment.max_replicas == 0:
        return 0.0
    if deployment.hold_seconds is not None:
        return float(deployment.hold_seconds)
    slowest = max((cold_start_p90_seconds(memory, v) for v in deployment.variants), default=0.0)
    return min(math.ceil(HOLD_STARTS * slowest / HOLD_STEP_SECONDS) * HOLD_STEP_SECONDS, LONGEST_HOLD_SECONDS)
