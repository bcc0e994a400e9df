"""A KEDA ScaledObject on a Prometheus query, with its defaults."""

from __future__ import annotations

from spillway.simulate.baselines.hpa import METRIC_SECONDS, SYNC_BINS, TARGET, Hpa
from spillway.simulate.baselines.rule import Seen
from spillway.simulate.baselines.windows import mean
from spillway.simulate.economics import BIN_SECONDS

POLLING_BINS = 3  # pollingInterval 30 s
COOLDOWN_BINS = 300 / BIN_SECONDS


class Keda:
    """0 and 1 are KEDA's, more is an HPA's (`scale_scaledobjects.go`; reference/peers.md §3.2).

    Each poll of 30 s: with anything in flight, from 0 to 1; with nothing for longer than the cooldown of 300 s, to 0.
    The cooldown is used for nothing else. From 1 on the HPA that KEDA makes syncs as any HPA does, every 15 s: in this
    the prototype behind reference/policy.md §4, whose HPA waits for the polls, differs. maxReplicaCount (100) is left
    out: whoever needs more sets it.
    """

    def __init__(self, target: float = TARGET, sync_bins: int = SYNC_BINS) -> None:
        self.name = "keda"
        self._hpa = Hpa(target)
        self._sync_bins = sync_bins
        self._last_active = 0

    def replicas(self, seen: Seen) -> int | None:
        if not seen.bin:
            return None
        if seen.bin % POLLING_BINS == 0:
            active = mean(seen.work, METRIC_SECONDS) + seen.queued > 0
            if active:
                self._last_active = seen.bin
            if not seen.total:
                return 1 if active else None
            if seen.bin - self._last_active > COOLDOWN_BINS:
                return 0
        if seen.total and seen.bin % self._sync_bins == 0:
            return self._hpa.recommend(seen)
        return None
