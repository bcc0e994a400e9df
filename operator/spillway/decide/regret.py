"""How many replicas: layered lazy provisioning (LCP, Lin et al. 2013; Lu and Chen's layers).

Layer k is the k-th replica. Its load is `clip(work - (k-1), 0, 1)`. While it is off, its regret grows by what
its load costs elsewhere less its rent; at `beta`, the price of a start, it is switched on. While it is on, regret
falls while it does not earn its rent; at 0 it is switched off. Deterministic, 3-competitive without start-up delay,
and the heart of what beats target-utilisation rules by a fifth of the bill on public traces.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from spillway.decide.demand import Prices


@dataclass(frozen=True, slots=True)
class Layers:
    """Regret in dollars and state of each layer, the first replica first."""

    regrets_usd: tuple[float, ...]
    on: tuple[bool, ...]

    @property
    def count(self) -> int:
        return sum(self.on)


def loads(work: float, unserved_work: float, ready_units: float, layers: int) -> tuple[float, ...]:
    """Load of each layer, 0..1. Work that went unserved although the fleet should have held it (the capacity
    estimate was too high) is load of the layers above the ready ones."""
    by_work = (min(max(work - k, 0.0), 1.0) for k in range(layers))
    if unserved_work <= 0:
        return tuple(by_work)
    return tuple(
        max(load, min(max(unserved_work - (k - ready_units), 0.0), 1.0)) if k >= ready_units else load
        for k, load in enumerate(by_work)
    )


def convert(layers: Layers, ratio: float, beta_before: float, beta_now: float) -> Layers:
    """The same evidence in units of another variant: what was one layer is now `ratio` layers."""
    size = math.ceil(len(layers.on) * ratio)
    # To the nearest, so that there and back again is the same number; some never becomes none.
    on = max(round(layers.count * ratio), 1) if layers.count else 0
    scale = beta_now / beta_before if beta_before > 0 else 1.0
    last = len(layers.regrets_usd) - 1
    regrets = tuple(layers.regrets_usd[min(int(k / ratio), last)] * scale for k in range(size))
    return Layers(regrets, tuple(k < on for k in range(size)))


def adopt(layers: Layers, size: int, units_on: int, start_usd: float) -> Layers:
    """The layers for a fleet that runs `units_on` replicas now, whatever they were: after a restart, or when
    someone else changed the fleet. A layer that is switched on here has to disprove itself first; one that is switched
    off keeps its evidence."""
    regrets, on = [], []
    for k in range(size):
        was_on = k < len(layers.on) and layers.on[k]
        regret = layers.regrets_usd[k] if k < len(layers.regrets_usd) else 0.0
        now_on = k < units_on
        if now_on and not was_on:
            regret = start_usd
        regrets.append(min(max(regret, 0.0), start_usd))
        on.append(now_on)
    return Layers(tuple(regrets), tuple(on))


def step(layers: Layers, load: tuple[float, ...], prices: Prices, seconds: float) -> Layers:
    """Regrets after `seconds` of that load, and which layers are on then. With kappa <= 1 no layer ever gains."""
    beta = prices.start_usd
    regrets, on = [], []
    for k, share in enumerate(load):
        # A layer whose rent is a fraction of the list price has its regret and its beta divided by that fraction, so
        # that all layers are counted on one scale.
        gain = (prices.off_usd_per_second * share / prices.rent_share(k) - prices.rent_usd_per_second) * seconds
        regret = min(max(layers.regrets_usd[k] + gain, 0.0), beta)
        regrets.append(regret)
        on.append(regret > 0 if layers.on[k] else regret >= beta)
    return Layers(tuple(regrets), tuple(on))
