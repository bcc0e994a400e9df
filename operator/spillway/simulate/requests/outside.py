"""Providers as single requests find them: prices, quota, slots, and how fast they answer."""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass

from spillway.simulate.accounts import Account
from spillway.simulate.fleet import Outlet
from spillway.simulate.world import VirtualProvider

A_REQUEST = 1 - 1e-9  # of a quota whose parts add up


@dataclass(frozen=True, slots=True)
class Taken:
    """By a provider: at what price, and when its answer comes."""

    provider: VirtualProvider
    usd: float
    first: float
    ended: float


class Outside:
    """One deployment's requests at providers."""

    def __init__(self, paying: Sequence[Account]) -> None:
        self._paying = [account for account in paying if account.external]
        self._under_way: dict[str, list[float]] = {}  # when they end, by provider
        self._open: list[tuple[Outlet, float, float]] = []  # with $ per input and output token

    def open(self, outlets: Sequence[Outlet], seconds: float) -> None:
        """Those that may be used from now on, in order."""
        self._open = []
        for outlet in outlets:
            price_in, price_out = outlet.provider.prices(seconds)
            self._open.append((outlet, price_in / 1e6, price_out / 1e6 * outlet.provider.verbosity))

    def in_flight(self, provider: str, at: float) -> int:
        under_way = self._under_way.setdefault(provider, [])
        while under_way and under_way[0] <= at:
            heapq.heappop(under_way)
        return len(under_way)

    def take(self, at: float, input_tokens: float, output_tokens: float) -> Taken | None:
        """The first provider's answer that has a slot, quota, and money for this request. Dollars are charged as it is
        sent: what it will cost is known here."""
        for outlet, usd_in, usd_out in self._open:
            provider = outlet.provider
            if outlet.quota.requests < A_REQUEST or self.in_flight(provider.name, at) >= provider.concurrent:
                continue
            usd = input_tokens * usd_in + output_tokens * usd_out
            if usd > min((account.left_usd for account in self._paying), default=math.inf):
                continue
            outlet.quota.requests -= 1
            for account in self._paying:
                account.spent_usd += usd
            first = at + provider.first_token_seconds
            ended = first + output_tokens * provider.verbosity / provider.tokens_per_second
            heapq.heappush(self._under_way[provider.name], ended)
            return Taken(provider, usd, first, ended)
        return None
