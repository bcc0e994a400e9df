"""A trace out of Prometheus range queries. Whoever calls makes the queries; here nothing is fetched."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite, isnan

import numpy as np

from spillway.simulate.economics import BIN_SECONDS
from spillway.simulate.traces.trace import MAXIMUM_BINS, BadTrace, Bools, Floats, Trace

Samples = Sequence[tuple[float, float | str]]  # (Unix seconds, value) as /api/v1/query_range gives them

_ENOUGH = 0.5  # of a bin that samples must cover for it to count as measured


def from_prometheus(
    name: str,
    *,
    requests_per_second: Samples,
    input_tokens_per_second: Samples,
    output_tokens_per_second: Samples,
    step_seconds: float,
) -> Trace:
    """The demand of one deployment from three rates that were queried with one step.

    A sample stands for the step that ends with it, as `rate` looks back. Bins of ten seconds that less than half is
    known of in any of the three, because a scrape failed or a value is NaN, count as no demand and are marked in
    `missing`; what is known of the others stands for the whole bin. Raises BadTrace for what Prometheus cannot have
    said: no samples at all, times that do not rise, values negative or infinite.
    """
    if not (isfinite(step_seconds) and step_seconds > 0):
        raise BadTrace(f"{name}: a step of {step_seconds!r} s; give the step of the range query, above zero")
    series = {
        "request rate": _checked(name, "request rate", requests_per_second),
        "input token rate": _checked(name, "input token rate", input_tokens_per_second),
        "output token rate": _checked(name, "output token rate", output_tokens_per_second),
    }
    start = min(times[0] for times, _ in series.values()) - step_seconds
    span = max(times[-1] for times, _ in series.values()) - start
    bins = max(1, round(min(span / BIN_SECONDS, MAXIMUM_BINS + 1.0)))
    if bins > MAXIMUM_BINS:
        raise BadTrace(f"{name}: the samples span {span:,.0f} s, over a year; query a shorter range")
    edges = np.arange(bins + 1) * BIN_SECONDS
    sums: list[Floats] = []
    missing: Bools = np.zeros(bins, dtype=np.bool_)
    for times, values in series.values():
        total, known = _by_bin(times - start, values, step_seconds, edges)
        missing |= known < _ENOUGH * BIN_SECONDS
        sums.append(total)
    requests, inputs, outputs = (np.where(missing, 0.0, total) for total in sums)
    return Trace(name, requests, inputs, outputs, missing=missing if missing.any() else None)


def _checked(name: str, what: str, samples: Samples) -> tuple[Floats, Floats]:
    """Times and values; NaN stays, it is Prometheus's own way to say that nothing is known."""
    times: list[float] = []
    values: list[float] = []
    for at, sample in enumerate(samples):
        try:
            time, value = (float(part) for part in sample)
        except (TypeError, ValueError, OverflowError):
            raise BadTrace(f"{name}: {what}, sample {at}: {sample!r:.60} is no pair of time and number") from None
        if not isfinite(time) or (times and time <= times[-1]):
            raise BadTrace(f"{name}: {what}, sample {at}: time {time!r} does not rise; give one series, in order")
        if not isnan(value) and not (isfinite(value) and value >= 0):
            raise BadTrace(f"{name}: {what}, sample {at}: {value!r} is no rate; query rate() of a counter")
        times.append(time)
        values.append(value)
    if not times:
        raise BadTrace(f"{name}: {what}: no samples; check the query, its labels and the range")
    return np.array(times), np.array(values)


def _by_bin(times: Floats, values: Floats, step_seconds: float, edges: Floats) -> tuple[Floats, Floats]:
    """(sum over each bin, seconds of it that samples cover) of a rate that holds from a step before each sample."""
    begins = np.maximum(times - step_seconds, np.concatenate(([-np.inf], times[:-1])))
    known = np.where(np.isnan(values), 0.0, times - begins)
    corners = np.column_stack((begins, times)).ravel()
    covered = _integral(corners, known, edges)
    amount = _integral(corners, known * np.nan_to_num(values), edges)
    return np.divide(amount * BIN_SECONDS, covered, out=np.zeros_like(amount), where=covered > 0), covered


def _integral(corners: Floats, areas: Floats, edges: Floats) -> Floats:
    """What of `areas`, each spread evenly between its two corners, lies between neighbouring edges."""
    cumulative = np.column_stack((np.concatenate(([0.0], np.cumsum(areas)[:-1])), np.cumsum(areas))).ravel()
    return np.diff(np.interp(edges, corners, cumulative))
