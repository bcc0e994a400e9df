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

    def part(self, begin: float, end: float) -> Trace:
        """From `begin` to `end` (seconds, to the bin): times count from the new start. Raises BadTrace where there is
        nothing between them."""
        first, last = round(begin / BIN_SECONDS), min(round(end / BIN_SECONDS), len(self))
        if not 0 <= first < last:
            raise BadTrace(
                f"{self.name}: there is nothing from {begin:g} s to {end:g} s: it has {len(self) * BIN_SECONDS:g} s"
            )
        bins = slice(first, last)
        arrivals = self.arrivals
        if arrivals is not None:
            from_number, to_number = np.searchsorted(arrivals.seconds, (first * BIN_SECONDS, last * BIN_SECONDS))
            numbers = slice(int(from_number), int(to_number))
            arrivals = Arrivals(
                arrivals.seconds[numbers] - first * BIN_SECONDS,
                arrivals.input_tokens[numbers],
                arrivals.output_tokens[numbers],
            )
        return Trace(
            self.name,
            self.requests[bins],
            self.input_tokens[bins],
            self.output_tokens[bins],
            arrivals,
            None if self.missing is None else self.missing[bins],
        )


def bin_arrivals(name: str, arrivals: Arrivals, *, keep: bool = True, bins: int | None = None) -> Trace:
    """The sums by bin of `arrivals`, which must be ascending from about zero and not empty. `bins`: how many, all of
    them before its end; without it, up to the last request."""
    index = (arrivals.seconds // BIN_SECONDS).astype(np.int64)
    if bins is None:
        bins = int(index[-1]) + 1
    return Trace(
        name=name,
        requests=np.bincount(index, minlength=bins).astype(np.float64),
        input_tokens=np.bincount(index, weights=arrivals.input_tokens, minlength=bins).astype(np.float64),
        output_tokens=np.bincount(index, weights=arrivals.output_tokens, minlength=bins).astype(np.float64),
        arrivals=arrivals if keep else None,
    )
