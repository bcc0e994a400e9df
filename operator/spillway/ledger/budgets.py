"""Budgets: what of a policy's money is spent, in periods of the policy's own time zone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Literal, NamedTuple
from zoneinfo import ZoneInfo

from .book import ZERO, Amount, Book, Key, burn_usd_per_hour, within
from .sums import Sums
from .zones import zone_of

Period = Literal["Day", "Month"]
Scope = Literal["External", "GPU", "Total"]


class TopUp(NamedTuple):
    """USD more in each period that begins before `until`: never less in the middle of one."""

    amount: Decimal
    until: datetime


@dataclass(frozen=True, slots=True)
class Budget:
    """One budget of a policy: `amount` USD per `period` for the dollars of `scope`, and what was added for a time."""

    name: str
    period: Period
    amount: Decimal
    scope: Scope = "External"
    top_ups: tuple[TopUp, ...] = ()

    def amount_from(self, start: datetime) -> Decimal:
        """USD of the period that begins at `start`."""
        return self.amount + sum((t.amount for t in self.top_ups if start < t.until), ZERO)


@dataclass(frozen=True, slots=True)
class Policy:
    """A CostPolicy as the ledger sees it: the namespaces that its selector matches now, and its budgets. `dry_run`:
    what they would stop is told, not stopped. `max_per_hour`: USD outside in any 60 minutes."""

    name: str
    namespaces: frozenset[str]
    budgets: tuple[Budget, ...]
    time_zone: str = "UTC"
    suspended: bool = False
    dry_run: bool = False
    max_per_hour: Decimal | None = None


@dataclass(frozen=True, slots=True)
class DeploymentSpend:
    namespace: str
    deployment: str
    usd: Decimal


@dataclass(frozen=True, slots=True)
class BudgetStatus:
    """A budget at one moment. USD throughout.

    `spent` counts what is in the budget's scope, `external` and `gpu` the two sources whatever the scope.
    `estimated` is the part of `spent` that no meter has confirmed. `reserved` is what may still be in flight.
    `remaining` is amount - spent, never below zero. `exhausted_at`: when the budget was used up (to the
    quarter-hour), else when it will be at the present burn, else (it lasts until it resets) None.
    """

    policy: str
    name: str
    scope: Scope
    period: Period
    period_start: datetime
    resets_at: datetime
    amount: Decimal
    spent: Decimal
    external: Decimal
    gpu: Decimal
    estimated: Decimal
    reserved: Decimal
    remaining: Decimal
    burn_per_hour: Decimal
    exhausted: bool
    exhausted_at: datetime | None
    by_deployment: tuple[DeploymentSpend, ...]


def period_start(period: Period, time_zone: str, now: datetime) -> datetime:
    """When the period that contains `now` began, in UTC."""
    zone = zone_of(time_zone)
    today = now.astimezone(zone).date()
    return _midnight(today if period == "Day" else today.replace(day=1), zone)


def period_end(period: Period, time_zone: str, now: datetime) -> datetime:
    """When the period that contains `now` ends (and the next begins), in UTC: a day has 23, 24 or 25 hours."""
    zone = zone_of(time_zone)
    today = now.astimezone(zone).date()
    if period == "Day":
        return _midnight(today + timedelta(days=1), zone)
    return _midnight((today.replace(day=1) + timedelta(days=32)).replace(day=1), zone)


def statement(book: Book, policy: Policy, now: datetime, sums: Sums | None = None) -> tuple[BudgetStatus, ...]:
    """Every budget of the policy at `now`, in its order, with nothing reserved. `sums` have followed the book so far;
    without them everything is added up."""
    known = sums or Sums()
    return tuple(_status(book, policy, budget, now, known) for budget in policy.budgets)


def _status(book: Book, policy: Policy, budget: Budget, now: datetime, known: Sums) -> BudgetStatus:
    start = period_start(budget.period, policy.time_zone, now)
    end = period_end(budget.period, policy.time_zone, now)

    def in_scope(key: Key) -> bool:
        return budget.scope == "Total" or key.source == budget.scope.lower()

    by_namespace = known.of(book, start, end)
    sums: dict[Key, Amount] = {}
    minutes: dict[int, dict[Key, Decimal]] = {}
    for namespace in policy.namespaces:
        sums.update(by_namespace.get(namespace, {}))
        for minute, by_key in known.minutes(book, namespace).items():
            minutes.setdefault(minute, {}).update(by_key)
    scoped = {key: entry for key, entry in sums.items() if in_scope(key)}
    amount = budget.amount_from(start)
    spent = sum((entry.usd for entry in scoped.values()), ZERO)
    remaining = max(ZERO, amount - spent)
    burn = burn_usd_per_hour(minutes, now, in_scope)
    exhausted = spent >= amount
    by_deployment: dict[tuple[str, str], Decimal] = {}
    for key, entry in scoped.items():
        owner = (key.namespace, key.deployment)
        by_deployment[owner] = by_deployment.get(owner, ZERO) + entry.usd
    return BudgetStatus(
        policy=policy.name,
        name=budget.name,
        scope=budget.scope,
        period=budget.period,
        period_start=start,
        resets_at=end,
        amount=amount,
        spent=spent,
        external=sum((entry.usd for key, entry in sums.items() if key.source == "external"), ZERO),
        gpu=sum((entry.usd for key, entry in sums.items() if key.source == "gpu"), ZERO),
        estimated=sum((entry.estimated_usd for entry in scoped.values()), ZERO),
        reserved=ZERO,
        remaining=remaining,
        burn_per_hour=burn,
        exhausted=exhausted,
        exhausted_at=_passed(book, scoped, amount, start, end) if exhausted else _forecast(now, end, remaining, burn),
        by_deployment=tuple(DeploymentSpend(*owner, by_deployment[owner]) for owner in sorted(by_deployment)),
    )


def _forecast(now: datetime, end: datetime, remaining: Decimal, burn_per_hour: Decimal) -> datetime | None:
    if burn_per_hour <= 0:
        return None
    hours_left = Decimal((end - now).total_seconds()) / 3600
    hours = remaining / burn_per_hour
    return now + timedelta(hours=float(hours)) if hours < hours_left else None


def _passed(
    book: Book, scoped: Mapping[Key, Amount], amount: Decimal, start: datetime, end: datetime
) -> datetime | None:
    """The beginning of the bucket in which the spend reached the amount."""
    spent = ZERO
    for span in sorted(book.spans):
        if within(span, start, end):
            bucket = book.spans[span]
            spent += sum((bucket[key].usd for key in scoped if key in bucket), ZERO)
            if spent >= amount:
                return span.begins
    return None


def _midnight(day: date, zone: ZoneInfo) -> datetime:
    """The first moment of a local day. Where clocks skip midnight this is the moment of the skip: a time in the gap
    is read with the offset before it (fold=0); where midnight comes twice it is the first."""
    return datetime(day.year, day.month, day.day, tzinfo=zone).astimezone(UTC)
