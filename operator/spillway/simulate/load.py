"""A trace as work for a fleet of a given size."""

from __future__ import annotations

from dataclasses import dataclass

from spillway.simulate.traces import Floats


@dataclass(frozen=True, slots=True, eq=False)
class Load:
    """What falls due in each bin, each of shape [bins]. `work` is in replicas (replica-bins per bin); `spill_usd` is
    what a replica-bin of the bin's own traffic costs outside; tokens and requests are scaled as the work is, so that
    work = (input / P + output / D) / bin seconds."""

    name: str
    work: Floats
    spill_usd: Floats
    requests: Floats
    input_tokens: Floats
    output_tokens: Floats
    natural_fleet: float  # replicas that the unscaled trace would fill on average
    score_from: int  # the first bin whose cost counts

    def __len__(self) -> int:
        return len(self.work)
