"""Long series for a plot a thousand pixels wide, with every peak and every gap still to be seen."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from spillway.simulate.traces import Floats

Indices = NDArray[np.int64]


def kept(values: Floats, buckets: int) -> Indices:
    """Which of `values` ([bins]) to draw as a step line, in order: where it changes, if that is at most twice in a
    bucket on average, which loses nothing; else the lowest and the highest of each of `buckets` equal stretches. First
    and last are always among them."""
    if not len(values):
        return np.zeros(0, dtype=np.int64)
    ends = np.array([0, len(values) - 1])
    changes = np.flatnonzero(np.diff(values)) + 1
    if len(changes) <= 2 * buckets:
        return np.union1d(ends, changes)
    borders = np.linspace(0, len(values), min(buckets, len(values)) + 1).astype(np.int64)
    picked = [
        start + at
        for start, end in pairwise(borders)
        for at in (int(values[start:end].argmin()), int(values[start:end].argmax()))
    ]
    return np.union1d(ends, np.array(picked, dtype=np.int64))
