"""Median time to the first token of each provider, from histograms of the gateways.

What they measure is the time from a request's end to the first byte of the answer's body, at the gateway, of streams
alone: an answer that comes as a whole has no first token of its own. Providers send the head of a stream early, and its
first event with the first token; where one sends comments before, it looks faster than it is.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping

WINDOW_SECONDS = 300.0
STEP_SECONDS = 10.0  # between two that are kept

Buckets = Mapping[float, int]
"""How many took at most so many milliseconds; the greatest bound is infinite."""
Histograms = Mapping[tuple[str, str], Buckets]
"""By provider and model."""
_Life = tuple[str, str]  # pod and process


class FirstTokens:
    """Keeps the histograms of the last minutes, by gateway process."""

    def __init__(self) -> None:
        self._history: list[tuple[float, Mapping[_Life, Histograms]]] = []
        self._newest: Mapping[_Life, Histograms] = {}

    def note(self, told: Mapping[_Life, Histograms], now: float) -> None:
        """Take one round, cumulative over the life of each process. `now`: any clock's seconds."""
        self._newest = told
        if not self._history or now - self._history[-1][0] >= STEP_SECONDS:
            self._history.append((now, told))
        while len(self._history) > 2 and self._history[1][0] <= now - WINDOW_SECONDS:
            self._history.pop(0)

    def medians(self) -> dict[str, float]:
        """Seconds, of each provider that had streams lately. A process counts from when it was first seen."""
        grown: dict[str, list[Buckets]] = {}
        for life, newest in self._newest.items():
            first = next((told[life] for _, told in self._history if life in told), newest)
            for (provider, model), buckets in newest.items():
                before = first.get((provider, model), {})
                grown.setdefault(provider, []).append({le: n - before.get(le, 0) for le, n in buckets.items()})
        found = ((provider, median(added(each))) for provider, each in grown.items())
        return {provider: ms / 1000 for provider, ms in found if ms is not None}


def added(each: list[Buckets]) -> Buckets:
    """One histogram of all; of bounds that not all have (gateways of two versions) none."""
    common = frozenset.intersection(*(frozenset(buckets) for buckets in each))
    return {le: sum(buckets[le] for buckets in each) for le in common}


def median(buckets: Buckets) -> float | None:
    """The value that half lie below: within its bucket as if they lay evenly there; above the last finite bound, that
    bound. None where nothing was counted."""
    bounds = sorted(buckets)
    total = buckets[bounds[-1]] if bounds else 0
    if total <= 0:
        return None
    counts = [buckets[le] for le in bounds]
    at = bisect_left(counts, total / 2)
    low = bounds[at - 1] if at else 0.0
    if bounds[at] == float("inf"):
        return low
    below = counts[at - 1] if at else 0
    return low + (bounds[at] - low) * (total / 2 - below) / (counts[at] - below)
