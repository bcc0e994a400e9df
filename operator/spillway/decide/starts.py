"""How long a replica takes from having its GPUs to its first answer: measured where known, else the catalog's."""

from __future__ import annotations

import math
from dataclasses import replace

from spillway.decide.memory import DeploymentMemory
from spillway.decide.snapshot import Deployment, Variant

WEIGHT = 0.3  # of a new measurement in the moving average
KEPT = 20  # measurements of a variant, for the 90th percentile
LONGEST_SECONDS = 4 * 3600.0  # a start that took longer hung: it counts as this much


def learn(deployment: Deployment, memory: DeploymentMemory) -> DeploymentMemory:
    """Take the time of each start once."""
    known = set(memory.counted_starts)
    fresh = [r for r in deployment.replicas if r.ready_at is not None and r.name not in known]
    present = {r.name for r in deployment.replicas}
    if not fresh:
        return replace(memory, counted_starts=tuple(sorted(known & present))) if known - present else memory
    mean, recent = dict(memory.cold_start_seconds), dict(memory.cold_starts)
    for replica in fresh:
        assert replica.ready_at is not None
        took = min(max(replica.ready_at - (replica.scheduled_at or replica.asked_at), 0.0), LONGEST_SECONDS)
        before = mean.get(replica.variant)
        mean[replica.variant] = took if before is None else before + WEIGHT * (took - before)
        recent[replica.variant] = (*recent.get(replica.variant, ()), took)[-KEPT:]
    counted = (known | {r.name for r in fresh}) & present
    return replace(memory, cold_start_seconds=mean, cold_starts=recent, counted_starts=tuple(sorted(counted)))


def cold_start_seconds(memory: DeploymentMemory, variant: Variant) -> float:
    """The mean: what a start costs."""
    return memory.cold_start_seconds.get(variant.name, variant.cold_start_seconds)


def cold_start_p90_seconds(memory: DeploymentMemory, variant: Variant) -> float:
    """What nine of ten starts stay within: to be ready in time. Fewer than nine measurements: the slowest of them."""
    measured = sorted(memory.cold_starts.get(variant.name, ()))
    if not measured:
        return variant.cold_start_seconds
    return measured[min(len(measured), math.ceil(0.9 * (len(measured) + 1))) - 1]
