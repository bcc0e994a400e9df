"""What a run cost, from the first bin that counts."""

from __future__ import annotations

from dataclasses import dataclass

from spillway.simulate.economics import BIN_SECONDS
from spillway.simulate.fleet import Ledger

BINS_PER_DAY = 86_400 / BIN_SECONDS


@dataclass(frozen=True, slots=True)
class Score:
    """Dollars, shares of the work, starts a day."""

    gpu_usd: float
    external_usd: float
    slo: float  # share of the work that was served in time: locally within the queue's length, or outside
    refused_share: float
    spill_share: float
    starts_per_day: float
    mean_replicas: float
    utilisation: float  # of ready replicas

    @property
    def usd(self) -> float:
        return self.gpu_usd + self.external_usd


def score(ledger: Ledger, score_from: int = 0) -> Score:
    """Of the bins from `score_from` on."""
    part = slice(score_from, None)
    served, spilled, refused = (sum(a[part]) for a in (ledger.served, ledger.spilled, ledger.refused))
    late = sum(ledger.late[part])
    work = served + spilled + refused
    bins = len(ledger.asked) - score_from
    return Score(
        gpu_usd=sum(ledger.gpu_usd[part]) + sum(ledger.stop_usd[part]),
        external_usd=sum(ledger.external_usd[part]),
        slo=1 - (refused + late) / work if work > 0 else 1.0,
        refused_share=refused / work if work > 0 else 0.0,
        spill_share=spilled / work if work > 0 else 0.0,
        starts_per_day=sum(ledger.starts[part]) / (bins / BINS_PER_DAY) if bins else 0.0,
        mean_replicas=sum(ledger.asked[part]) / bins if bins else 0.0,
        utilisation=served / max(sum(ledger.ready[part]), 1),
    )
