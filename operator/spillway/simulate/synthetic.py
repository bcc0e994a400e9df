"""Demand that nobody recorded, from a seed: days and weeks of chat, bursts, spikes, launches, tenants that come and go.

The shapes and their sizes are those of the public traces (reference/policy.md §1). PATTERNS has demand at its most
awkward, on which scaling rules were told apart (§9): without noise but the pattern's own, at level 1 a hundred requests
of the mean chat in a bin, about one replica of work; `load.scale` brings them to any fleet.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import isfinite
from types import MappingProxyType

import numpy as np

from spillway.simulate.economics import BIN_SECONDS
from spillway.simulate.traces import Floats, Trace

DAY_BINS, WEEK_BINS, HOUR_BINS = 8640, 60_480, 360
_WORKDAYS = 5
_NEGLIGIBLE = 1e-6  # a CV, or its square's distance from Poisson's, that cannot be told from none


@dataclass(frozen=True, slots=True)
class Synthetic:
    """What demand is made of. The defaults are a week of chat with GLM-5, beginning on a Monday at midnight.

    `requests_per_second` is the mean of the everyday traffic; spikes, launches and tenants come on top of it.
    """

    name: str = "glm5-chat-week"
    bins: int = WEEK_BINS
    requests_per_second: float = 20.0
    input_tokens: float = 1600.0  # mean of a request: azure24_conv has 1,632
    output_tokens: float = 250.0  # azure23_conv has 211, mooncake 343
    token_cv: float = 1.1  # of a request's tokens
    peak_to_trough: float = 2.5  # within a day: 1.9 to 2.8 for conversations, 9.2 for code; 1 is flat
    peak_hour: float = 15.0
    weekend_factor: float = 0.6  # azure24_conv has 0.52, code 0.3; 1 is no week
    arrival_cv: float = 1.8  # of inter-arrival times: 1 is Poisson, azure23_conv has 1.09, ServeGen 3.5
    spikes_per_day: float = 0.5
    spike_factor: float = 1.6  # of everyday traffic while it lasts: azure24_conv's
    spike_minutes: float = 15.0  # mean of an exponential
    launches: int = 0  # steps that stay, at random times
    launch_factor: float = 1.3  # of everyday traffic, each
    tenants: int = 0  # that send at a constant rate while they are on
    tenants_share: float = 0.5  # all tenants' mean, as a share of the everyday mean
    tenant_on_minutes: float = 60.0  # means of exponentials
    tenant_off_minutes: float = 240.0

    def __post_init__(self) -> None:
        """Refuses what no demand is made of."""
        zero_or_more = (
            *("input_tokens", "output_tokens", "token_cv", "weekend_factor", "arrival_cv", "spikes_per_day"),
            *("spike_factor", "launches", "launch_factor", "tenants", "tenants_share"),
        )
        above = ("bins", "requests_per_second", "spike_minutes", "tenant_on_minutes", "tenant_off_minutes")
        for field in (*zero_or_more, *above, "peak_to_trough", "peak_hour"):
            value = getattr(self, field)
            if not isfinite(value) or value < 0 or (field in above and value == 0):
                raise ValueError(f"{field} is {value!r}; give a number {'above' if field in above else 'from'} zero")
        if self.peak_to_trough < 1:
            raise ValueError(
                f"peak_to_trough is {self.peak_to_trough!r}; a peak is at least its trough: give 1 or more"
            )


@dataclass(frozen=True, slots=True, eq=False)
class Split:
    """Demand by who sends it, each array of shape [1 + tenants, bins] and summing up to `trace`. Row 0 is everybody
    who is no tenant."""

    trace: Trace
    requests: Floats
    input_tokens: Floats
    output_tokens: Floats


def generate(spec: Synthetic, seed: int) -> Trace:
    """The demand of `spec`; equal seeds give equal demand."""
    return generate_split(spec, seed).trace


def generate_split(spec: Synthetic, seed: int) -> Split:
    """The demand of `spec` with what each on-off tenant sends."""
    random = np.random.default_rng(seed)
    rates = np.vstack([_everyday(spec) * _events(spec, random), _tenants(spec, random)])
    requests = _counts(rates * BIN_SECONDS, spec.arrival_cv, random)
    inputs = _tokens(requests, spec.input_tokens, spec.token_cv, random)
    outputs = _tokens(requests, spec.output_tokens, spec.token_cv, random)
    total = Trace(spec.name, requests.sum(axis=0), inputs.sum(axis=0), outputs.sum(axis=0))
    return Split(total, requests, inputs, outputs)


def _everyday(spec: Synthetic) -> Floats:
    """Requests/s of each bin by time of day and day of week, of the asked mean over whole weeks."""
    day, hour = np.divmod(np.arange(spec.bins) / HOUR_BINS, 24.0)
    swing = (spec.peak_to_trough - 1) / (spec.peak_to_trough + 1)
    daily = 1 + swing * np.cos(2 * np.pi * (hour - spec.peak_hour) / 24)
    weekend = day % 7 >= _WORKDAYS
    weekly = np.where(weekend, spec.weekend_factor, 1.0) * 7 / (_WORKDAYS + 2 * spec.weekend_factor)
    rate: Floats = spec.requests_per_second * daily * weekly
    return rate


def _events(spec: Synthetic, random: np.random.Generator) -> Floats:
    """What spikes and launches multiply the everyday rate by."""
    factor = np.ones(spec.bins)
    for _ in range(random.poisson(spec.spikes_per_day * spec.bins / DAY_BINS)):
        begin = int(random.integers(spec.bins))
        length = max(1, round(random.exponential(spec.spike_minutes) * 60 / BIN_SECONDS))
        factor[begin : begin + length] *= spec.spike_factor
    for begin in random.integers(spec.bins, size=spec.launches):
        factor[begin:] *= spec.launch_factor
    return factor


def _tenants(spec: Synthetic, random: np.random.Generator) -> Floats:
    """Requests/s of each tenant, [tenants, bins]: some larger than others, each on or off."""
    sizes = random.exponential(size=spec.tenants)
    on_share = spec.tenant_on_minutes / (spec.tenant_on_minutes + spec.tenant_off_minutes)
    rates = np.zeros((spec.tenants, spec.bins))
    for rate, size in zip(rates, sizes, strict=True):
        mean = spec.requests_per_second * spec.tenants_share * size / sizes.sum()
        rate[:] = (
            mean
            / on_share
            * on_off(
                spec.bins, spec.tenant_on_minutes, spec.tenant_off_minutes, random, starts_on=random.random() < on_share
            )
        )
    return rates


def on_off(bins: int, on_minutes: float, off_minutes: float, random: np.random.Generator, *, starts_on: bool) -> Floats:
    """1 while on and 0 while off, for exponential times of the given means, at least a bin each."""
    level, at, on = np.zeros(bins), 0, starts_on
    while at < bins:
        length = max(1, round(random.exponential(on_minutes if on else off_minutes) * 60 / BIN_SECONDS))
        level[at : at + length] = on
        at, on = at + length, not on
    return level


def _counts(mean: Floats, cv: float, random: np.random.Generator) -> Floats:
    """Requests by bin whose variance is cv^2 of their mean: a renewal process' index of dispersion tends to the
    squared CV of its inter-arrival times. Above 1 a Poisson rate that is itself gamma, below 1 a binomial."""
    excess = cv * cv - 1
    if excess > _NEGLIGIBLE:
        return random.poisson(random.gamma(mean / excess, excess)).astype(np.float64)
    if excess >= -_NEGLIGIBLE:
        return random.poisson(mean).astype(np.float64)
    trials = np.ceil(mean / -excess)
    return random.binomial(trials.astype(np.int64), mean / np.maximum(trials, 1.0)).astype(np.float64)


def _tokens(requests: Floats, mean: float, cv: float, random: np.random.Generator) -> Floats:
    """Whole tokens by bin: the sum of that many requests' gamma tokens of the given mean and CV."""
    if cv < _NEGLIGIBLE:
        return np.rint(requests * mean)
    whole: Floats = np.rint(random.gamma(requests / (cv * cv), mean * cv * cv))
    return whole


REQUESTS_AT_LEVEL_1 = 100.0
MINUTE_BINS = 60 / BIN_SECONDS
_COLD_START_MINUTES = 10.0  # what the patterns are cut to: demand that is gone when a replica has become ready
_CHAT = Synthetic()


def steady(bins: int, random: np.random.Generator) -> Floats:
    """Always the same; nothing can be won."""
    return np.ones(bins)


def random_bursts(bins: int, random: np.random.Generator) -> Floats:
    """Bursts of 11 minutes in the mean, an hour apart: a replica started for one comes as it ends."""
    return on_off(bins, _COLD_START_MINUTES + 1, 60.0, random, starts_on=False)


def redrawn_levels(bins: int, random: np.random.Generator) -> Floats:
    """Every ten minutes another level, independent of the last: as ServeGen's rates are."""
    each = round(_COLD_START_MINUTES * MINUTE_BINS)
    levels: Floats = np.repeat(random.gamma(2.0, 0.5, bins // each + 1), each)[:bins]
    return levels


def periodic_on_off(bins: int, random: np.random.Generator) -> Floats:
    """On for 11 minutes and off for 20, like a clock: whoever sees the period wins it all."""
    on, off = round((_COLD_START_MINUTES + 1) * MINUTE_BINS), round(2 * _COLD_START_MINUTES * MINUTE_BINS)
    phase = int(random.integers(on + off))
    level: Floats = ((np.arange(bins) + phase) % (on + off) < on).astype(np.float64)
    return level


def ramps(bins: int, random: np.random.Generator) -> Floats:
    """Up over some hours, then down to a tenth at once: persistence is always late, trends overshoot."""
    period = round(float(random.uniform(3, 6)) * 60 * MINUTE_BINS)
    level: Floats = 0.1 + 0.9 * (np.arange(bins) % period) / period
    return level


def launches(bins: int, random: np.random.Generator) -> Floats:
    """About every six hours a step to another level that stays, between a third and three times the usual one."""
    level = np.ones(bins)
    for begin in np.sort(random.integers(bins, size=max(1, round(4 * bins / DAY_BINS)))):
        level[begin:] = 3.0 ** random.uniform(-1, 1)
    return level


PATTERNS: MappingProxyType[str, Callable[[int, np.random.Generator], Floats]] = MappingProxyType(
    {
        "steady": steady,
        "random-bursts": random_bursts,
        "redrawn-levels": redrawn_levels,
        "periodic-on-off": periodic_on_off,
        "ramps": ramps,
        "launches": launches,
    }
)


def pattern(name: str, bins: int, seed: int) -> Trace:
    """The pattern of that name in PATTERNS; equal seeds give equal demand. Raises ValueError for another name."""
    if name not in PATTERNS:
        raise ValueError(f"no pattern is called {name!r}; there are {', '.join(PATTERNS)}")
    if bins < 1:
        raise ValueError(f"{bins} bins; give at least one")
    requests = np.rint(PATTERNS[name](bins, np.random.default_rng(seed)) * REQUESTS_AT_LEVEL_1)
    return Trace(name, requests, requests * _CHAT.input_tokens, requests * _CHAT.output_tokens)
