"""The book: buckets, folding, burn rate."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal

from hypothesis import given, settings
from hypothesis import strategies as st

from spillway.ledger.book import Amount, Book, Entry, Key, add, burn_usd_per_hour, fold, total
from spillway.ledger.budgets import period_start

KEY = Key("chat", "glm-5", "external", "zai", "glm-5")
OTHER = Key("search", "r1", "gpu", "h200", "deepseek-r1")
NOW = datetime(2026, 11, 23, 12, 7, tzinfo=UTC)
ZONES = ("UTC", "Asia/Kolkata", "Asia/Kathmandu", "Pacific/Kiritimati", "Pacific/Pago_Pago", "America/St_Johns")
moments = st.integers(0, 183 * 86_400).map(
    lambda seconds: datetime(2026, 8, 1, tzinfo=UTC) + timedelta(seconds=seconds)
)
money = st.integers(0, 10**12).map(lambda nano: Decimal(nano).scaleb(-9))


def booked(rows: list[tuple[datetime, Decimal]], key: Key = KEY) -> Book:
    return add(Book(), [Entry(int(at.timestamp()), key, Amount(usd, 1, usd)) for at, usd in rows], int(NOW.timestamp()))


def usd(book: Book, start: datetime | None = None, end: datetime | None = None) -> Decimal:
    return sum((amount.usd for amount in total(book, start, end).values()), Decimal(0))


@given(st.lists(st.tuples(moments, money), max_size=40))
def test_buckets_add_up_to_the_total(rows: list[tuple[datetime, Decimal]]) -> None:
    book = booked(rows)
    assert usd(book) == sum((amount for _, amount in rows), Decimal(0))
    assert sum((bucket[KEY].tokens for bucket in book.spans.values()), 0) == len(rows)


@settings(max_examples=200)
@given(
    st.lists(st.tuples(moments, money), max_size=40),
    st.lists(moments, max_size=4),
    st.sampled_from(ZONES),
    st.sampled_from(["Day", "Month"]),
)
def test_folding_never_changes_the_total_nor_the_running_day_or_month_of_any_zone(
    rows: list[tuple[datetime, Decimal]], folds: list[datetime], zone: str, period: str
) -> None:
    # `now` is after everything that was charged and folded.
    now = max([at for at, _ in rows] + folds, default=NOW)
    start = period_start(period, zone, now)  # type: ignore[arg-type]
    book = booked(rows)
    for at in [*sorted(folds), now]:
        book = fold(book, at)
    assert usd(book) == sum((amount for _, amount in rows), Decimal(0))
    assert usd(book, start) == sum((amount for at, amount in rows if at >= start), Decimal(0))
    assert fold(book, now) is book, "folding twice changes nothing"


def test_a_day_that_has_just_become_old_enough_for_its_month_goes_there_at_once() -> None:
    now = datetime(2026, 9, 16, 0, 0, 1, tzinfo=UTC)
    folded = fold(booked([(datetime(2026, 8, 7, 0, 15, tzinfo=UTC), Decimal(1))]), now)
    assert [span.quarters for span in folded.spans] == [31 * 96]
    assert fold(folded, now) is folded


def test_a_busy_quarter_folds_to_few_buckets() -> None:
    quarter = timedelta(minutes=15)
    book = booked([(NOW - number * quarter, Decimal("0.1")) for number in range(120 * 96)])
    folded = fold(book, NOW)
    assert len(book.spans) == 11520
    assert len(folded.spans) < 620
    assert len(fold(book, NOW, quarters=4).spans) < 300
    assert usd(folded) == usd(book) == Decimal("1152.0")


def test_what_is_older_than_thirteen_months_is_dropped() -> None:
    book = booked([(NOW, Decimal(1)), (NOW - timedelta(days=380), Decimal(2)), (NOW - timedelta(days=470), Decimal(4))])
    assert usd(fold(book, NOW)) == Decimal(3)


def test_burn_rate_is_of_the_last_ten_minutes_and_of_what_is_selected() -> None:
    book = booked([(NOW - timedelta(minutes=minutes), Decimal("0.60")) for minutes in range(30)])
    assert burn_usd_per_hour(book.minutes, NOW, lambda key: True) == Decimal(
        40
    )  # ten minutes' bookings over nine minutes
    assert burn_usd_per_hour(book.minutes, NOW, lambda key: key == OTHER) == 0
    begun = booked([(NOW, Decimal("0.60"))])
    assert burn_usd_per_hour(begun.minutes, NOW, lambda key: True) == Decimal(36), "at least a minute is looked at"
    assert burn_usd_per_hour(begun.minutes, NOW + timedelta(minutes=11), lambda key: True) == 0


def test_a_booking_ahead_of_time_does_not_erase_the_burn_rate() -> None:
    book = booked([(NOW, Decimal(1))])
    ahead = [Entry(int((NOW + timedelta(hours=1)).timestamp()), OTHER, Amount(Decimal(5)))]
    book = add(book, ahead, int(NOW.timestamp()))
    assert burn_usd_per_hour(book.minutes, NOW, lambda key: True) == Decimal(60)
