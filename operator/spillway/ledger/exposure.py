"""What may still be billed for the slots that pairs have: the sums of which `caps` keeps the rules. The letters are
those of its text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Final

from .book import ZERO, Pair

LEASES_SECONDS: Final = (15, 60, 300, 3600)


@dataclass(frozen=True, slots=True)
class Timing:
    """What the bound assumes of time. `shortest_seconds`: no billed answer is faster. `output_tokens_per_second`:
    no stream is faster. `apply_seconds`: from reading a counter to a new cap in force at every gateway.
    `lease_seconds`: the shortest lease, which is always counted."""

    read_seconds: Decimal = Decimal(2)
    apply_seconds: Decimal = Decimal(3)
    lease_seconds: Decimal = Decimal(LEASES_SECONDS[0])
    shortest_seconds: Decimal = Decimal(1)
    output_tokens_per_second: Decimal = Decimal(300)


@dataclass(frozen=True, slots=True)
class Slot:
    """One request in flight: USD it can cost at most, and USD per second the slot can burn if always reused."""

    greatest_usd: Decimal
    burn_usd_per_second: Decimal


@dataclass(frozen=True, slots=True)
class Need:
    """A pair that asks for slots. `wanted` is its weight: slots in use plus refused or foreseen (0: none may be given,
    but what it has in flight still counts). `most` is its ceiling, whatever the money. `in_flight` is the gateways'
    gauge of the same reading; `previous_cap` the greatest cap that can still be in force: the last published and any
    other published within `apply_seconds` (after a change of leader, when those are not known: the gauge).

    `per_minute`: requests that may begin at the provider in a minute, over all its pairs; None: any number.
    `leased_cap`: slots that gateways may hold by a lease longer than the shortest, until they have acknowledged
    something else or it has run out; `leased_seconds`: the longest of those leases."""

    pair: Pair
    slot: Slot
    wanted: int
    in_flight: int = 0
    previous_cap: int = 0
    most: int = 256
    per_minute: int | None = None
    leased_cap: int = 0
    leased_seconds: int = 0


class Exposure:
    """The sum of U over pairs, in USD, as their caps grow. `lease_seconds`: by which those caps are given."""

    def __init__(
        self,
        needs: Iterable[Need],
        given: Mapping[Pair, int],
        timing: Timing,
        lease_seconds: int | Decimal | None = None,
    ) -> None:
        self._timing = timing
        self._lease = timing.lease_seconds if lease_seconds is None else Decimal(lease_seconds)
        self._in_flight = ZERO
        self._providers: dict[str, _Provider] = {}
        for need in needs:
            cap = given.get(need.pair, 0)
            self._in_flight += _in_flight_usd(need, cap)
            self._providers.setdefault(need.pair.provider, _Provider(self._window(0))).take(
                need, self._admitted_usd(need, cap), self._window(need.leased_seconds if need.leased_cap else 0)
            )
        self._admitted = sum((provider.usd for provider in self._providers.values()), ZERO)

    @property
    def usd(self) -> Decimal:
        return self._in_flight + self._admitted

    def grow(self, need: Need, cap: int) -> None:
        """Give that pair, which has `cap` - 1 slots, one more."""
        self._in_flight += _in_flight_usd(need, cap) - _in_flight_usd(need, cap - 1)
        provider = self._providers[need.pair.provider]
        self._admitted -= provider.usd
        provider.slots_usd += self._admitted_usd(need, cap) - self._admitted_usd(need, cap - 1)
        self._admitted += provider.usd

    def _window(self, leased_seconds: int) -> Decimal:
        """W."""
        return self._timing.read_seconds + self._timing.apply_seconds + max(self._lease, Decimal(leased_seconds))

    def _admitted_usd(self, need: Need, cap: int) -> Decimal:
        """E: what the pair's slots may let in."""
        plain = self._by_slots(need, need.previous_cap, cap)
        held = need.leased_cap
        if not held:
            return plain
        cost, burn = need.slot.greatest_usd, need.slot.burn_usd_per_second
        window = self._timing.read_seconds + self._timing.apply_seconds + need.leased_seconds
        beyond = self._by_slots(need, max(0, need.previous_cap - held), max(0, cap - held))
        return max(plain, held * (burn * window + cost) + beyond)

    def _by_slots(self, need: Need, old: int, new: int) -> Decimal:
        """S."""
        cost, burn = need.slot.greatest_usd, need.slot.burn_usd_per_second
        return max(old, new) * (burn * self._timing.apply_seconds + cost) + new * burn * (
            self._timing.read_seconds + self._lease
        )


class _Provider:
    """The pairs of one provider: its requests per minute are theirs together."""

    def __init__(self, window: Decimal) -> None:
        self.slots_usd = ZERO
        self._greatest_usd = ZERO
        self._window = window
        self._per_minute: int | None = 0

    def take(self, need: Need, usd: Decimal, window: Decimal) -> None:
        self.slots_usd += usd
        self._greatest_usd = max(self._greatest_usd, need.slot.greatest_usd)
        self._window = max(self._window, window)
        # All of them say the same; if they did not, only the loosest would be sure, in any order.
        if need.per_minute is None or self._per_minute is None:
            self._per_minute = None
        else:
            self._per_minute = max(self._per_minute, need.per_minute)

    @property
    def usd(self) -> Decimal:
        if self._per_minute is None:
            return self.slots_usd
        return min(self.slots_usd, admitted(self._per_minute, self._window) * self._greatest_usd)


def admitted(per_minute: int, seconds: Decimal) -> Decimal:
    """Requests that a limit per minute lets begin in so many seconds, whatever the gateways had left of the minute."""
    return per_minute * (seconds + 60) / 60


def _in_flight_usd(need: Need, cap: int) -> Decimal:
    return max(need.in_flight, cap) * need.slot.greatest_usd
