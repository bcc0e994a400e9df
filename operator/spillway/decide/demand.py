"""Traffic in units of work, and what it costs to serve a unit elsewhere.

`work` is demand in replica-seconds per second: `input / P + output / D` per request, P and D being the tokens per
second that one replica prefills and decodes within the latency target (linear model, checked to 10 % against
published profiles for mixes between 2000+500 and 500+1500 tokens).
"""

from __future__ import annotations

from dataclasses import dataclass

from spillway.decide.pacing import NONE, Multipliers
from spillway.decide.snapshot import Demand, Deployment, Variant


def work_per_request(variant: Variant, demand: Demand) -> float:
    """Replica-seconds of `variant` that one request of the observed size takes."""
    return (
        demand.input_tokens_per_request / variant.prefill_tokens_per_second
        + demand.output_tokens_per_request / variant.decode_tokens_per_second
    )


@dataclass(frozen=True, slots=True)
class Prices:
    """Of one deployment, in units of its reference variant."""

    off_usd_per_second: float  # e: one unit of work served elsewhere (or not at all)
    rent_usd_per_second: float  # c: one replica
    start_usd: float  # beta: rent during cold start and drain
    rent_shares: tuple[float, ...] = ()  # of the first layers, relative to the rent: less where GPUs are paid anyway

    def rent_share(self, layer: int) -> float:
        """What of the rent an hour of the k-th layer (from 0) really costs."""
        return self.rent_shares[layer] if layer < len(self.rent_shares) else 1.0

    @property
    def spill_cost_ratio(self) -> float:
        """kappa = e / c: at or below 1 a replica never pays."""
        return self.off_usd_per_second / self.rent_usd_per_second


def off_usd_per_request(deployment: Deployment, demand: Demand, paced: Multipliers = NONE) -> float:
    """Dollars lost or paid for a request that no replica takes, as they count where a budget is paced.

    The cheapest provider that may be used, but never more than what the request is worth; without any, its worth:
    so the same rule that would spill provisions instead when the budget is gone.
    """
    prices = [
        paced.external * p.usd_per_request(demand.input_tokens_per_request, demand.output_tokens_per_request)
        for p in deployment.providers
        if not p.unavailable and p.affordable_in_flight > 0
    ]
    return min([*prices, deployment.usd_value_per_request])


def prices(
    deployment: Deployment,
    demand: Demand,
    variant: Variant,
    cold_start_seconds: float,
    stop_seconds: float,
    paced: Multipliers = NONE,
) -> Prices:
    """e, c and beta = c * (cold start + drain), in dollars as they count where a budget is paced."""
    rent = max(variant.usd_per_hour, 1e-9) / 3600 * paced.gpu
    return Prices(
        off_usd_per_second=off_usd_per_request(deployment, demand, paced) / work_per_request(variant, demand),
        rent_usd_per_second=rent,
        start_usd=rent * (cold_start_seconds + stop_seconds),
    )


def usd_per_unit(variant: Variant, demand: Demand) -> float:
    """Dollars per hour for the capacity to do one request per second: the order in which variants are preferred."""
    return variant.usd_per_hour * work_per_request(variant, demand)
