"""GPU dollars: every second from scheduled to gone, whoever looks and however often."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spillway.ledger.book import Book, Key, total
from spillway.ledger.gpu import PodUsage, PoolPrice, charge_pods

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
PRICES = {"b200": PoolPrice(Decimal("4.20"))}
POD = PodUsage("uid-1", "chat", "glm-5", "b200", "glm-5", 4, NOON)
KEY = Key("chat", "glm-5", "gpu", "b200", "glm-5")


def spent(book: Book) -> Decimal:
    return sum((amount.usd for amount in total(book).values()), Decimal(0))


def after(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


def test_an_hour_of_four_gpus() -> None:
    book = charge_pods(Book(), [POD], PRICES, after(3600)).book
    assert total(book) == {KEY: replace(total(book)[KEY], usd=Decimal("16.80"))}
    assert len(book.spans) == 4, "an hour is four quarter-hours"
    assert {bucket[KEY].usd for bucket in book.spans.values()} == {Decimal("4.2")}
    assert {bucket[KEY].gpu_seconds for bucket in book.spans.values()} == {4 * 900}


@given(st.lists(st.integers(1, 100_000), max_size=12), st.integers(1, 100_000))
def test_how_often_one_looks_never_changes_the_sum(looks: list[int], lifetime: int) -> None:
    book = Book()
    for look in sorted(seconds for seconds in looks if seconds <= lifetime):
        book = charge_pods(book, [POD], PRICES, after(look)).book
    ended = replace(POD, ended=after(lifetime))
    book = charge_pods(book, [ended], PRICES, after(lifetime + 5)).book
    assert spent(book) == (4 * Decimal("4.20") * lifetime / 3600).quantize(Decimal("1e-9"))
    assert total(book)[KEY].gpu_seconds == 4 * lifetime


def test_an_ended_pod_is_charged_once_while_it_stays_in_the_cache_and_after() -> None:
    ended = replace(POD, ended=after(1800))
    book = charge_pods(Book(), [ended], PRICES, after(1800)).book
    for later in (2000, 90_000, 200_000):
        book = charge_pods(book, [ended], PRICES, after(later)).book
    book = charge_pods(book, [], PRICES, after(300_000)).book
    assert spent(book) == Decimal("8.40")
    assert not book.pods


def test_a_finished_pod_that_stays_listed_ends_where_that_was_seen_first() -> None:
    """Evicted pods stay for days; nobody says when they ended but who looks."""
    book = charge_pods(Book(), [POD], PRICES, after(1700)).book
    for look in (1800, 1802, 90_000):
        book = charge_pods(book, [replace(POD, ended=after(look))], PRICES, after(look)).book
    assert spent(book) == Decimal("8.40")


def test_a_pod_that_went_unseen_is_charged_until_its_absence_was_seen() -> None:
    book = charge_pods(Book(), [POD], PRICES, after(60)).book
    book = charge_pods(book, [], PRICES, after(3600)).book
    assert spent(book) == Decimal("16.80")
    # A list that had missed it: nothing twice.
    book = charge_pods(book, [POD], PRICES, after(7200)).book
    assert spent(book) == Decimal("33.60")


@pytest.mark.parametrize(("lifetime", "billed"), [(60, 600), (600, 600), (900, 900)])
def test_minimum_billing(lifetime: int, billed: int) -> None:
    prices = {"b200": PoolPrice(Decimal("4.20"), 600)}
    book = charge_pods(Book(), [POD], prices, after(30)).book
    book = charge_pods(book, [replace(POD, ended=after(lifetime))], prices, after(lifetime + 1)).book
    book = charge_pods(book, [], prices, after(lifetime + 60)).book
    assert spent(book) == 4 * Decimal("4.20") * billed / 3600


def test_a_new_price_counts_from_when_it_is_seen() -> None:
    book = charge_pods(Book(), [POD], PRICES, after(1800)).book
    book = charge_pods(book, [POD], {"b200": PoolPrice(Decimal("8.40"))}, after(3600)).book
    assert spent(book) == Decimal("16.80")
    book = charge_pods(book, [POD], {"b200": PoolPrice(Decimal("8.40"))}, after(5400)).book
    assert spent(book) == Decimal("33.60")


def test_a_pool_without_a_price_is_said_and_charged_later() -> None:
    charged = charge_pods(Book(), [POD], {}, after(1800))
    assert spent(charged.book) == 0
    assert "no price" in charged.problems[0]
    book = charge_pods(charged.book, [POD], PRICES, after(3600)).book
    assert spent(book) == Decimal("16.80")
    lost = charge_pods(book, [POD], {}, after(5400))
    assert spent(lost.book) == Decimal("25.20")
    assert "last price" in lost.problems[0]


def test_a_clock_that_went_back_charges_nothing() -> None:
    book = charge_pods(Book(), [POD], PRICES, after(1800)).book
    assert spent(charge_pods(book, [POD], PRICES, after(900)).book) == spent(book)
