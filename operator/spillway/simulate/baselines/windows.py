"""What scalers look back on: means of measurements, and their own latest recommendations."""

from __future__ import annotations

from collections import deque

import numpy as np

from spillway.simulate.economics import BIN_SECONDS
from spillway.simulate.traces import Floats


def bins(seconds: float) -> int:
    """Whole bins of a duration, at least one."""
    return max(int(seconds / BIN_SECONDS), 1)


def mean(values: Floats, seconds: float) -> float:
    """Of the last `seconds`, or of as many as there are; 0 before the first."""
    latest = values[-bins(seconds) :]
    return float(np.add.reduce(latest)) / len(latest) if len(latest) else 0.0


def peak(values: Floats, seconds: float) -> float:
    latest = values[-bins(seconds) :]
    return float(np.maximum.reduce(latest)) if len(latest) else 0.0


class Recommendations:
    """Those of the last `seconds`, the one of now included: a stabilisation window."""

    def __init__(self, seconds: float) -> None:
        self._bins = seconds / BIN_SECONDS
        self._kept: deque[tuple[int, int]] = deque()

    def add(self, bin: int, replicas: int) -> None:
        self._kept.append((bin, replicas))
        while self._kept[0][0] < bin - self._bins:
            self._kept.popleft()

    def highest(self) -> int:
        return max(replicas for _, replicas in self._kept)

    def lowest(self) -> int:
        return min(replicas for _, replicas in self._kept)
