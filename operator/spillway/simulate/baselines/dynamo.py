"""NVIDIA Dynamo's planner in throughput mode."""

from __future__ import annotations

from collections import deque

import numpy as np

from spillway.simulate.baselines.rounding import replicas_for
from spillway.simulate.baselines.rule import Seen
from spillway.simulate.baselines.windows import bins, mean

INTERVAL_SECONDS = 180.0
INTERVAL_BINS = bins(INTERVAL_SECONDS)
HISTORY = 50  # intervals that the predictor looks at
OBSERVATIONS = 7  # intervals before there is anything to fit
LARGEST_STEP = 8  # replicas a tick (Dynamo's PR 14296)
STEEPEST = 0.9  # so that the differences do not grow


class Dynamo:
    """`throughput_scaling.py` (reference/peers.md §3.5) for aggregated serving: every 180 s

        max(ceil(load predicted for the next interval / what one replica does within its SLA), 1)

    with no headroom; nothing changes while a change is under way upward. An AR(1) on the differences stands in for the
    ARIMA. max_gpu_budget, 8 by default, is left out: whoever needs more sets it.
    """

    def __init__(self) -> None:
        self.name = "dynamo"
        self._loads: deque[float] = deque(maxlen=HISTORY)

    def replicas(self, seen: Seen) -> int | None:
        if seen.bin % INTERVAL_BINS or not seen.bin:
            return None
        self._loads.append(mean(seen.work, INTERVAL_SECONDS))
        wanted = max(1, replicas_for(self.predicted(), 1.0))
        if wanted > seen.total > seen.ready:
            return None
        return min(wanted, seen.total + LARGEST_STEP)

    def predicted(self) -> float:
        """Load of the next interval, in replicas: the last, and of its last change the share that changes kept."""
        last = self._loads[-1]
        if len(self._loads) < OBSERVATIONS:
            return last
        changes = np.diff(np.array(self._loads))
        power = float((changes[:-1] ** 2).sum())
        kept = float((changes[1:] * changes[:-1]).sum()) / power if power > 0 else 0.0
        return max(last + min(max(kept, -STEEPEST), STEEPEST) * float(changes[-1]), 0.0)
