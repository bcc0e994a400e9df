"""The Kubernetes HorizontalPodAutoscaler on requests in flight, with its defaults."""

from __future__ import annotations

from spillway.simulate.baselines.rounding import replicas_for
from spillway.simulate.baselines.rule import Seen
from spillway.simulate.baselines.windows import Recommendations, mean

TOLERANCE = 0.1
DOWN_WINDOW_SECONDS = 300.0
METRIC_SECONDS = 30.0
SYNC_BINS = 2  # of 15 s in fact
UP_PODS, UP_FACTOR = 4, 2  # a sync adds the more of four pods and 100 %
TARGET = 0.7


class Hpa:
    """AverageValue of what is in flight and waiting over all pods, in replicas' worth of work
    (`replica_calculator.go`, `autoscaling/v2/defaults.go`; reference/peers.md §3.1):

        keep, if |total / (target x replicas) - 1| <= 0.1; else ceil(total / target)

    Loading pods count as replicas. Up at once, by at most max(4, 100 %) a sync; down to the highest recommendation of
    the last 300 s; at least 1. `target` is the share of a replica that shall be in use; a tuned HPA is the best of
    several in hindsight.
    """

    def __init__(self, target: float = TARGET, name: str = "hpa") -> None:
        self.name = name
        self.target = target
        self._recommended = Recommendations(DOWN_WINDOW_SECONDS)

    def replicas(self, seen: Seen) -> int | None:
        if seen.bin % SYNC_BINS or not seen.bin:
            return None  # between syncs, or no metric yet
        return self.recommend(seen)

    def recommend(self, seen: Seen) -> int:
        """One sync."""
        now = seen.total
        load = mean(seen.work, METRIC_SECONDS) + seen.queued
        close = now > 0 and abs(load / (now * self.target) - 1) <= TOLERANCE
        wanted = max(now if close else replicas_for(load, self.target), 1)
        self._recommended.add(seen.bin, wanted)
        if wanted > now:
            return min(wanted, max(now + UP_PODS, now * UP_FACTOR))
        return min(now, self._recommended.highest())
