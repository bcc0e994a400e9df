"""From bins to single requests: when each is sent and how long it is. Pure and seeded."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from e2e.load.traces import Trace

SPREAD_SIGMA = 0.8
FEWEST_PROMPT_TOKENS = 8
FEWEST_OUTPUT_TOKENS = 1


@dataclass(frozen=True, order=True)
class Arrival:
    """One request: `at` seconds after the start of the run."""

    at: float
    prompt_tokens: int
    output_tokens: int


@dataclass(frozen=True)
class Schedule:
    """Arrivals in order of time, `seconds` long; `origin` says where they come from."""

    arrivals: tuple[Arrival, ...]
    seconds: float
    origin: str
    seed: int

    @classmethod
    def of(
        cls,
        trace: Trace,
        *,
        seconds: float,
        speed: float = 1.0,
        scale: float = 1.0,
        start: float = 0.0,
        seed: int = 0,
    ) -> Schedule:
        """Replay `seconds` of run time from `start` seconds into the trace.

        `speed` compresses time (rate times speed), `scale` thins or multiplies the requests. Arrivals are spread
        evenly at random within their bin; a bin's token sums are shared out by log-normal weights, so they are kept.
        A trace that ends early begins again.
        """
        if min(speed, scale, seconds) <= 0 or not trace.bins:
            raise ValueError("seconds, speed and scale must be above 0, and the trace must not be empty")
        draw = np.random.default_rng(seed)
        width = trace.bin_seconds / speed
        first = int(start // trace.bin_seconds)
        arrivals: list[Arrival] = []
        for number in range(int(np.ceil(seconds / width))):
            each = trace.bins[(first + number) % len(trace.bins)]
            wanted = each.requests * scale
            count = int(wanted) + int(draw.random() < wanted % 1.0)
            if count == 0:
                continue
            prompts = _shares(draw, each.prompt_tokens / each.requests * count, count)
            outputs = _shares(draw, each.output_tokens / each.requests * count, count)
            times = (number + draw.random(count)) * width
            arrivals += [
                Arrival(float(at), max(FEWEST_PROMPT_TOKENS, round(tin)), max(FEWEST_OUTPUT_TOKENS, round(tout)))
                for at, tin, tout in zip(times.tolist(), prompts.tolist(), outputs.tolist(), strict=True)
                if at < seconds
            ]
        origin = f"{trace.origin}, {speed:g} times as fast" + (f", scaled by {scale:g}" if scale != 1 else "")
        return cls(tuple(sorted(arrivals)), seconds, origin, seed)

    @classmethod
    def steady(
        cls, requests_per_second: float, seconds: float, *, prompt_tokens: int = 1200, output_tokens: int = 210
    ) -> Schedule:
        """Evenly spaced equal requests: the plainest load there is."""
        count = round(requests_per_second * seconds)
        arrivals = tuple(Arrival(i / requests_per_second, prompt_tokens, output_tokens) for i in range(count))
        return cls(arrivals, seconds, f"steady {requests_per_second:g} requests/s", 0)

    def step(self, factor: float, at_seconds: float, for_seconds: float | None = None) -> Schedule:
        """The same schedule with `factor` times the requests from `at_seconds` on (for `for_seconds`, else to the end).

        Extra requests copy existing ones at nearby times; a factor below 1 thins.
        """
        if factor < 0:
            raise ValueError(f"a step's factor must not be negative, got {factor}")
        end = self.seconds if for_seconds is None else min(self.seconds, at_seconds + for_seconds)
        draw = np.random.default_rng([self.seed, round(at_seconds * 1000), round(factor * 1000)])
        arrivals: list[Arrival] = []
        for arrival in self.arrivals:
            if not at_seconds <= arrival.at < end:
                arrivals.append(arrival)
                continue
            copies = int(factor) + int(draw.random() < factor % 1.0)
            for copy in range(copies):
                # Near the original but inside the window, so that no heap of requests forms at its edges.
                nearby = draw.uniform(max(at_seconds, arrival.at - 1.0), min(end, arrival.at + 1.0))
                arrivals.append(arrival if copy == 0 else replace(arrival, at=nearby))
        origin = f"{self.origin}, times {factor:g} from {at_seconds:g} s" + (
            "" if for_seconds is None else f" for {for_seconds:g} s"
        )
        return replace(self, arrivals=tuple(sorted(arrivals)), origin=origin)

    def first(self, count: int) -> Schedule:
        """At most `count` requests."""
        return replace(self, arrivals=self.arrivals[:count])


def _shares(draw: np.random.Generator, total: float, count: int) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    weights = draw.lognormal(0.0, SPREAD_SIGMA, count)
    shares: np.ndarray[tuple[int], np.dtype[np.float64]] = weights / weights.sum() * total
    return shares
