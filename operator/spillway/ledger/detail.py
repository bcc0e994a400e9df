"""What single requests cost, and whether the gateways' log of them agrees with what the ledger charged.

The log is best effort: it loses entries when a leader or a connection changes, and so it is never what is charged. Only
metered requests are compared: what is estimated, nobody knows better.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Final

from .book import ZERO, Book, ProviderModel
from .price import Price, cost_usd

WINDOW_SECONDS: Final = 3600
QUANTILES: Final = (0.5, 0.95, 0.99)
MOST_COSTS: Final = 5000
"""Requests of one provider's model whose cost is kept, the newest."""
MOST_PENDING: Final = 50_000
"""Entries that wait for the next round; more are dropped, and lower the coverage."""
LEAST_COVERAGE: Final = 0.99
"""Below it the log says nothing of the ledger."""
_BUCKET_SECONDS: Final = 60


@dataclass(frozen=True, slots=True)
class Metered:
    """A request whose usage the provider told. `prompt_tokens` include those cached and written to a cache."""

    provider: str
    model: str
    tier: int
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0
    cache_write_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Sum:
    """Metered requests and their dollars, by the ledger and by the log. `greatest`: the dearest in the log."""

    requests: int = 0
    usd: Decimal = ZERO
    entries: int = 0
    detail_usd: Decimal = ZERO
    greatest: Decimal = ZERO

    def __add__(self, other: Sum) -> Sum:
        return Sum(
            self.requests + other.requests,
            self.usd + other.usd,
            self.entries + other.entries,
            self.detail_usd + other.detail_usd,
            max(self.greatest, other.greatest),
        )

    @property
    def coverage(self) -> float | None:
        """Share of the charged requests that the log has; None while nothing was charged."""
        return min(1.0, self.entries / self.requests) if self.requests else None

    @property
    def drift(self) -> float | None:
        """How far the ledger is from the log, as a share of the larger sum, beyond what requests that only one of them
        has can explain: each of those costs between nothing and the dearest. None where too many are missing."""
        most = max(self.requests, self.entries)
        missing = self.requests - self.entries
        if not most or (missing and abs(missing) > (1 - LEAST_COVERAGE) * most):
            return None
        gap, room = self.usd - self.detail_usd, missing * self.greatest
        beyond = max(gap - max(room, ZERO), min(room, ZERO) - gap, ZERO)
        larger = max(self.usd, self.detail_usd)
        return float(beyond / larger) if larger else 0.0


Charges = dict[str, Sum]
"""By provider: what the ledger charged as metered since it began."""


def cost(price: Price, request: Metered) -> Decimal:
    """Exact USD, as the ledger charges it."""
    return cost_usd(
        price.of_tier(request.tier),
        request.prompt_tokens,
        request.completion_tokens,
        request.cached_tokens,
        request.cache_write_tokens,
    )


def requests_charged(before: Book, after: Book) -> dict[str, int]:
    """Metered requests by provider that the gateways of `after` were charged for since `before`."""
    found: dict[str, int] = {}
    for owner, mark in after.gateways.items():
        known = before.gateways.get(owner)
        for counter, counts in mark.counts.items():
            if counter.outcome != "metered":
                continue
            then = known.counts.get(counter) if known else None
            new = counts.requests - (then.requests if then else 0)
            if new:
                found[counter.provider] = found.get(counter.provider, 0) + new
    return found


@dataclass
class Detail:
    """The last hour of both. Bounded: minutes by provider, costs by model, entries that wait."""

    _pending: list[Metered] = field(default_factory=list)
    _minutes: deque[tuple[int, dict[str, Sum]]] = field(default_factory=deque)
    _costs: dict[ProviderModel, deque[tuple[int, Decimal]]] = field(default_factory=dict)
    _began: bool = False

    def note(self, requests: Iterable[Metered]) -> None:
        """Entries of the log, as they come."""
        for request in requests:
            if len(self._pending) >= MOST_PENDING:
                return
            self._pending.append(request)

    def round(
        self,
        requests: Mapping[str, int],
        usd: Mapping[str, Decimal],
        prices: Mapping[ProviderModel, Price],
        now_seconds: int,
    ) -> None:
        """What one round charged as metered, by provider, with the prices it charged by. The first round of a leader is
        not compared: it charges what went on while nobody listened."""
        pending, self._pending = self._pending, []
        if not self._began:
            self._began = True
            return
        minute = now_seconds // _BUCKET_SECONDS
        sums = self._of(minute)
        for provider in requests.keys() | usd.keys():
            new = Sum(requests.get(provider, 0), usd.get(provider, ZERO))
            if new != Sum():
                sums[provider] = sums.get(provider, Sum()) + new
        for request in pending:
            what = ProviderModel(request.provider, request.model)
            price = prices.get(what)
            if price is None:
                continue
            own = cost(price, request)
            sums[request.provider] = sums.get(request.provider, Sum()) + Sum(0, ZERO, 1, own, own)
            self._costs.setdefault(what, deque(maxlen=MOST_COSTS)).append((now_seconds, own))
        self._forget(now_seconds)

    def sums(self) -> Charges:
        """The last hour by provider."""
        found: Charges = {}
        for _, minute in self._minutes:
            for provider, own in minute.items():
                found[provider] = found.get(provider, Sum()) + own
        return found

    def quantiles(self) -> dict[ProviderModel, dict[float, Decimal]]:
        """Cost in USD of a metered request of the last hour, by provider and model: the nearest rank."""
        found = {}
        for what, costs in self._costs.items():
            ordered = sorted(own for _, own in costs)
            found[what] = {q: ordered[min(len(ordered) - 1, int(q * len(ordered)))] for q in QUANTILES}
        return found

    def _of(self, minute: int) -> dict[str, Sum]:
        if not self._minutes or self._minutes[-1][0] < minute:
            self._minutes.append((minute, {}))
        return self._minutes[-1][1]

    def _forget(self, now_seconds: int) -> None:
        oldest = now_seconds - WINDOW_SECONDS
        while self._minutes and (self._minutes[0][0] + 1) * _BUCKET_SECONDS <= oldest:
            self._minutes.popleft()
        for what, costs in list(self._costs.items()):
            while costs and costs[0][0] <= oldest:
                costs.popleft()
            if not costs:
                del self._costs[what]
