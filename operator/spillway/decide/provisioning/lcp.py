"""LCP: lazy provisioning by layers (Lin et al. 2013, Lu and Chen's layers), a two-sided ski rental for each.

While a layer is off, its regret grows by what its load costs elsewhere less its rent; at `beta`, the price of a start,
it is switched on. While it is on, regret falls while it does not earn its rent; at 0 it is switched off. Deterministic,
3-competitive without start-up delay; with a delay and an overflow that costs kappa rents, at most 3 + kappa.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from spillway.decide.provisioning.evidence import Evidence, Floats, layer_loads, padded, resampled, trimmed

NOTHING_USD, ALMOST = 1e-9, 1 - 1e-6  # so that rounding delays no switch by a tick


@dataclass(frozen=True, slots=True)
class LcpState:
    on: int = 0
    regrets_usd: tuple[float, ...] = ()  # by layer, 0..beta
    rule: Literal["lcp"] = "lcp"


def advance(state: LcpState | None, evidence: Evidence) -> LcpState:
    """Regrets after this tick, and how many layers are on then. With kappa <= 1 no layer ever gains."""
    before = state or LcpState()
    size = evidence.size(len(before.regrets_usd))
    regrets = adopted(before.on, padded(before.regrets_usd, size), evidence)
    regrets = np.clip(regrets + gains(evidence, size), 0.0, evidence.start_usd)
    layer = np.arange(size)
    on = np.where(layer < evidence.on, regrets > NOTHING_USD, regrets >= evidence.start_usd * ALMOST)
    count = int(on.sum())
    return LcpState(count if evidence.may_stop else max(count, evidence.on), trimmed(regrets))


def adopted(on_before: int, regrets: Floats, evidence: Evidence) -> Floats:
    """Regrets for a fleet that is what it is, whatever was planned: a layer that somebody else switched on (or that a
    restart found) has to disprove itself first; one that somebody switched off keeps its evidence."""
    if evidence.on > on_before:
        regrets[on_before : evidence.on] = evidence.start_usd
    return regrets


def gains(evidence: Evidence, size: int) -> Floats:
    """What each layer gained by being off (or lost by being on) in this tick, $. A layer whose rent is a fraction of
    the list price has its regret and its beta divided by that fraction, so that all are counted on one scale."""
    earned = evidence.off_usd * layer_loads(evidence, size) / evidence.shares(size)
    gained: Floats = (earned - evidence.rent_usd) * evidence.seconds
    return gained


def rescale(state: LcpState, ratio: float, start_usd_ratio: float) -> LcpState:
    """The same evidence in units of another variant. To the nearest, so that there and back again is the same number;
    some never becomes none."""
    on = max(round(state.on * ratio), 1) if state.on else 0
    return LcpState(on, resampled(state.regrets_usd, ratio, start_usd_ratio))
