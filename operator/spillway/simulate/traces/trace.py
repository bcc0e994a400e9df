"""The shape of demand that everything in the simulator shares."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spillway.simulate.economics import BIN_SECONDS

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

MAXIMUM_BINS = 366 * 8640  # a year: a longer span is a wrong unit of time, not a trace


class BadTrace(ValueError):
    """What was given cannot be read as demand. The message names the place, the value and the fix."""


@dataclass(frozen=True, slots=True, eq=False)
class Arrivals:
    """Single requests in order of time, each of shape [requests]; seconds count from the start of the trace."""

    seconds: Floats
    input_tokens: Floats
    output_tokens: Floats

    def __len__(self) -> int:
        return len(self.seconds)


@dataclass(frozen=True, slots=True, eq=False)
class Trace:
    """Sums by bin of ten seconds, each of shape [bins]."""

    name: str
    requests: Floats
    input_tokens: Floats
    output_tokens: Floats
    arrivals: Arrivals | None = None  # where the source tells single requests
    missing: Bools | None = None  # bins that nobody measured; they count as no demand. None: all were measured

    def __len__(self) -> int:
        return len(self.requests)

    @property
    def missing_bins(self) -> int:
        return 0 if self.missing is None else int(self.missing.sum())


def bin_arrivals(name: str, arrivals: Arrivals, *, keep: bool = True) -> Trace:
    """The sums by bin of `arrivals`, which must be ascending from about zero and not empty."""
    index = (arrivals.seconds // BIN_SECONDS).astype(np.int64)
    bins = int(index[-1]) + 1
    return Trace(
        name=name,
        requests=np.bincount(index, minlength=bins).astype(np.float64),
        input_tokens=np.bincount(index, weights=arrivals.input_tokens, minlength=bins).astype(np.float64),
        output_tokens=np.bincount(index, weights=arrivals.output_tokens, minlength=bins).astype(np.float64),
        arrivals=arrivals if keep else None,
    )
