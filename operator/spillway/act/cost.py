"""What a deployment costs now, beside what else it could: `status.cost`."""

from __future__ import annotations

from decimal import Decimal

from spillway.api import CostStatus
from spillway.decide.demand import work_per_request
from spillway.decide.outcome import DeploymentPlan
from spillway.decide.snapshot import Demand, Deployment

CENTS = Decimal("0.01")


def cost(seen: Deployment, plan: DeploymentPlan, gpu_usd_per_hour: float, spill_usd_per_hour: float) -> CostStatus:
    """The last three are absent where they cannot be known: without requests, without a provider, and break-even also
    where replicas never cost less."""
    demand = seen.demand
    asked = demand if demand is not None and demand.requests_per_second > 0 else None
    outside = _cheapest_usd_per_request(seen, asked)
    return CostStatus(
        gpu_per_hour=_usd(gpu_usd_per_hour),
        external_per_hour=_usd(spill_usd_per_hour),
        per_million_tokens=_per_million(asked, gpu_usd_per_hour + spill_usd_per_hour),
        all_external_per_hour=None
        if asked is None or outside is None
        else _usd(asked.requests_per_second * outside * 3600),
        break_even_utilisation=_break_even(seen, plan, asked, outside),
    )


def _cheapest_usd_per_request(seen: Deployment, demand: Demand | None) -> float | None:
    if demand is None:
        return None
    offers = [
        o.usd_per_request(demand.input_tokens_per_request, demand.output_tokens_per_request) for o in seen.providers
    ]
    return min((usd for usd in offers if usd > 0), default=None)


def _per_million(demand: Demand | None, usd_per_hour: float) -> Decimal | None:
    """Of what is answered: refused requests have no tokens."""
    if demand is None:
        return None
    answered = max(0.0, demand.requests_per_second - demand.refused_per_second)
    tokens = answered * (demand.input_tokens_per_request + demand.output_tokens_per_request) * 3600
    return _usd(usd_per_hour / tokens * 1e6) if tokens >= 1 else None


def _break_even(
    seen: Deployment, plan: DeploymentPlan, demand: Demand | None, outside_usd: float | None
) -> float | None:
    """Rent of a replica of the reference over what its work costs outside."""
    reference = seen.variant(plan.reference)
    if demand is None or outside_usd is None or reference is None:
        return None
    work = work_per_request(reference, demand)  # replica-seconds
    share = reference.usd_per_hour / (outside_usd / work * 3600) if work > 0 else 1.0
    return round(share, 2) if share < 1 else None


def _usd(amount: float) -> Decimal:
    return Decimal(str(amount)).quantize(CENTS)
