"""How providers do: from what the gateways count of them, over the last minute."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from spillway.api import Reason
from spillway.ledger import EgressSample

WINDOW_SECONDS = 60.0
FEWEST_FAILURES = 5
UNHEALTHY_SHARE = 0.5
NOT_ITS_FAULT = ("rejected", "held")  # the client's error; and what was not sent, as it had asked for a pause
SLOW_DOWN = ("throttled", "overloaded", "held")
WHY_WORDS = {
    "credentials": "the key was refused (401)",
    "forbidden": "forbidden (403)",
    "quota": "no money or quota left there",
    "throttled": "too many requests (429)",
    "overloaded": "it is overloaded",
    "unavailable": "5xx, no connection or no answer",
    "unknown_model": "unknown model or address",
    "held": "not sent, as it had asked for a pause",
}

Errors = Mapping[tuple[str, str, str], int]
"""By provider, model and class (gateway/failures.lua)."""


@dataclass(frozen=True, slots=True)
class Told:
    """What one gateway pod says of providers, cumulative over the life of its process ("": it has counted nothing)."""

    pod: str
    process: str
    samples: tuple[EgressSample, ...] = ()
    errors: Errors = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Outcomes:
    """Requests of one provider by what became of them. `answered`: also where the client's own fault was the answer, or
    the client did not wait for it. `proven`: above 0 where an answer was certainly begun. `errors`: by class."""

    answered: int = 0
    failed: int = 0
    proven: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    unknown: Counter[str] = field(default_factory=Counter)  # requests for a model that it does not know, by model

    def plus(self, other: Outcomes) -> Outcomes:
        return Outcomes(
            self.answered + other.answered,
            self.failed + other.failed,
            self.proven + other.proven,
            self.errors + other.errors,
            self.unknown + other.unknown,
        )

    def since(self, first: Outcomes) -> Outcomes:
        """What came after `first`, of the same process."""
        return Outcomes(
            self.answered - first.answered,
            self.failed - first.failed,
            self.proven - first.proven,
            self.errors - first.errors,
            self.unknown - first.unknown,
        )


Counted = dict[str, Outcomes]  # by provider
_Life = tuple[str, str]  # pod and process


def outcomes(told: Told) -> Counted:
    """Of one process, by provider."""
    found: Counted = {}
    for sample in told.samples:
        failed = sample.requests if sample.outcome in ("refused", "unanswered") else 0
        begun = sample.requests if sample.outcome in ("metered", "doubtful") else 0
        begun += sample.response_bytes if sample.outcome in ("unmetered", "malformed", "broken", "left") else 0
        one = Outcomes(sample.requests - failed, failed, begun)
        found[sample.provider] = found.get(sample.provider, Outcomes()).plus(one)
    for (provider, model, why), count in told.errors.items():
        rejected = count if why == "rejected" else 0
        unknown = Counter({model: count}) if why == "unknown_model" else Counter[str]()
        one = Outcomes(rejected, -rejected, 0, Counter({why: count}), unknown)
        found[provider] = found.get(provider, Outcomes()).plus(one)
    return found


class ProviderWatch:
    """Keeps the counters of the last minute, by gateway process. A process counts from when it was first seen, but from
    its beginning where its pod was seen before it had counted anything."""

    def __init__(self) -> None:
        self._history: list[tuple[float, dict[_Life, Counted]]] = []

    def note(self, told: Iterable[Told], now: float) -> Counted:
        """Take one round of readings; returns what is new in it. `now`: any clock's seconds."""
        last = self._history[-1][1] if self._history else {}
        counted = {}
        for one in told:
            life = (one.pod, one.process)
            counted[life] = outcomes(one)
            if one.process and life not in last and (one.pod, "") in last:
                last[life] = {}
        self._history.append((now, counted))
        while len(self._history) > 2 and self._history[1][0] <= now - WINDOW_SECONDS:
            self._history.pop(0)
        return _grown(counted, [last])

    def lately(self) -> Counted:
        """Outcomes by provider within the window."""
        return _grown(self._history[-1][1], [counted for _, counted in self._history]) if self._history else {}

    def error_rates(self) -> dict[str, float]:
        """Share of the requests within the window that failed, of each provider that had any."""
        return {
            provider: o.failed / (o.failed + o.answered)
            for provider, o in self.lately().items()
            if o.failed + o.answered
        }

    def failing(self) -> dict[str, str]:
        """Words for each provider most of whose requests fail."""
        return {provider: words(o) for provider, o in self.lately().items() if _fails(o)}

    def unwell(self) -> dict[str, tuple[str, str]]:
        """Reason and words for each provider that its owner should look at: of those that fail, of those that had most
        requests wait, and of those that do not know one of their models."""
        found = {}
        for provider, o in self.lately().items():
            if o.unknown:
                models = ", ".join(f"{model!r} ({count} times)" for model, count in sorted(o.unknown.items()))
                text = f"it does not know {models}: correct spec.models[].name, or spec.baseURL"
                found[provider] = (Reason.UNKNOWN_MODEL, text)
            elif _fails(o):
                slow = sum(o.errors[why] for why in SLOW_DOWN if why != "held")
                found[provider] = (Reason.THROTTLED if 2 * slow > o.failed else Reason.PROVIDER_ERRORS, words(o))
            elif o.errors["held"] >= FEWEST_FAILURES and o.errors["held"] > o.answered:
                found[provider] = (Reason.THROTTLED, words(o))
        return found


def words(o: Outcomes) -> str:
    """What became of its requests: `8 of the last 10 requests failed (6: it is overloaded; …)`."""
    parts = [
        f"{count}: {WHY_WORDS[why]}" for why, count in o.errors.most_common() if why in WHY_WORDS and why != "held"
    ]
    why = f" ({'; '.join(parts)})" if parts else ""
    held = f"; {o.errors['held']} more were not sent, as it had asked for a pause" if o.errors["held"] else ""
    return (
        f"{o.failed} of the last {o.failed + o.answered} requests were refused or got no answer{why}{held}; "
        "the next provider is tried each time"
    )


def _fails(o: Outcomes) -> bool:
    return o.failed >= FEWEST_FAILURES and o.failed > UNHEALTHY_SHARE * (o.failed + o.answered)


def _grown(newest: Mapping[_Life, Counted], history: list[dict[_Life, Counted]]) -> Counted:
    """By provider what the processes of `newest` counted since each was first in `history`."""
    found: Counted = {}
    for life, counted in newest.items():
        first = next((past[life] for past in history if life in past), None)
        if first is None:
            continue
        for provider, latest in counted.items():
            new = latest.since(first.get(provider, Outcomes()))
            found[provider] = found.get(provider, Outcomes()).plus(new)
    return found
