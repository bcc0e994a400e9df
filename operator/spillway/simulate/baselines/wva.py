"""llm-d's workload variant autoscaler in its two saturation modes, for one variant."""

from __future__ import annotations

from math import floor

from spillway.simulate.baselines.rounding import SLACK, replicas_for
from spillway.simulate.baselines.rule import Seen
from spillway.simulate.baselines.windows import Recommendations, peak

METRIC_SECONDS = 60.0  # max_over_time
SATURATED = 0.8  # of a replica's KV cache
SPARE = 0.1
FULL = 1.2  # a replica and its queue show no more use, whatever else the gateway is offered


class WvaV1:
    """One up or down at a time (`saturationv1/analyzer.go`; reference/peers.md §3.6, policy.md §4), every 60 s, by the
    minute's highest KV use u, which is taken to be the share of a replica's capacity that is in use:

        up 1, if 0.8 - u < 0.1;  down 1, if there are two or more and 0.8 - u N / (N - 1) >= 0.1

    Neither while a replica is starting. An HPA follows, which by the Helm values holds still for 240 s both ways: the
    lowest recommendation of 240 s on the way up, the highest on the way down. At least 1.
    """

    SYNC_BINS = 6
    WINDOW_SECONDS = 240.0

    def __init__(self) -> None:
        self.name = "wva"
        self._recommended = Recommendations(self.WINDOW_SECONDS)

    def replicas(self, seen: Seen) -> int | None:
        if seen.bin % self.SYNC_BINS or not seen.bin:
            return None
        if not seen.total:
            return 1
        if not seen.ready:
            return None
        self._recommended.add(seen.bin, self._wanted(seen))
        return settled(self._recommended, seen.total)

    def _wanted(self, seen: Seen) -> int:
        use = min(peak(seen.work, METRIC_SECONDS) / seen.ready + seen.queued / seen.ready, FULL)
        if seen.total != seen.ready:
            return seen.total
        if SATURATED - use < SPARE:
            return seen.ready + 1
        if seen.ready >= 2 and SATURATED - use * seen.ready / (seen.ready - 1) >= SPARE:
            return seen.ready - 1
        return seen.total


class WvaV2:
    """To the capacity that is missing, at once (`saturation_v2`, the default since v0.9; peers.md §3.6), every 15 s:

        missing = demand / 0.85 - capacity of all replicas, starting ones included;  up ceil(missing / a replica's)
        spare = capacity of the ready replicas - demand / 0.70;  down floor(spare / a replica's), to no less than 1

    A replica's capacity is k1, 80 % of its KV cache: memory is taken to bind before compute does. Demand is the
    minute's highest, and what waits. The HPA that follows holds still for 60 s both ways.
    """

    SYNC_BINS = 2  # 15 s in fact
    WINDOW_SECONDS = 60.0
    UP_AT, DOWN_AT = 0.85, 0.70

    def __init__(self) -> None:
        self.name = "wva-v2"
        self._recommended = Recommendations(self.WINDOW_SECONDS)

    def replicas(self, seen: Seen) -> int | None:
        if seen.bin % self.SYNC_BINS or not seen.bin:
            return None
        if not seen.total:
            return 1
        self._recommended.add(seen.bin, self._wanted(seen))
        return settled(self._recommended, seen.total)

    def _wanted(self, seen: Seen) -> int:
        demand = peak(seen.work, METRIC_SECONDS) + seen.queued
        missing = demand / self.UP_AT - seen.total * SATURATED
        if missing > 0:
            return seen.total + replicas_for(missing, SATURATED)
        spare = seen.ready * SATURATED - demand / self.DOWN_AT
        if spare > 0:
            return max(seen.total - floor(spare / SATURATED + SLACK), 1)
        return seen.total


def settled(recommended: Recommendations, now: int) -> int | None:
    """What the HPA after the scaler makes of it: a move that every recommendation of its window agrees with."""
    lowest, highest = recommended.lowest(), recommended.highest()
    if lowest > now:
        return lowest
    return highest if highest < now else None
