"""The money of a world: what each budget has left of its period, and what it was in the periods before.

As the ledger has it: External counts API dollars, GPU those of replicas, Total both; periods are calendar days and
months of the policy's time zone, real ones of 23, 24 or 25 hours. Dollars count when they fall due: rent by the bin,
the rest of a minimum billing and the drain at the stop.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

from spillway.ledger import period_end, period_start
from spillway.simulate.world import VirtualBudget, World


@dataclass(frozen=True, slots=True)
class Spent:
    """Of one budget in one period, from `starts_at` to `ends_at` (Unix seconds)."""

    starts_at: float
    ends_at: float
    usd: float
    of_usd: float


class Account:
    """One budget's money in the period of now."""

    def __init__(self, budget: VirtualBudget, begin: float) -> None:
        self.budget = budget
        self.external = budget.scope != "GPU"
        self.gpu = budget.scope != "External"
        self.spent_usd = 0.0
        self._begin = begin
        self._past: list[Spent] = []
        self.starts_at, self.ends_at = span(budget, begin, begin)

    @property
    def usd(self) -> float:
        """What there is for the period, top-ups included."""
        return self.budget.usd + sum(usd for usd, until in self.budget.top_ups if self.starts_at < until)

    @property
    def left_usd(self) -> float:
        """Below zero: a Total budget that replicas went on to use."""
        return self.usd - self.spent_usd

    def turn(self, now: float) -> None:
        """Begin the next period, if now (Unix seconds) is in it."""
        if now >= self.ends_at:
            self._past.append(Spent(self.starts_at, self.ends_at, self.spent_usd, self.usd))
            self.spent_usd = 0.0
            self.starts_at, self.ends_at = span(self.budget, self._begin, now)

    @property
    def periods(self) -> tuple[Spent, ...]:
        """All periods, the present one last."""
        return (*self._past, Spent(self.starts_at, self.ends_at, self.spent_usd, self.usd))


def span(budget: VirtualBudget, begin: float, now: float) -> tuple[float, float]:
    """The period that contains `now`; Unix seconds. Raises UnknownTimeZone."""
    if budget.period is None:
        start = begin + (now - begin) // budget.period_seconds * budget.period_seconds
        return start, start + budget.period_seconds
    moment = datetime.fromtimestamp(now, UTC)
    start_at = period_start(budget.period, budget.time_zone, moment)
    return start_at.timestamp(), period_end(budget.period, budget.time_zone, moment).timestamp()


def accounts(world: World) -> tuple[Account, ...]:
    """Of all budgets, full."""
    return tuple(Account(b, world.begin) for b in world.budgets)


def counting(found: Iterable[Account], key: str) -> tuple[Account, ...]:
    """Those that count the dollars of that deployment."""
    return tuple(a for a in found if a.budget.counts(key))
