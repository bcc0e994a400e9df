"""Sums that follow a book are what adding everything up gives, whatever became of the book in between."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spillway.ledger.book import Amount, Book, Entry, Key, add, fold, total
from spillway.ledger.codec import decode, encode
from spillway.ledger.sums import PERIODS_KEPT, Sums

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
KEYS = [Key(f"team-{n % 3}", f"m{n}", "external" if n % 2 else "gpu", "zai", "glm-5") for n in range(6)]

spends = st.tuples(
    st.just("spend"),
    st.lists(st.tuples(st.integers(0, 50 * 96), st.sampled_from(KEYS), st.integers(1, 10**12)), min_size=1, max_size=4),
)
others: st.SearchStrategy[tuple[str, list[tuple[int, Key, int]]]] = st.tuples(
    st.sampled_from(("fold", "read again", "look", "older")), st.just([])
)
PERIODS = [(None, None), (NOON - timedelta(days=1), None), (NOON - timedelta(hours=7), NOON + timedelta(hours=9))]


@given(st.lists(spends | others, max_size=25))
def test_sums_are_totals(steps: list[tuple[str, list[tuple[int, Key, int]]]]) -> None:
    sums, book, books, now = Sums(), Book(), [Book()], NOON
    for what, spent in steps:
        match what:
            case "spend":
                entries = [
                    Entry(
                        int((now - timedelta(minutes=15 * ago)).timestamp()),
                        key,
                        Amount(Decimal(n).scaleb(-9), n, gpu_seconds=n),
                    )
                    for ago, key, n in spent
                ]
                book = add(book, entries, int(now.timestamp()))
            case "fold":
                now += timedelta(hours=9)
                book = fold(book, now)
            case "read again":
                book = decode(encode(book))
            case "older":
                book = books[len(books) // 2]
        books.append(book)
        for start, end in PERIODS:
            found = sums.of(book, start, end)
            flat = {key: amount for own in found.values() for key, amount in own.items()}
            assert flat == total(book, start, end)
            assert all(key.namespace == namespace for namespace, own in found.items() for key in own)
        by_namespace = {ns: sums.minutes(book, ns) for ns in ("team-0", "team-1", "team-2", "nobody")}
        for minute, by_key in book.minutes.items():
            assert by_key == {k: usd for own in by_namespace.values() for k, usd in own.get(minute, {}).items()}


def test_old_periods_are_forgotten() -> None:
    sums, book = Sums(), add(Book(), [Entry(int(NOON.timestamp()), KEYS[0], Amount(Decimal(1)))], 0)
    for day in range(PERIODS_KEPT + 10):
        sums.of(book, NOON - timedelta(days=day))
    assert len(sums._periods) == PERIODS_KEPT
    assert sums.of(book, NOON)[KEYS[0].namespace] == {KEYS[0]: Amount(Decimal(1))}


def test_what_did_not_change_is_not_added_again(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = int(NOON.timestamp())
    old = [Entry(seconds - 900 * n, KEYS[n % 6], Amount(Decimal(n))) for n in range(400)]
    book, sums = add(Book(), old, seconds), Sums()
    sums.of(book)
    book = add(book, [Entry(seconds, KEYS[0], Amount(Decimal(5)))], seconds)
    expected, additions, plain = total(book)[KEYS[0]], [], Amount.__add__

    def counted(one: Amount, other: Amount) -> Amount:
        additions.append(other)
        return plain(one, other)

    monkeypatch.setattr(Amount, "__add__", counted)
    assert sums.of(book)["team-0"][KEYS[0]] == expected
    assert additions == [Amount(Decimal(5))]
