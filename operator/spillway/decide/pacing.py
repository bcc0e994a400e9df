"""A budget that runs ahead of an even pace makes its dollars dearer, so that it lasts to the end of its period.

The multiplier is the budget's dual price, `1 + y`: it grows exponentially with how far spending is ahead of the line
from nothing at the period's begin to the whole amount at its end (as in online packing, Buchbinder and Naor 2009), and
it is 1 on the line or below. Work whose value is no more than its price times the multiplier is not paid for: what is
worth least per dollar is held back first, and spending may run ahead of the line by a tenth of the period at most.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from spillway.decide.snapshot import Budget, Deployment, Snapshot

SLACK = 0.1  # of the amount: ahead by this much, a dollar counts `DEAREST` times
DEAREST = 100.0


@dataclass(frozen=True, slots=True)
class Multipliers:
    """By how much dollars count more than they are: those paid outside, and those for GPUs."""

    external: float = 1.0
    gpu: float = 1.0


NONE = Multipliers()


def multiplier(budget: Budget, now: float) -> float:
    """1 + y of one budget."""
    ahead = ahead_usd(budget, now)
    if ahead <= 0:
        return 1.0
    return math.exp(math.log(DEAREST) * min(ahead / (SLACK * float(budget.amount)), 2.0))


def ahead_usd(budget: Budget, now: float) -> float:
    """Dollars spent beyond an even pace; negative: behind it. Nothing for a budget that is not paced."""
    period = budget.resets_at - budget.starts_at
    if not budget.paced or period <= 0 or budget.amount <= 0:
        return 0.0
    elapsed = min(max((now - budget.starts_at) / period, 0.0), 1.0)
    return float(budget.amount - budget.remaining) - elapsed * float(budget.amount)


def multipliers(snapshot: Snapshot, deployment: Deployment) -> Multipliers:
    """Of one deployment: the largest of all budgets that its dollars count towards."""
    external = gpu = 1.0
    for budget in snapshot.budgets:
        if budget.paced and budget.policy in deployment.policies:
            now = multiplier(budget, snapshot.time)
            external = max(external, now if budget.scope != "GPU" else 1.0)
            gpu = max(gpu, now if budget.scope != "External" else 1.0)
    return Multipliers(external, gpu)


def words(snapshot: Snapshot, deployment: Deployment) -> str:
    """Which budget runs ahead most, and by how much; empty where none does."""
    paced = [b for b in snapshot.budgets if b.paced and b.policy in deployment.policies]
    budget = max(paced, key=lambda b: multiplier(b, snapshot.time), default=None)
    if budget is None or ahead_usd(budget, snapshot.time) <= 0:
        return ""
    spent = budget.amount - budget.remaining
    return (
        f"budget '{budget.name}' of CostPolicy '{budget.policy}' has spent ${spent:.2f}, "
        f"${ahead_usd(budget, snapshot.time):.2f} more than an even pace: its dollars count "
        f"{multiplier(budget, snapshot.time):.1f} times"
    )
