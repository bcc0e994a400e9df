"""What a rule learns in one tick, in units of the reference variant.

Layer k (from 0) is the (k+1)-th replica; its load is `clip(work - k, 0, 1)` (Lu and Chen's layers).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Evidence:
    """`layers` is the most that may ever be on. Costs are per unit of work or replica and second."""

    time: float  # Unix seconds
    seconds: float  # since the last tick
    work: float  # offered, replicas
    unserved: float  # of it, that went elsewhere although every replica was ready: the capacity estimate was too high
    ready: float  # units of work that the ready replicas do
    on: int  # layers that are on now: asked for, ready or not
    layers: int
    off_usd: float  # e: one unit of work served elsewhere
    rent_usd: float  # c: one replica
    delay_seconds: float  # from asking to ready
    drain_seconds: float  # paid after a stop
    minimum_seconds: float  # billed life of a replica, at least
    queue_seconds: float  # for which work may wait
    youngest_seconds: float  # age of the youngest replica that is paid for; infinite where none is young
    rent_shares: tuple[float, ...] = ()  # of the first layers, relative to the rent: less where GPUs are paid anyway

    @property
    def start_usd(self) -> float:
        """beta: what a start costs beside the work that the replica does; never nothing, or noise would start some."""
        return self.rent_usd * max(self.delay_seconds + self.drain_seconds, 1.0)

    @property
    def may_stop(self) -> bool:
        """Not before the youngest has been of use and what is billed anyway has passed: the youngest goes first."""
        return self.youngest_seconds >= max(self.minimum_seconds, self.delay_seconds)

    def shares(self, size: int) -> Floats:
        """What of the rent each of the first layers really costs; [size]."""
        shares = np.ones(size)
        known = min(size, len(self.rent_shares))
        shares[:known] = self.rent_shares[:known]
        return shares

    def size(self, known: int) -> int:
        """Layers to look at: those with a load, those on, those of which something is `known`; the rest is zero."""
        wanted = max(int(self.work) + 2, int(self.ready + self.unserved) + 2, self.on + 1, known)
        return min(self.layers, wanted)


def layer_loads(evidence: Evidence, size: int) -> Floats:
    """Load of each layer, 0..1, [size]. Work that went unserved although the fleet should have held it is load of the
    layers above the ready ones."""
    layer = np.arange(size)
    loads: Floats = np.clip(evidence.work - layer, 0.0, 1.0)
    if evidence.unserved > 0:
        above = np.clip(evidence.unserved - (layer - evidence.ready), 0.0, 1.0)
        loads = np.where(layer >= evidence.ready, np.maximum(loads, above), loads)
    return loads


def padded(values: tuple[float, ...], size: int) -> Floats:
    """Of the first `size` layers; those of which nothing is stored are zero."""
    found = np.zeros(size)
    known = min(size, len(values))
    found[:known] = values[:known]
    return found


def trimmed(values: Floats) -> tuple[float, ...]:
    """To be stored: without the zeros at the end."""
    nonzero = np.flatnonzero(values)
    return tuple(values[: nonzero[-1] + 1].tolist()) if len(nonzero) else ()


def resampled(values: tuple[float, ...], ratio: float, scale: float) -> tuple[float, ...]:
    """Values by layer in units of another variant: what was one layer is now `ratio` layers."""
    if not values or ratio <= 0:
        return ()
    size = max(1, round(len(values) * ratio))
    return tuple(values[min(int(k / ratio), len(values) - 1)] * scale for k in range(size))
