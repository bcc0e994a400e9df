"""Which providers fail: from the outcomes that the gateways count, over the last minute."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from spillway.ledger import EgressSample

WINDOW_SECONDS = 60.0
FEWEST_FAILURES = 5
UNHEALTHY_SHARE = 0.5


@dataclass(frozen=True, slots=True)
class Outcomes:
    """Requests of one provider that were answered and that failed."""

    answered: int = 0
    failed: int = 0


class ProviderWatch:
    """Keeps the counters of the last minute, by gateway process."""

    def __init__(self) -> None:
        self._history: list[tuple[float, dict[tuple[str, str], Outcomes]]] = []

    def note(self, readings: Iterable[tuple[str, Iterable[EgressSample]]], now: float) -> None:
        """Cumulative counters of every gateway process, as one round read them. `now`: any clock's seconds."""
        counted: dict[tuple[str, str], Outcomes] = {}
        for process, samples in readings:
            for sample in samples:
                key = (process, sample.provider)
                before = counted.get(key, Outcomes())
                failed = sample.requests if sample.outcome in ("refused", "unanswered") else 0
                counted[key] = Outcomes(before.answered + sample.requests - failed, before.failed + failed)
        self._history.append((now, counted))
        while len(self._history) > 2 and self._history[1][0] <= now - WINDOW_SECONDS:
            self._history.pop(0)

    def lately(self) -> dict[str, Outcomes]:
        """Outcomes by provider within the window. A process counts from when it was first seen."""
        found: dict[str, Outcomes] = {}
        if not self._history:
            return found
        newest = self._history[-1][1]
        for key, latest in newest.items():
            first = next(counted[key] for _, counted in self._history if key in counted)
            before = found.get(key[1], Outcomes())
            found[key[1]] = Outcomes(
                before.answered + latest.answered - first.answered, before.failed + latest.failed - first.failed
            )
        return found

    def error_rates(self) -> dict[str, float]:
        """Share of the requests within the window that failed, of each provider that had any."""
        return {
            provider: o.failed / (o.failed + o.answered)
            for provider, o in self.lately().items()
            if o.failed + o.answered
        }

    def failing(self) -> dict[str, str]:
        """Words for each provider most of whose requests fail."""
        return {
            provider: (
                f"{o.failed} of the last {o.failed + o.answered} requests were refused or got no answer; "
                "the next provider is tried each time"
            )
            for provider, o in self.lately().items()
            if o.failed >= FEWEST_FAILURES and o.failed > UNHEALTHY_SHARE * (o.failed + o.answered)
        }
