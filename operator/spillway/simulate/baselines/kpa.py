"""Knative's pod autoscaler on concurrency, with its defaults."""

from __future__ import annotations

from math import ceil, floor

from spillway.simulate.baselines.rounding import replicas_for
from spillway.simulate.baselines.rule import Seen
from spillway.simulate.baselines.windows import bins, mean
from spillway.simulate.economics import BIN_SECONDS

STABLE_SECONDS = 60.0
PANIC_SECONDS = BIN_SECONDS  # 6 s in fact, a tenth of the stable window: one bin is the least that there is
PANIC_THRESHOLD = 2.0
UP_RATE, DOWN_RATE = 1000.0, 2.0
GRACE_SECONDS = 30.0
STABLE_BINS = STABLE_SECONDS / BIN_SECONDS
IDLE_BINS = bins(STABLE_SECONDS + GRACE_SECONDS)
TARGET = 0.7  # target-utilisation of the concurrency that a replica has room for


class Kpa:
    """`autoscaler.go` (reference/peers.md §3.3), at one tick a bin; in fact one in 2 s:

        stable, panic = ceil(mean of 60 s / target), ceil(mean of 6 s / target), within [floor(ready / 2), 1000 x ready]
        panic asks for twice max(1, ready) or more: panic mode, until 60 s have passed without
        in panic mode: the highest of what was asked since it began; else: stable

    Rates are counted in *ready* pods, and panic mode holds what itself asked for, not what is starting (the prototype
    behind reference/policy.md §4 holds that too). A scaler that begins with more than one ready pod begins in panic
    mode. To zero when the stable window and 30 s of grace have passed without work.
    """

    def __init__(self, target: float = TARGET) -> None:
        self.name = "kpa"
        self.target = target
        self._panic_since: int | None = None
        self._panic_replicas = 0

    def replicas(self, seen: Seen) -> int | None:
        if not seen.bin:
            if seen.ready > 1:
                self._panic_since, self._panic_replicas = seen.bin, seen.ready
            return None  # no metric yet
        stable = replicas_for(mean(seen.work, STABLE_SECONDS) + seen.queued, self.target)
        panic = replicas_for(mean(seen.work, PANIC_SECONDS) + seen.queued, self.target)
        ready = max(seen.ready, 1)
        if panic / ready >= PANIC_THRESHOLD:
            self._panic_since = seen.bin
        elif self._panic_since is not None and self._panic_since + STABLE_BINS < seen.bin:
            self._panic_since, self._panic_replicas = None, 0
        least, most = floor(seen.ready / DOWN_RATE), ceil(UP_RATE * ready)
        wanted = min(max(stable, least), most)
        if self._panic_since is not None:
            self._panic_replicas = max(self._panic_replicas, wanted, min(max(panic, least), most))
            return self._panic_replicas
        if not wanted and seen.work[-IDLE_BINS:].any():
            return 1
        return wanted
