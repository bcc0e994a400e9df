"""A trace as work for a fleet of a given size (reference/policy.md §2)."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

import numpy as np

from spillway.simulate.economics import BIN_SECONDS, Economics
from spillway.simulate.traces import BadTrace, Floats, Trace

SECONDS_PER_OUTPUT_TOKEN = 0.04  # of a running request: its decode work falls due over its residence
THIN_BELOW = 0.8  # a fleet smaller than this share of the natural one sees a thinned trace
TOKEN_VARIANCE = 1.2  # squared CV of a request's tokens, as the public traces have it
MAXIMUM_LOAD_BINS = 60_480  # a week
WARM_UP_DAY_BINS, LONG_BINS = 8640, 20_000  # a trace longer than 2.3 days is scored from its second day on
WARM_UP_HOUR_BINS, SHORT_BINS = 360, 720  # others from their second hour on, those of two hours or less after a tenth


@dataclass(frozen=True, slots=True, eq=False)
class Load:
    """What falls due in each bin, each of shape [bins]. `work` is in replicas (replica-bins per bin); `spill_usd` is
    what a replica-bin of the bin's own traffic costs outside; tokens and requests are scaled as the work is, so that
    work = (input / P + output / D) / bin seconds. A request counts in the bins where its work falls due, in
    proportion: there are requests wherever there is work."""

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


def score_from(bins: int) -> int:
    """The first bin that counts: what was decided before knowing anything is nobody's merit or fault."""
    if bins > LONG_BINS:
        return WARM_UP_DAY_BINS
    return WARM_UP_HOUR_BINS if bins > SHORT_BINS else bins // 10


def scale(
    trace: Trace,
    economics: Economics,
    fleet: float | None = None,
    seed: int = 0,
    longest_bins: int = MAXIMUM_LOAD_BINS,
) -> Load:
    """The first week of `trace` (`longest_bins`) as work that fills `fleet` replicas on average; None leaves its
    natural size.

    A fleet below `THIN_BELOW` of the natural one gets a binomial sample of the requests, so that its noise is that of
    few requests: tokens shrink with the sample and vary by a gamma factor of the requests' own variance. Decode work
    is spread evenly over the mean residence. Work is then brought to the exact mean; prices are those of each bin's
    own mix. Raises BadTrace where there is no work to scale, ValueError for a fleet that is not above zero.
    """
    if fleet is not None and not 0 < fleet < np.inf:
        raise ValueError(f"a fleet of {fleet!r} replicas; give a number above zero, or none for the trace's own size")
    requests, inputs, outputs = (
        column[:longest_bins] for column in (trace.requests, trace.input_tokens, trace.output_tokens)
    )
    natural = float(np.mean(_seconds(inputs, outputs, economics))) / BIN_SECONDS if len(requests) else 0.0
    if not natural > 0 or not requests.sum() > 0:
        raise BadTrace(f"{trace.name}: no requests with tokens in it; give a trace with demand")
    if fleet is not None and fleet / natural < THIN_BELOW:
        requests, inputs, outputs = _thin(requests, inputs, outputs, fleet / natural, seed)
        if not inputs.sum() + outputs.sum() > 0:
            raise BadTrace(f"{trace.name}: nothing is left of it for a fleet of {fleet}; give a larger fleet")
    residence = float(outputs.sum() / requests.sum()) * SECONDS_PER_OUTPUT_TOKEN
    due = _requests_due(requests, inputs, outputs, economics, residence)
    outputs = _spread(outputs, residence)
    seconds = _seconds(inputs, outputs, economics)
    usd = (inputs * economics.usd_per_million_input + outputs * economics.usd_per_million_output) / 1e6
    mean_usd = usd.sum() / seconds.sum()
    factor = 1.0 if fleet is None else fleet / float(np.mean(seconds / BIN_SECONDS))
    work = seconds / BIN_SECONDS * factor
    return Load(
        name=trace.name,
        work=work,
        spill_usd=np.divide(usd, seconds, out=np.full_like(usd, mean_usd), where=seconds > 0) * BIN_SECONDS,
        requests=_everywhere(due * factor, work),
        input_tokens=inputs * factor,
        output_tokens=outputs * factor,
        natural_fleet=natural,
        score_from=score_from(len(work)),
    )


def _seconds(inputs: Floats, outputs: Floats, economics: Economics) -> Floats:
    """Replica-seconds of work: the linear capacity model, within 10 % of aiconfigurator (policy.md §2)."""
    return inputs / economics.prefill_tokens_per_second + outputs / economics.decode_tokens_per_second


def _thin(requests: Floats, inputs: Floats, outputs: Floats, share: float, seed: int) -> tuple[Floats, Floats, Floats]:
    """A sample of the requests. The order of the draws is part of the result: requests, input, output."""
    random = np.random.default_rng(seed)
    whole = np.maximum(np.rint(requests), np.ceil(np.minimum(requests, 1.0)))  # rates may tell fractions of requests
    taken = random.binomial(whole.astype(np.int64), share).astype(np.float64)
    kept = taken / np.maximum(whole, 1.0)
    variance = TOKEN_VARIANCE * (1 - share) / np.maximum(taken, 1.0)

    def sample(tokens: Floats) -> Floats:
        return tokens * kept * random.gamma(1 / variance, variance)

    return taken, sample(inputs), sample(outputs)


def _spread(amounts: Floats, seconds: float) -> Floats:
    """Each bin's amount evenly over the `seconds` that follow, the last bin in part; what lies past the end is cut."""
    length = max(seconds / BIN_SECONDS, 1e-9) + 0.5
    kernel = np.clip(length - np.arange(min(ceil(length), len(amounts))), 0, 1) / length
    spread: Floats = np.convolve(amounts, kernel)[: len(amounts)]
    return spread


def _requests_due(requests: Floats, inputs: Floats, outputs: Floats, economics: Economics, residence: float) -> Floats:
    """Requests by where their work falls due: the share of prefill on arrival, that of decode over the residence."""
    total = _seconds(inputs, outputs, economics)
    decode = np.divide(outputs / economics.decode_tokens_per_second, total, out=np.zeros_like(total), where=total > 0)
    due: Floats = requests * (1 - decode) + _spread(requests * decode, residence)
    return due


def _everywhere(requests: Floats, work: Floats) -> Floats:
    """`requests`, and where work came without any, as rates of different series may have it, those of mean work."""
    per_work = requests.sum() / work.sum() if requests.any() else 1.0
    filled: Floats = np.where((work > 0) & (requests <= 0), work * per_work, requests)
    return filled
