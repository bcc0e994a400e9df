"""Where the money went: every grouping has the same total, and nobody's days are anybody else's."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spillway.ledger import IDLE, Amount, Book, Key, UnknownTimeZone, fold
from spillway.ledger.bill import COLUMNS, Column, months_cut, rows, total
from spillway.ledger.book import Entry, add

NOON = datetime(2026, 11, 26, 12, tzinfo=UTC)
KEYS = (
    Key("chat", "glm-5", "external", "zai", "glm-5"),
    Key("chat", "glm-5", "external", "deepinfra", "glm-5"),
    Key("chat", "glm-5", "gpu", "b200", ""),
    Key("search", "deepseek-r1", "gpu", "b200", ""),
)


def book(*entries: tuple[datetime, Key, str]) -> Book:
    found = [Entry(int(at.timestamp()), key, Amount(Decimal(usd), 10, Decimal(0))) for at, key, usd in entries]
    return add(Book(), found, int(NOON.timestamp()))


ENTRIES = st.lists(
    st.tuples(
        st.integers(0, 200 * 86_400),
        st.sampled_from(KEYS),
        st.decimals("0", "1e6", places=9, allow_nan=False, allow_infinity=False),
        st.booleans(),
    ),
    max_size=20,
)


@given(
    entries=ENTRIES, by=st.lists(st.sampled_from(COLUMNS), min_size=1, max_size=4, unique=True), folded=st.booleans()
)
def test_every_grouping_has_the_same_total_to_the_last_digit(
    entries: list[tuple[int, Key, Decimal, bool]], by: list[Column], folded: bool
) -> None:
    now = int(NOON.timestamp())
    kept = add(
        Book(),
        [Entry(now - ago, key, Amount(usd, 1, usd if guess else Decimal(0))) for ago, key, usd, guess in entries],
        now,
    )
    found = rows(fold(kept, NOON) if folded else kept, by, "Asia/Kathmandu")
    whole = total(found).amount
    assert whole.usd == sum((usd for _, _, usd, _ in entries), Decimal(0))
    assert whole.estimated_usd == sum((usd for _, _, usd, guess in entries if guess), Decimal(0))
    assert whole.tokens == len(entries)
    assert len({row.values for row in found}) == len(found)


def test_columns_name_who_was_paid() -> None:
    one = book((NOON, KEYS[0], "2"), (NOON, KEYS[2], "30"), (NOON, KEYS[3], "5"))
    by: tuple[Column, ...] = ("team", "deployment", "source", "provider", "pool", "supplier", "model")
    assert [row.values for row in rows(one, by)] == [
        ("chat", "chat/glm-5", "gpu", "-", "b200", "b200", "-"),
        ("search", "search/deepseek-r1", "gpu", "-", "b200", "b200", "-"),
        ("chat", "chat/glm-5", "external", "zai", "-", "zai", "glm-5"),
    ]
    assert [row.values for row in rows(one, by, namespace="search")] == [
        ("search", "search/deepseek-r1", "gpu", "-", "b200", "b200", "-")
    ]


def test_corrections_and_idle_gpus_are_told_apart() -> None:
    corrected, idle = KEYS[0]._replace(adjustment="inv-1"), Key(IDLE, IDLE, "gpu", "b200", "")
    one = book((NOON, KEYS[0], "5"), (NOON, corrected, "-2"), (NOON, KEYS[3], "1"), (NOON, idle, "7"))
    by: tuple[Column, ...] = ("team", "deployment", "charge")
    assert [(*row.values, int(row.amount.usd), int(row.adjusted_usd)) for row in rows(one, by)] == [
        ("(idle)", "(idle)", "idle", 7, 0),
        ("chat", "chat/glm-5", "usage", 5, 0),
        ("search", "search/deepseek-r1", "usage", 1, 0),
        ("chat", "chat/glm-5", "adjustment", -2, -2),
    ]
    assert [(*row.values, int(row.amount.usd), int(row.adjusted_usd)) for row in rows(one, ("source",))] == [
        ("gpu", 8, 0),
        ("external", 3, -2),
    ]
    assert total(rows(one, by)).adjusted_usd == -2


def test_days_are_those_of_the_zone_and_in_order() -> None:
    late = datetime(2026, 11, 25, 23, 30, tzinfo=UTC)
    one = book((NOON, KEYS[0], "1"), (late, KEYS[0], "9"))
    assert [row.values[0] for row in rows(one, ("day",))] == ["2026-11-25", "2026-11-26"]
    assert [row.values[0] for row in rows(one, ("day",), "Europe/Berlin")] == ["2026-11-26"]
    assert [row.values[0] for row in rows(one, ("month",), "Europe/Berlin")] == ["2026-11"]


def test_old_amounts_keep_their_day_then_their_month() -> None:
    one = fold(book((NOON - timedelta(days=10), KEYS[0], "1"), (NOON - timedelta(days=100), KEYS[0], "2")), NOON)
    # Ten days ago stands in a whole UTC day, which is no day of America/Los_Angeles: its own name is kept.
    assert [(row.values[0], row.amount.usd) for row in rows(one, ("day",), "America/Los_Angeles")] == [
        ("2026-08", Decimal(2)),
        ("2026-11-16", Decimal(1)),
    ]


def test_a_range_begins_with_its_start_and_ends_before_its_end() -> None:
    one = book((NOON - timedelta(hours=1), KEYS[0], "1"), (NOON, KEYS[0], "2"))
    [row] = rows(one, ("team",), start=NOON - timedelta(hours=1), end=NOON)
    assert row.amount.usd == 1
    [row] = rows(one, ("team",), start=NOON)
    assert row.amount.usd == 2


@pytest.mark.parametrize(
    ("start", "end", "cut"),
    [
        ("2026-08-01T00:00", "2026-09-01T00:00", ()),
        ("2026-07-31T22:00", "2026-08-31T22:00", ()),  # Berlin's August
        ("2026-08-10T00:00", "2026-09-01T00:00", ("2026-08",)),
        ("2026-01-01T00:00", "2026-08-30T00:00", ("2026-08",)),
        ("2026-09-02T00:00", "2026-09-03T00:00", ()),
        ("2026-11-16T06:00", "2026-11-16T07:00", ()),  # a whole day is not cut, it counts where it begins
    ],
)
def test_a_month_without_days_cannot_be_cut(start: str, end: str, cut: tuple[str, ...]) -> None:
    old = datetime(2026, 8, 18, tzinfo=UTC)
    one = fold(book((old, KEYS[0], "2"), (NOON - timedelta(days=10), KEYS[0], "1")), NOON)
    bounds = (datetime.fromisoformat(text).replace(tzinfo=UTC) for text in (start, end))
    assert months_cut(one, *bounds) == cut


def test_a_zone_that_nobody_knows_is_refused() -> None:
    with pytest.raises(UnknownTimeZone, match="Europe/Berlin"):
        rows(Book(), ("day",), "Mars/Base")
