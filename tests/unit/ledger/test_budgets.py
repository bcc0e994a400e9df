"""Budgets: periods in the policy's time zone, and what of the money is spent."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spillway.ledger.book import Amount, Book, Entry, Key, add
from spillway.ledger.budgets import (
    Budget,
    DeploymentSpend,
    Policy,
    Scope,
    TopUp,
    period_end,
    period_start,
    statement,
)
from spillway.ledger.zones import UnknownTimeZone

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
ZAI = Key("chat", "glm-5", "external", "zai", "glm-5")
GPU = Key("chat", "glm-5", "gpu", "b200", "glm-5")
ELSEWHERE = Key("batch", "r1", "external", "zai", "deepseek-r1")
SEARCH = Key("search", "r1", "external", "zai", "deepseek-r1")


def booked(*rows: tuple[datetime, Key, str]) -> Book:
    entries = [Entry(int(at.timestamp()), key, Amount(Decimal(usd))) for at, key, usd in rows]
    return add(Book(), entries, int(NOW.timestamp()))


@pytest.mark.parametrize(
    ("zone", "local_noon", "hours"),
    [
        ("Europe/Berlin", "2026-03-29T12:00", 23),
        ("Europe/Berlin", "2026-10-25T12:00", 25),
        ("Europe/Berlin", "2026-11-23T12:00", 24),
        ("Africa/Cairo", "2026-04-24T12:00", 23),  # midnight itself is skipped
        ("America/Havana", "2026-11-01T12:00", 25),  # midnight comes twice
        ("Australia/Lord_Howe", "2026-10-04T12:00", 23.5),
        ("Asia/Kolkata", "2026-11-23T12:00", 24),
    ],
)
def test_a_day_has_its_real_length(zone: str, local_noon: str, hours: float) -> None:
    noon = datetime.fromisoformat(local_noon).replace(tzinfo=ZoneInfo(zone))
    start, end = period_start("Day", zone, noon), period_end("Day", zone, noon)
    assert (end - start) == timedelta(hours=hours)
    assert start <= noon < end
    assert period_end("Day", zone, start) == end
    assert period_end("Day", zone, start - timedelta(seconds=1)) == start
    assert start.timestamp() % 900 == 0, "a day begins on a quarter-hour, where the book has an edge"


def test_a_month_begins_at_local_midnight() -> None:
    assert period_start("Month", "Europe/Berlin", NOW) == datetime(2026, 10, 31, 23, tzinfo=UTC)
    assert period_end("Month", "America/Los_Angeles", NOW) == datetime(2026, 12, 1, 8, tzinfo=UTC)
    assert period_end("Month", "UTC", datetime(2026, 12, 31, 23, 59, tzinfo=UTC)) == datetime(2027, 1, 1, tzinfo=UTC)


@given(
    st.integers(0, 15 * 365 * 86_400),
    st.sampled_from(["UTC", "Europe/Berlin", "America/Havana", "Africa/Cairo", "Asia/Kolkata", "Pacific/Apia"]),
    st.sampled_from(["Day", "Month"]),
)
def test_periods_tile_time(seconds: int, zone: str, period: str) -> None:
    now = datetime(2020, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)
    start, end = period_start(period, zone, now), period_end(period, zone, now)  # type: ignore[arg-type]
    assert start <= now < end
    assert period_start(period, zone, end) == end  # type: ignore[arg-type]
    assert period_end(period, zone, start) == end  # type: ignore[arg-type]


@pytest.mark.parametrize("zone", ["Mars/Olympus", "", "../etc/passwd"])
def test_an_unknown_time_zone_is_the_users_error(zone: str) -> None:
    with pytest.raises(UnknownTimeZone, match="tz database"):
        period_start("Day", zone, NOW)


@pytest.mark.parametrize(("scope", "spent"), [("External", "7"), ("GPU", "4"), ("Total", "11")])
def test_a_budget_counts_its_scope_its_namespaces_and_its_period(scope: Scope, spent: str) -> None:
    book = booked(
        (NOW, ZAI, "5"),
        (NOW - timedelta(hours=2), SEARCH, "2"),
        (NOW - timedelta(hours=2), GPU, "4"),
        (NOW, ELSEWHERE, "100"),
        (NOW - timedelta(hours=14), ZAI, "1000"),
    )
    policy = Policy("assist", frozenset({"chat", "search"}), (Budget("day", "Day", Decimal(20), scope),))
    status = statement(book, policy, NOW)[0]
    assert status.spent == Decimal(spent)
    assert (status.external, status.gpu) == (Decimal(7), Decimal(4))
    assert status.remaining == 20 - Decimal(spent)
    assert status.reserved == 0
    assert not status.exhausted
    assert sum(row.usd for row in status.by_deployment) == status.spent
    if scope == "Total":
        assert status.by_deployment == (
            DeploymentSpend("chat", "glm-5", Decimal(9)),
            DeploymentSpend("search", "r1", Decimal(2)),
        )


def test_a_budget_says_when_it_ends_at_this_burn() -> None:
    book = booked((NOW - timedelta(minutes=6), ZAI, "6"))
    hungry = Policy(
        "p", frozenset({"chat"}), (Budget("day", "Day", Decimal(126)), Budget("month", "Month", Decimal(10**6)))
    )
    day, month = statement(book, hungry, NOW)
    assert day.burn_per_hour == Decimal(60)
    assert day.exhausted_at == NOW + timedelta(hours=2)
    assert month.exhausted_at is None, "the month ends first"


def test_a_spent_budget_says_since_when() -> None:
    since = NOW - timedelta(hours=3)
    book = booked((NOW - timedelta(hours=5), ZAI, "6"), (since, ZAI, "6"), (NOW, ZAI, "1"))
    status = statement(book, Policy("p", frozenset({"chat"}), (Budget("day", "Day", Decimal(10)),)), NOW)[0]
    assert (status.exhausted, status.exhausted_at, status.remaining) == (True, since, Decimal(0))


def test_a_policy_made_in_mid_month_sees_the_whole_month() -> None:
    book = booked((NOW - timedelta(days=20), ZAI, "6"))
    late = Policy("new", frozenset({"chat"}), (Budget("month", "Month", Decimal(10)),), "Europe/Berlin")
    assert statement(book, late, NOW)[0].spent == Decimal(6)


@pytest.mark.parametrize(
    ("until", "amount"),
    [
        (NOW - timedelta(days=1), "100"),  # over before the day began
        (datetime(2026, 11, 23, tzinfo=UTC), "100"),  # at its begin
        (datetime(2026, 11, 23, 6, tzinfo=UTC), "150"),  # ended this morning: the day keeps what it began with
        (NOW + timedelta(days=1), "150"),
    ],
)
def test_a_top_up_counts_in_each_period_that_begins_before_its_end(until: datetime, amount: str) -> None:
    budget = Budget("day", "Day", Decimal(100), top_ups=(TopUp(Decimal(50), until),))
    spent = booked((NOW - timedelta(hours=1), ZAI, "120"))
    [status] = statement(spent, Policy("p", frozenset({"chat"}), (budget,)), NOW)
    assert status.amount == Decimal(amount)
    assert status.remaining == max(Decimal(amount) - 120, Decimal(0))
    assert status.exhausted is (amount == "100")


def test_top_ups_add_up() -> None:
    several = (TopUp(Decimal(50), NOW + timedelta(days=1)), TopUp(Decimal(7), NOW + timedelta(days=2)))
    assert Budget("day", "Day", Decimal(100), top_ups=several).amount_from(NOW) == 157
