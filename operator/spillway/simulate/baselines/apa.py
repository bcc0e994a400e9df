"""AIBrix's APA autoscaler, as its code has it and as its documents say."""

from __future__ import annotations

from collections import deque
from math import ceil

from spillway.simulate.baselines.rule import Seen
from spillway.simulate.baselines.windows import Recommendations, bins

STABLE_SECONDS = 180.0
TOLERANCE = 0.1
UP_RATE, DOWN_RATE = 2, 2
DOWN_COOLDOWN_SECONDS = 300.0
TARGET = 0.7
FULL = 1.5  # of one replica: it and its queue show no more use, whatever else the gateway is offered
SPARE_REPLICAS = 2


class Apa:
    """`algorithm/apa.go`, `workload_scale.go` (reference/peers.md §3.4), every 10 s, which is once a bin:

        r = mean over 180 s of the ready pods' mean use / target
        r > 1.1: min(ceil(n r), 2 n);  r < 0.9: max(ceil(n r), floor(n / 2));  else n

    As coded, n counts pods that load although only ready pods have use to average, so that one burst doubles the fleet
    every 10 s until the cold start ends (aibrix #2670), and the "cooldown" takes the lowest recommendation of 300 s on
    the way down, which hastens what it should delay. As documented, n are the ready pods (pods that load are kept on
    the way up) and the cooldown takes the highest, as an HPA does. The prototype behind reference/policy.md §4 has the
    first of the two faults, without the second, and divides the window's demand by the pods of now.

    At least 1. A PodAutoscaler must name a maximum, which is what ends the doubling: `maximum`, or, without one, two
    more than the highest demand so far, as someone who knows the traffic might set it.
    """

    def __init__(self, target: float = TARGET, as_documented: bool = False, maximum: int | None = None) -> None:
        self.name = "apa-documented" if as_documented else "apa"
        self.target = target
        self.as_documented = as_documented
        self.maximum = maximum
        self._uses: deque[float] = deque(maxlen=bins(STABLE_SECONDS))
        self._highest_work = 0.0
        self._recommended = Recommendations(DOWN_COOLDOWN_SECONDS)

    def replicas(self, seen: Seen) -> int | None:
        if not seen.bin:
            return None  # no metric yet
        self._highest_work = max(self._highest_work, float(seen.work[-1]))
        if not seen.total:
            return 1
        if not seen.ready:
            return None  # no pod answers
        self._uses.append(min((float(seen.work[-1]) + seen.queued) / seen.ready, FULL))
        wanted = self._wanted(sum(self._uses) / len(self._uses) / self.target, seen)
        maximum = self.maximum if self.maximum is not None else ceil(self._highest_work) + SPARE_REPLICAS
        wanted = max(1, min(wanted, maximum))
        self._recommended.add(seen.bin, wanted)
        if wanted >= seen.total:
            return wanted
        settled = self._recommended.highest() if self.as_documented else self._recommended.lowest()
        return min(settled, seen.total)

    def _wanted(self, ratio: float, seen: Seen) -> int:
        counted = seen.ready if self.as_documented else seen.total
        if ratio > 1 + TOLERANCE:
            wanted = min(ceil(counted * ratio), UP_RATE * counted)
            return max(wanted, seen.total) if self.as_documented else wanted
        if ratio < 1 - TOLERANCE:
            return max(ceil(counted * ratio), counted // DOWN_RATE)
        return seen.total
