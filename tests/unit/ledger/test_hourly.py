"""The last 60 minutes: what is counted, when it opens again, and what older ledgers know of it."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from spillway.ledger.book import Amount, Book, Entry, Key, Pair, add
from spillway.ledger.budgets import Policy
from spillway.ledger.caps import caps, why_none
from spillway.ledger.codec import decode, encode
from spillway.ledger.exposure import Need, Slot, Timing
from spillway.ledger.hourly import hour_limit, last_hour

NOW = datetime(2026, 11, 23, 12, 7, 30, tzinfo=UTC)
ZAI = Key("chat", "glm-5", "external", "zai", "glm-5")
OTHER = Key("search", "r1", "external", "zai", "glm-5")
GPU = Key("chat", "glm-5", "gpu", "b200", "glm-5")
POLICY = Policy("team", frozenset({"chat"}), (), max_per_hour=Decimal(10))


def spent(*rows: tuple[float, str, Key], now: datetime = NOW, book: Book | None = None) -> Book:
    """So many minutes ago, so many dollars, each booked when it was spent."""
    book = book or Book()
    for ago, usd, key in sorted(rows, key=lambda row: -row[0]):
        at = int((now - timedelta(minutes=ago)).timestamp())
        book = add(book, [Entry(at, key, Amount(Decimal(usd)))], at)
    return book


def test_without_a_limit_there_is_no_hour() -> None:
    assert last_hour(spent((1, "5", ZAI)), Policy("team", frozenset({"chat"}), ()), NOW) is None


def test_only_what_the_namespaces_spent_outside_counts() -> None:
    status = last_hour(
        spent((1, "5", ZAI), (59, "2", ZAI), (62, "3", ZAI), (1, "7", OTHER), (1, "9", GPU)), POLICY, NOW
    )
    assert status is not None
    assert (status.spent, status.remaining, status.opens_at) == (Decimal(7), Decimal(3), None)


def test_a_correction_frees_nothing_of_the_hour() -> None:
    book = spent((2, "5", ZAI), (1, "-4", ZAI._replace(adjustment="invoice-9")))
    for one in (book, decode(encode(book))):
        status = last_hour(one, POLICY, NOW)
        assert status is not None and status.spent == Decimal(5)


def test_it_opens_when_enough_is_more_than_an_hour_ago() -> None:
    status = last_hour(spent((50, "4", ZAI), (40, "2", ZAI), (1, "9", ZAI)), POLICY, NOW)
    assert status is not None and status.exhausted and status.remaining == 0
    # With 15 of 10 spent, the first two must go: the second, of 11:27, counts until 12:28.
    assert status.opens_at == datetime(2026, 11, 23, 12, 28, tzinfo=UTC)
    book = spent((50, "4", ZAI), (40, "2", ZAI), (1, "9", ZAI))
    before, after = (last_hour(book, POLICY, status.opens_at + timedelta(seconds=s)) for s in (-1, 0))
    assert before is not None and before.exhausted
    assert after is not None and not after.exhausted


@given(st.lists(st.tuples(st.integers(0, 7200), st.integers(0, 10**6)), max_size=30))
def test_any_60_minutes_are_counted(rows: list[tuple[int, int]]) -> None:
    book = Book()
    for ago, milli in sorted(rows, reverse=True):
        at = int(NOW.timestamp()) - ago
        book = add(book, [Entry(at, ZAI, Amount(Decimal(milli).scaleb(-3)))], at)
    status = last_hour(book, POLICY, NOW)
    assert status is not None
    exact, most = (sum(milli for ago, milli in rows if ago < limit) for limit in (3600, 3660))
    assert Decimal(exact).scaleb(-3) <= status.spent <= Decimal(most).scaleb(-3)


def test_a_charge_ahead_of_the_clock_is_not_forgotten() -> None:
    """The next leader's clock may be behind."""
    at = int(NOW.timestamp())
    book = add(Book(), [Entry(at + 120, ZAI, Amount(Decimal(5)))], at + 120)
    status = last_hour(add(book, [Entry(at, ZAI, Amount(Decimal(1)))], at), POLICY, NOW)
    assert status is not None and status.spent == Decimal(6)


def test_a_ledger_of_before_counts_its_last_quarters_for_too_long_rather_than_too_short() -> None:
    book = spent((1, "5", ZAI), (59, "2", ZAI), (300, "100", ZAI), (2, "50", GPU))
    assert decode(encode(book)) == book
    document = json.loads(encode(book))
    del document["hour"]
    old = decode(json.dumps(document))
    status = last_hour(old, POLICY, NOW)
    assert status is not None and status.spent == Decimal(7)
    later = last_hour(old, POLICY, NOW + timedelta(minutes=66))
    assert later is not None and later.spent == Decimal(5), "until the end of its quarter is an hour ago"
    assert last_hour(
        add(old, [Entry(int(NOW.timestamp()), ZAI, Amount(Decimal(1)))], int(NOW.timestamp())), POLICY, NOW
    )


def test_a_spent_hour_stops_spill_and_says_so() -> None:
    need = Need(Pair("chat", "glm-5", "zai", "glm-5"), Slot(Decimal("0.01"), Decimal("0.002")), 1)
    open_, shut = (last_hour(spent((5, usd, ZAI)), POLICY, NOW) for usd in ("4", "10"))
    assert open_ is not None and shut is not None
    limit = hour_limit(POLICY, open_)
    assert limit.bound_usd == Decimal("0.50")
    assert caps([need], [limit], Timing())[need.pair] == 50, "rule 2: five per cent of $10 at a cent each"
    spent_limit = hour_limit(POLICY, shut)
    assert caps([need], [spent_limit], Timing())[need.pair] == 0
    code, words = why_none(need, [spent_limit], Timing())
    assert code == "BudgetSpent"
    assert words == "spill.maxPerHour of CostPolicy team ($10 in any 60 minutes) is spent"
    trial = Policy("team", POLICY.namespaces, (), dry_run=True, max_per_hour=Decimal(10))
    assert caps([need], [hour_limit(trial, shut)], Timing())[need.pair] == 50
