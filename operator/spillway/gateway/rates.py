"""A provider's requests per minute, shared out over the gateway processes.

Each process counts what it sends by itself (rate.lua). So that all of them together never send more than the limit, a
share grows only by what others are known to have given up: a process has the larger of two shares until it has
acknowledged the smaller one.
"""

from __future__ import annotations

from collections.abc import Mapping

from spillway.gateway.share import growing, share

Rates = Mapping[str, int]
"""Requests per minute by provider, of one process."""

STARVED = 1.5
"""A share that traffic would have so many times larger is worth a new division; smaller moves are not."""


class RateShares:
    """`share_out` whenever limits, processes or their traffic may have changed; `acknowledged` when a process has what
    it was told last."""

    def __init__(self) -> None:
        self._given: dict[str, dict[str, int]] = {}
        self._held: dict[str, dict[str, int]] = {}
        self._wanted: dict[str, tuple[int, dict[str, int]]] = {}

    def of(self, process: str) -> dict[str, int]:
        """What that process is to have of each limit; nothing of one that it has not been told of yet."""
        return {provider: given[process] for provider, given in self._given.items() if process in given}

    def share_out(self, limits: Rates, in_flight: Mapping[str, Rates]) -> None:
        """`in_flight`: requests at each provider, by process: all that may be alive."""
        for provider in self._given.keys() - limits.keys():
            del self._given[provider], self._held[provider], self._wanted[provider]
        for provider, limit in limits.items():
            load = {process: at.get(provider, 0) for process, at in in_flight.items()}
            self._divide(provider, limit, self._settled(provider, limit, share(limit, load)))

    def acknowledged(self, process: str, rates: Rates) -> bool:
        """`rates`: what the process has now. Whether others may have more for it."""
        freed = False
        for provider, has in rates.items():
            held = self._held.get(provider, {})
            most = max(has, self._given.get(provider, {}).get(process, 0))
            if most < held.get(process, 0):
                held[process] = most
                freed = True
        return freed

    def _settled(self, provider: str, limit: int, wanted: dict[str, int]) -> dict[str, int]:
        """The division of before as long as nobody would have much more: it follows the traffic, not its noise."""
        before_limit, before = self._wanted.get(provider, (0, {}))
        same = before_limit == limit and before.keys() == wanted.keys()
        if not same or any(part > STARVED * before[process] for process, part in wanted.items()):
            self._wanted[provider] = limit, wanted
        return self._wanted[provider][1]

    def _divide(self, provider: str, limit: int, wanted: Mapping[str, int]) -> None:
        before = self._held.get(provider, {})
        held = {process: before.get(process, 0) for process in wanted}  # one that is gone holds nothing
        given = growing(limit, wanted, held)
        self._given[provider] = given
        self._held[provider] = {process: max(has, given[process]) for process, has in held.items()}
