"""Up to whole replicas."""

from __future__ import annotations

from math import ceil

# A load of exactly three replicas' worth must not ask for a fourth because 2.1 / 0.7 is a hair above 3 in floats.
SLACK = 1e-9


def replicas_for(load: float, target: float) -> int:
    """`ceil(load / target)`, with loads and the target in replicas' worth of work."""
    return ceil(load / target - SLACK)
