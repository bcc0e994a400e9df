"""Request traces in bins: recorded ones where the files are, a seeded generator where they are not.

A file is `<name>.csv.gz` with the columns t (seconds), n (requests), tin and tout (tokens, summed over the bin).
"""

from __future__ import annotations

import csv
import gzip
import math
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

BIN_SECONDS = 10.0
DIRECTORY_SETTING = "SPILLWAY_TRACES"
# Beside the checkout, whatever the working directory is.
DEFAULT_DIRECTORY = Path(__file__).resolve().parents[2] / ".." / "shared" / "traces"

MEAN_PROMPT_TOKENS = 1154.0
MEAN_OUTPUT_TOKENS = 211.0


@dataclass(frozen=True)
class Bin:
    """`start` in seconds from the trace's beginning; token sums over the bin's `requests`."""

    start: float
    requests: int
    prompt_tokens: int
    output_tokens: int


@dataclass(frozen=True)
class Trace:
    """`origin` says in words whether these arrivals were recorded or made up."""

    name: str
    origin: str
    recorded: bool
    bins: tuple[Bin, ...]
    bin_seconds: float = BIN_SECONDS

    @property
    def seconds(self) -> float:
        return self.bins[-1].start + self.bin_seconds if self.bins else 0.0

    @property
    def requests(self) -> int:
        return sum(each.requests for each in self.bins)


def recorded_in() -> Path:
    """The directory of recorded traces."""
    setting = os.environ.get(DIRECTORY_SETTING)
    return Path(setting) if setting else DEFAULT_DIRECTORY


def load(name: str, *, directory: Path | None = None, seed: int = 0) -> Trace:
    """The recorded trace `name`, or a generated stand-in when its file is absent.

    `directory` defaults to $SPILLWAY_TRACES. Raises ValueError when the file is there but not readable as a trace.
    """
    path = (directory or recorded_in()) / f"{name}.csv.gz"
    if not path.is_file():
        return generate(name, seed=seed)
    with gzip.open(path, "rt", newline="") as file:
        rows = csv.DictReader(file)
        if rows.fieldnames is None or not {"t", "n", "tin", "tout"} <= set(rows.fieldnames):
            raise ValueError(f"{path.name}: expected the columns t, n, tin, tout, found {rows.fieldnames}")
        bins = tuple(
            Bin(float(row["t"]), round(float(row["n"])), round(float(row["tin"])), round(float(row["tout"])))
            for row in rows
        )
    if not bins:
        raise ValueError(f"{path.name}: no rows")
    first = bins[0].start
    shifted = tuple(Bin(b.start - first, b.requests, b.prompt_tokens, b.output_tokens) for b in bins)
    return Trace(name, f"recorded arrivals of {name}", True, shifted)


def generate(
    name: str,
    *,
    seed: int,
    seconds: float = 3600.0,
    requests_per_second: float = 5.5,
    day_seconds: float = 3600.0,
    burst_cv: float = 0.35,
    spike_every_seconds: float = 900.0,
) -> Trace:
    """A made-up trace: a daily wave (`day_seconds` long), gamma bursts with coefficient of variation `burst_cv`,
    and 40-second spikes of two to four times the rate. The same seed gives the same trace.
    """
    draw = np.random.default_rng([seed, *name.encode()])
    starts = np.arange(math.ceil(seconds / BIN_SECONDS)) * BIN_SECONDS
    wave = 1.0 + 0.4 * np.sin(2 * np.pi * starts / day_seconds)
    shape = 1.0 / burst_cv**2
    bursts = draw.gamma(shape, 1.0 / shape, len(starts))
    spikes = np.ones(len(starts))
    for index in np.flatnonzero(draw.random(len(starts)) < BIN_SECONDS / spike_every_seconds):
        spikes[index : index + 4] = draw.uniform(2.0, 4.0)
    counts = draw.poisson(requests_per_second * BIN_SECONDS * wave * bursts * spikes)
    bins = []
    for start, count in zip(starts, counts, strict=True):
        prompt = draw.lognormal(math.log(MEAN_PROMPT_TOKENS) - 0.5, 1.0, int(count)).sum()
        output = draw.lognormal(math.log(MEAN_OUTPUT_TOKENS) - 0.32, 0.8, int(count)).sum()
        bins.append(Bin(float(start), int(count), round(float(prompt)), round(float(output))))
    origin = f"generated stand-in for {name} (seed {seed}): no recorded trace found, set {DIRECTORY_SETTING} to use one"
    return Trace(name, origin, False, tuple(bins))
