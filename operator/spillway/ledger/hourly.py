"""What a policy's namespaces may spend outside in any 60 minutes (`spill.maxPerHour`): one more limit of `caps`.

The proof there holds for it as for a budget, with R = amount - what was spent in the 60 minutes before the reading:
what is spent in any 60 minutes is at most that part of them which the last reading before a stop knew, and U. Whole
minutes are counted, so a dollar counts for 60 to 61 of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Final

from .book import HOUR_MINUTES, ZERO, Book
from .budgets import Policy
from .caps import Limit

MAX_PER_HOUR: Final = "maxPerHour"
"""Its name among the budgets' (which have no capital letters)."""
HOUR_SHARE: Final = Decimal("0.05")
"""By how much an hour may pass its amount. It steers the pace, while the budgets keep their own bound."""


@dataclass(frozen=True, slots=True)
class HourStatus:
    """The last 60 minutes of a policy, in USD. `opens_at`: when less than the amount will have been spent in the last
    60 minutes, if nothing more is; None while there is something left."""

    amount: Decimal
    spent: Decimal
    remaining: Decimal
    opens_at: datetime | None

    @property
    def exhausted(self) -> bool:
        return self.opens_at is not None


def last_hour(book: Book, policy: Policy, now: datetime) -> HourStatus | None:
    """Where the policy's hour stands at `now`; None without one."""
    if policy.max_per_hour is None:
        return None
    oldest = int(now.timestamp()) // 60 - HOUR_MINUTES
    by_minute = {
        minute: sum((usd for namespace, usd in spent.items() if namespace in policy.namespaces), ZERO)
        for minute, spent in book.hour.items()
        if minute >= oldest
    }
    spent = sum(by_minute.values(), ZERO)
    left = policy.max_per_hour - spent
    opens_at = _opens_at(by_minute, policy.max_per_hour) if left <= 0 else None
    return HourStatus(policy.max_per_hour, spent, max(ZERO, left), opens_at)


def hour_limit(policy: Policy, status: HourStatus) -> Limit:
    """What it leaves to spill. A policy on trial allows what its whole amount would."""
    return Limit(
        policy.name,
        MAX_PER_HOUR,
        policy.namespaces,
        status.amount,
        status.amount if policy.dry_run else status.remaining,
        HOUR_SHARE,
        words=words(policy.name, status),
    )


def words(policy: str, status: HourStatus) -> str:
    """`spill.maxPerHour of CostPolicy team ($60 in any 60 minutes)`"""
    return f"spill.maxPerHour of CostPolicy {policy} (${status.amount} in any 60 minutes)"


def _opens_at(by_minute: Mapping[int, Decimal], amount: Decimal) -> datetime:
    """When enough of the oldest minutes are more than 60 minutes ago."""
    left, last = sum(by_minute.values(), ZERO), min(by_minute)
    for last in sorted(by_minute):
        left -= by_minute[last]
        if left < amount:
            break
    return datetime.fromtimestamp((last + HOUR_MINUTES + 1) * 60, UTC)
