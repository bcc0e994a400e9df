"""Fleets that never change."""

from __future__ import annotations

from math import ceil

import numpy as np

from spillway.simulate.baselines.rule import Seen
from spillway.simulate.traces import Floats


class Fixed:
    """Always `count` replicas. Which count would have been cheapest only hindsight tells: the caller tries them."""

    def __init__(self, count: int, name: str = "fixed") -> None:
        if count < 0:
            raise ValueError(f"a fleet has no {count} replicas")
        self.name = name
        self.count = count

    def replicas(self, seen: Seen) -> int | None:
        return self.count


def covering(work: Floats, share: float = 0.999) -> Fixed:
    """The fleet that takes the work (replicas, by bin) of that share of all bins without a queue: what one buys who
    never wants to be short. In hindsight, for `work` is the whole trace's."""
    return Fixed(ceil(np.quantile(work, share)), f"fixed-p{share:.1%}".rstrip("%"))


def all_external() -> Fixed:
    """No replica at all: everything goes to the provider."""
    return Fixed(0, "all-external")
