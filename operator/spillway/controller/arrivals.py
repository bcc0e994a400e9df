"""When requests last came in, from the ledger's own readings of the gateways.

A request that waits for the first replica is so seen within seconds, also while Prometheus is away, and also if it is
the first one of a gateway's life, of which a rate knows nothing.
"""

from __future__ import annotations

from collections.abc import Mapping

QUIET_SECONDS = 60.0  # after which a request is news
MOST_PROCESSES = 256  # remembered: one that was not read in a round may be in the next


class Arrivals:
    """Counters by gateway process and deployment, and when one of them last grew (Unix seconds), by deployment."""

    def __init__(self) -> None:
        self._counted: dict[str, dict[str, int]] = {}
        self._began = False
        self.last: dict[str, float] = {}

    def note(self, readings: Mapping[str, Mapping[str, int]], now: float) -> bool:
        """Take one round of readings, by process. Returns whether a deployment got a request that had none lately."""
        news = False
        for process, counts in readings.items():
            before = self._counted.get(process, {})
            for deployment, count in counts.items():
                # What was counted before this operator looked for the first time may be long past.
                if self._began and count > before.get(deployment, 0):
                    news |= now - self.last.get(deployment, float("-inf")) > QUIET_SECONDS
                    self.last[deployment] = now
            self._counted.pop(process, None)
            self._counted[process] = dict(counts)  # the last one in order is the one read last
        while len(self._counted) > MOST_PROCESSES:
            del self._counted[next(iter(self._counted))]
        self._began = True
        return news
