"""SkyServe's request-rate autoscaler."""

from __future__ import annotations

from spillway.simulate.baselines.rounding import replicas_for
from spillway.simulate.baselines.rule import Seen
from spillway.simulate.baselines.windows import mean
from spillway.simulate.economics import BIN_SECONDS

RATE_SECONDS = 60.0
DECISION_BINS = 2  # every 20 s
UP_SECONDS, DOWN_SECONDS = 300.0, 1200.0
TARGET = 1.0  # target_qps_per_replica, as the share of what a replica does


class SkyServe:
    """ceil(rate of 60 s / target_qps_per_replica) (reference/peers.md §3.7), done when decisions have said "more" for
    300 s, or "fewer" for 1200 s, in a row; from zero at once. `minimum` is min_replicas, which a service must name."""

    def __init__(self, target: float = TARGET, minimum: int = 1) -> None:
        self.name = "skyserve"
        self.target = target
        self.minimum = minimum
        self._ups = 0
        self._downs = 0

    def replicas(self, seen: Seen) -> int | None:
        if seen.bin % DECISION_BINS or not seen.bin:
            return None
        wanted = max(replicas_for(mean(seen.work, RATE_SECONDS), self.target), self.minimum)
        if not seen.total:
            return wanted
        self._ups = self._ups + 1 if wanted > seen.total else 0
        self._downs = self._downs + 1 if wanted < seen.total else 0
        agreed = DECISION_BINS * BIN_SECONDS
        if self._ups * agreed >= UP_SECONDS or self._downs * agreed >= DOWN_SECONDS:
            self._ups = self._downs = 0
            return wanted
        return None
