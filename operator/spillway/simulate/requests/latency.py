"""What only single requests can tell: when first and last tokens came, and where each request went."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from spillway.simulate.requests.records import LOCAL, REFUSED, Records
from spillway.simulate.traces import Bools, Floats

MINUTE_SECONDS = 60.0
PERCENTILES = (50, 95, 99)


@dataclass(frozen=True, slots=True)
class Percentiles:
    """Seconds; NaN where nothing was answered."""

    p50: float
    p95: float
    p99: float


@dataclass(frozen=True, slots=True)
class Latency:
    """Of the requests that arrived from some time on. First and last token count from the arrival, the wait for a
    replica included."""

    requests: int
    destinations: Mapping[str, int]  # how many the replicas took ("local"), each provider, and nobody ("refused")
    first_token: Percentiles
    end_to_end: Percentiles
    local_first_token: Percentiles  # of those that replicas answered

    @property
    def refused(self) -> int:
        return self.destinations["refused"]


@dataclass(frozen=True, slots=True, eq=False)
class ByMinute:
    """By minute of arrival, each of shape [minutes]; `in_flight` is the mean over the minute. NaN: nothing was
    answered."""

    destinations: Mapping[str, Floats]
    first_token: Mapping[int, Floats]  # by percentile
    end_to_end: Mapping[int, Floats]
    in_flight_local: Floats
    in_flight_outside: Floats

    def __len__(self) -> int:
        return len(self.in_flight_local)


def latency(found: Records, since: float = 0.0) -> Latency:
    """Of the requests that arrived `since` then (seconds)."""
    counted = found.arrived >= since
    local = counted & (found.destination == LOCAL)
    return Latency(
        int(counted.sum()),
        {name: int((counted & of).sum()) for name, of in _destinations(found).items()},
        _percentiles((found.first - found.arrived)[counted]),
        _percentiles((found.ended - found.arrived)[counted]),
        _percentiles((found.first - found.arrived)[local]),
    )


def by_minute(found: Records, seconds: float) -> ByMinute:
    """Of a run of that many seconds; the last minute may be a part of one."""
    minutes = max(1, int(np.ceil(seconds / MINUTE_SECONDS)))
    minute = np.minimum((found.arrived // MINUTE_SECONDS).astype(np.int64), minutes - 1)
    edges = np.searchsorted(minute, np.arange(minutes + 1))
    end = np.minimum(np.arange(minutes + 1) * MINUTE_SECONDS, seconds)
    local = found.destination == LOCAL
    outside = found.destination >= 0
    return ByMinute(
        {
            name: np.bincount(minute[of], minlength=minutes).astype(np.float64)
            for name, of in _destinations(found).items()
        },
        _by_part(found.first - found.arrived, edges),
        _by_part(found.ended - found.arrived, edges),
        _in_flight(found.arrived[local], found.ended[local], end),
        _in_flight(found.arrived[outside], found.ended[outside], end),
    )


def document(found: Records, since: float, seconds: float) -> dict[str, Any]:
    """For others: percentiles in seconds, of requests that arrived `since` then; and all minutes."""
    total, minutes = latency(found, since), by_minute(found, seconds)
    return {
        "count": total.requests,
        "destinations": dict(total.destinations),
        "first_token": _spelled(total.first_token),
        "end_to_end": _spelled(total.end_to_end),
        "local_first_token": _spelled(total.local_first_token),
        "by_minute": {
            "destinations": {name: numbers.astype(int).tolist() for name, numbers in minutes.destinations.items()},
            "first_token": {f"p{p}": _known(values) for p, values in minutes.first_token.items()},
            "end_to_end": {f"p{p}": _known(values) for p, values in minutes.end_to_end.items()},
            "in_flight_local": minutes.in_flight_local.tolist(),
            "in_flight_outside": minutes.in_flight_outside.tolist(),
        },
    }


def _spelled(percentiles: Percentiles) -> dict[str, float | None]:
    return {name: None if np.isnan(value := getattr(percentiles, name)) else value for name in ("p50", "p95", "p99")}


def _known(values: Floats) -> list[float | None]:
    """JSON has no NaN."""
    return [None if np.isnan(value) else value for value in values.tolist()]


def _destinations(found: Records) -> dict[str, Bools]:
    named = {name: found.destination == number for number, name in enumerate(found.providers)}
    return {"local": found.destination == LOCAL, **named, "refused": found.destination == REFUSED}


def _percentiles(seconds: Floats) -> Percentiles:
    known = seconds[~np.isnan(seconds)]
    if not len(known):
        return Percentiles(np.nan, np.nan, np.nan)
    return Percentiles(*(float(value) for value in np.percentile(known, PERCENTILES)))


def _by_part(seconds: Floats, edges: np.ndarray[Any, np.dtype[np.int64]]) -> dict[int, Floats]:
    """Percentiles of the parts between the edges."""
    parts = [_percentiles(seconds[a:b]) for a, b in pairwise(edges.tolist())]
    return {p: np.array([getattr(part, f"p{p}") for part in parts]) for p in PERCENTILES}


def _in_flight(arrived: Floats, ended: Floats, edges: Floats) -> Floats:
    """Mean number that has arrived and not ended, between the edges: the time that all of them spent there."""

    def waited(since: Floats) -> Floats:
        """Seconds that have passed since each of these times, added up, at each edge."""
        times = np.sort(since)
        number = np.searchsorted(times, edges)
        found: Floats = number * edges - np.concatenate(([0.0], np.cumsum(times)))[number]
        return found

    lasted = np.diff(edges)
    spent = np.diff(waited(arrived) - waited(ended))
    return np.divide(spent, lasted, out=np.zeros(len(lasted)), where=lasted > 0)
