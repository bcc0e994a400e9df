"""KubeAI's model autoscaler."""

from __future__ import annotations

from collections import deque

from spillway.simulate.baselines.rounding import replicas_for
from spillway.simulate.baselines.rule import Seen
from spillway.simulate.baselines.windows import bins

AVERAGE_SECONDS = 600.0
DOWN_DELAY_BINS = 3  # scaleDownDelaySeconds 30, one look each 10 s
TARGET = 1.0  # targetRequests, as the share of the requests that a replica has room for


class KubeAi:
    """`modelautoscaler/autoscaler.go` (reference/peers.md §3.7): every 10 s ceil(mean of 600 s of requests in flight /
    targetRequests); up at once, down when 30 s of looks in a row say so. From zero the proxy starts one by itself."""

    def __init__(self, target: float = TARGET) -> None:
        self.name = "kubeai"
        self.target = target
        self._active: deque[float] = deque(maxlen=bins(AVERAGE_SECONDS))
        self._downs = 0

    def replicas(self, seen: Seen) -> int | None:
        if not seen.bin:
            return None
        active = float(seen.work[-1]) + seen.queued
        self._active.append(active)
        wanted = replicas_for(sum(self._active) / len(self._active), self.target)
        if not seen.total and active > 0:
            wanted = max(wanted, 1)
        if wanted >= seen.total:
            self._downs = 0
            return wanted
        self._downs += 1
        return wanted if self._downs >= DOWN_DELAY_BINS else None
