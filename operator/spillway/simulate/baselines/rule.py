"""What a scaler sees in the simulator, and what it answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from spillway.simulate.economics import Economics
from spillway.simulate.traces import Floats


@dataclass(slots=True)
class Seen:
    """At the begin of bin `bin`, before its demand is known. Arrays end with the last finished bin ([bin]), so that
    no rule can look ahead. Demand is the gateway's, spilled work included, which is generous to rules that would see
    in-cluster requests alone."""

    bin: int
    work: Floats  # offered, in replicas, by bin
    spill_usd: Floats  # of a replica-bin outside, by bin
    spilled: Floats  # replica-bins that went outside, by bin
    queued: float  # replica-bins that wait
    ready: int
    total: int  # ready and starting
    economics: Economics


class Rule(Protocol):
    """A scaler of one deployment."""

    name: str

    def replicas(self, seen: Seen) -> int | None:
        """How many replicas there shall be; None: as many as there are. Called once a bin, in order."""
        ...
