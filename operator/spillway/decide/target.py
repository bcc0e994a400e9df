"""What one deployment wants before the pools are shared out."""

from __future__ import annotations

from dataclasses import dataclass

from spillway.decide.demand import Prices
from spillway.decide.memory import DeploymentMemory
from spillway.decide.placement import Need
from spillway.decide.snapshot import Variant


@dataclass(frozen=True, slots=True)
class Target:
    memory: DeploymentMemory
    need: Need | None = None  # None: keep what is asked now
    reference: Variant | None = None
    prices: Prices | None = None
    work: float | None = None  # units of the reference variant
    stale: bool = False
    units_before: float = 0.0  # that the last plan wanted
