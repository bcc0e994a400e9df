"""Single requests of a trace: those that it tells, or as many as its bins have, drawn from a seed.

Within a bin arrivals are those of a Poisson process of which the number is known: evenly at random. Tokens are
lognormal around the bin's mean, as varied as in the public traces, and add up to the bin's.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from spillway.simulate.economics import BIN_SECONDS, Economics
from spillway.simulate.load import TOKEN_VARIANCE
from spillway.simulate.traces import Arrivals, BadTrace, Floats, Trace, bin_arrivals

Numbers = NDArray[np.int64]
MAXIMUM_REQUESTS = 5_000_000  # that are played: 0.7 GB, and a minute
MAXIMUM_HOURS = 24.0


def single_requests(trace: Trace, economics: Economics, fleet: float | None = None, seed: int = 0) -> Trace:
    """`trace` with its requests, and with bins that are their sums; `fleet` scales it to so many replicas of work on
    average: by a sample of the requests, or by copies that arrive within the same bin. Tokens then change by what is
    left to the exact mean. Raises BadTrace for more than is played, and where no work is left."""
    hours = len(trace) * BIN_SECONDS / 3600
    if hours > MAXIMUM_HOURS:
        raise BadTrace(
            f"{trace.name}: {hours:,.1f} hours; request by request at most {MAXIMUM_HOURS:.0f} are played: choose some "
            f"with --slice, such as --slice 0h-1h, or leave --requests out"
        )
    share = 1.0
    if fleet is not None:
        if not 0 < fleet < math.inf:
            raise ValueError(f"a fleet of {fleet!r} replicas; give a number above zero, or none for the trace's size")
        natural = _replicas(trace.input_tokens, trace.output_tokens, len(trace), economics)
        if not natural > 0:
            raise BadTrace(f"{trace.name}: no requests with tokens in it; give a trace with demand")
        share = fleet / natural
    expected = float(trace.requests.sum()) * share
    if expected > MAXIMUM_REQUESTS:
        raise BadTrace(
            f"{trace.name}: {expected:,.0f} requests; at most {MAXIMUM_REQUESTS:,} are played one by one: choose less "
            f"time (--slice, or hours of a scenario) or a sample (--fleet)"
        )
    random = np.random.default_rng(seed)
    found = _sampled(trace.arrivals, share, random) if trace.arrivals else _drawn(trace, share, random)
    if fleet is not None:
        replicas = _replicas(found.input_tokens, found.output_tokens, len(trace), economics)
        if not replicas > 0:
            raise BadTrace(f"{trace.name}: nothing is left of it for a fleet of {fleet}; give a larger fleet")
        found = Arrivals(
            found.seconds, found.input_tokens * (fleet / replicas), found.output_tokens * (fleet / replicas)
        )
    if not len(found):
        raise BadTrace(f"{trace.name}: no requests in it; give a trace with demand")
    return bin_arrivals(trace.name, found, bins=len(trace))


def _replicas(input_tokens: Floats, output_tokens: Floats, bins: int, economics: Economics) -> float:
    """That all these tokens would fill on average."""
    seconds = input_tokens.sum() / economics.prefill_tokens_per_second
    seconds += output_tokens.sum() / economics.decode_tokens_per_second
    return float(seconds) / (bins * BIN_SECONDS)


def _sampled(arrivals: Arrivals, share: float, random: np.random.Generator) -> Arrivals:
    """Each request as often as `share` says on average; copies come at some time of the same bin."""
    if share == 1.0:
        return arrivals
    times = _whole(np.full(len(arrivals), share), random)
    number = np.repeat(np.arange(len(arrivals)), times)
    first = np.concatenate(([True], number[1:] != number[:-1])) if len(number) else np.zeros(0, dtype=np.bool_)
    seconds = arrivals.seconds[number]
    seconds = np.where(first, seconds, _times(seconds // BIN_SECONDS, random))
    order = np.argsort(seconds, kind="stable")
    number = number[order]
    return Arrivals(seconds[order], arrivals.input_tokens[number], arrivals.output_tokens[number])


def _drawn(trace: Trace, share: float, random: np.random.Generator) -> Arrivals:
    """As many requests as each bin has; of a smaller share a binomial sample, with the noise of few."""
    if share < 1:
        counts = random.binomial(_whole(trace.requests, random), share)
    else:
        counts = _whole(trace.requests * share, random)
    index = np.repeat(np.arange(len(trace)), counts)
    seconds = _times(index.astype(np.float64), random)
    order = np.argsort(seconds, kind="stable")
    return Arrivals(
        seconds[order],
        _tokens(trace.input_tokens, trace.requests, counts, index, random, exact=share >= 1),
        _tokens(trace.output_tokens, trace.requests, counts, index, random, exact=share >= 1),
    )


def _tokens(
    sums: Floats,
    requests: Floats,
    counts: Numbers,
    index: Numbers,
    random: np.random.Generator,
    *,
    exact: bool,
) -> Floats:
    """Of each request. `exact`: the requests of a bin add up to its mean times their number."""
    mean = np.divide(sums, requests, out=np.zeros_like(sums), where=requests > 0)
    sigma = math.sqrt(math.log(1 + TOKEN_VARIANCE))
    factor = random.lognormal(-(sigma**2) / 2, sigma, len(index))
    if exact:
        total = np.bincount(index, weights=factor, minlength=len(sums))
        factor = factor * np.divide(counts, total, out=np.ones(len(sums)), where=total > 0)[index]
    found: Floats = mean[index] * factor
    return found


def _times(bins: Floats, random: np.random.Generator) -> Floats:
    """Some time within each of the bins; rounding takes none into the next."""
    found: Floats = np.minimum(
        (bins + random.random(len(bins))) * BIN_SECONDS, np.nextafter((bins + 1) * BIN_SECONDS, 0)
    )
    return found


def _whole(numbers: Floats, random: np.random.Generator) -> Numbers:
    """Rounded up as often as the fraction says: on average nothing is lost."""
    below = np.floor(numbers)
    whole: Numbers = (below + (random.random(len(numbers)) < numbers - below)).astype(np.int64)
    return whole
