"""What became of single requests."""

from __future__ import annotations

from array import array
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spillway.simulate.traces import Arrivals, Floats

PENDING, LOCAL, REFUSED = -3, -1, -2  # destinations beside the providers, which are counted from 0


class Journal:
    """Written request by request; NaN is what has not happened. Seconds count from the begin."""

    def __init__(self, arrivals: Arrivals) -> None:
        self.arrivals = arrivals
        number = len(arrivals)
        nothing = array("d", [float("nan")])
        self.destination = array("h", [PENDING]) * number
        self.begun, self.first, self.ended = nothing * number, nothing * number, nothing * number


@dataclass(frozen=True, slots=True, eq=False)
class Records:
    """Of a whole run, each of shape [requests], in order of arrival. Seconds count from the begin; NaN for what was
    refused, and `begun` also for what went outside."""

    providers: tuple[str, ...]
    arrived: Floats
    input_tokens: Floats
    output_tokens: Floats
    destination: NDArray[np.int16]  # LOCAL, REFUSED, or the provider's place in `providers`
    begun: Floats  # when a replica began with the prompt
    first: Floats  # when the first token came
    ended: Floats

    def __len__(self) -> int:
        return len(self.arrived)


def records(journal: Journal, providers: tuple[str, ...]) -> Records:
    """The journal, closed."""
    arrivals = journal.arrivals
    return Records(
        providers,
        arrivals.seconds,
        arrivals.input_tokens,
        arrivals.output_tokens,
        np.array(journal.destination, dtype=np.int16),
        np.array(journal.begun),
        np.array(journal.first),
        np.array(journal.ended),
    )
