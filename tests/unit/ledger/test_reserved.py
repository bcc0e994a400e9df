"""Reserved GPUs: a pool's row and its pods' rows together cost what the reservation costs, however often one looks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from spillway.ledger.book import IDLE, Amount, Book, Key, total
from spillway.ledger.budgets import Budget, Policy, statement
from spillway.ledger.gpu import PodUsage, PoolPrice, charge_pods
from spillway.ledger.reserved import SEEN_SECONDS, Reserved, charge_idle

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
USD = Decimal("4.20")
POOLS = {"h200": Reserved(8, USD)}
PRICES = {"h200": PoolPrice(USD, 60)}
POD = PodUsage("uid-1", "chat", "glm-5", "h200", "glm-5", 4, NOON)
USED, UNUSED = Key("chat", "glm-5", "gpu", "h200", "glm-5"), Key(IDLE, IDLE, "gpu", "h200", "")


def after(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


def look(
    book: Book,
    at: float,
    *pods: PodUsage,
    pools: Mapping[str, Reserved] = POOLS,
    prices: Mapping[str, PoolPrice] = PRICES,
) -> Book:
    return charge_idle(charge_pods(book, pods, prices, after(at)).book, pools, after(at))


def of(book: Book, key: Key) -> Amount:
    return total(book).get(key, Amount())


def hours(seconds: float) -> Decimal:
    return USD * Decimal(seconds) / 3600


def test_what_nobody_uses_is_idle() -> None:
    book = look(look(Book(), 0), 3600 + SEEN_SECONDS)
    assert total(book) == {UNUSED: Amount(8 * USD, gpu_seconds=8 * 3600)}
    assert len(book.spans) == 4, "an hour is four quarter-hours"


def test_what_is_used_is_charged_to_who_uses_it_and_the_rest_is_idle() -> None:
    book = look(look(Book(), 0, POD), 3600, replace(POD, ended=after(3600)))
    book = look(book, 7200 + SEEN_SECONDS)
    assert of(book, USED) == Amount(4 * USD, gpu_seconds=4 * 3600)
    assert of(book, UNUSED) == Amount(12 * USD, gpu_seconds=12 * 3600)


def test_what_is_used_beyond_the_reservation_leaves_nothing_idle() -> None:
    large = replace(POD, gpus=12)
    book = look(look(Book(), 0, large), 3600 + SEEN_SECONDS, large)
    assert of(book, UNUSED) == Amount()
    assert of(book, USED).gpu_seconds == 12 * (3600 + SEEN_SECONDS)


@given(
    looks=st.lists(st.integers(1, 20_000), max_size=10, unique=True),
    lives=st.lists(st.tuples(st.integers(0, 9000), st.integers(1, 9000), st.integers(1, 3)), max_size=4),
    late=st.integers(0, SEEN_SECONDS - 1),
)
def test_the_sum_is_the_fixed_cost_however_often_one_looks(
    looks: list[int], lives: list[tuple[int, int, int]], late: int
) -> None:
    """Up to four pods hold up to twelve of twelve GPUs; each is seen a while after it was scheduled, or not before its
    end. Pods that nobody saw leave their GPUs idle; either way the reservation is paid once."""
    pools, prices = {"h200": Reserved(12, USD)}, {"h200": PoolPrice(USD)}
    book = look(Book(), 0, pools=pools, prices=prices)
    for at in [*sorted(looks), 30_000]:
        pods = [
            replace(
                POD,
                uid=f"uid-{n}",
                gpus=gpus,
                scheduled=after(start),
                ended=None if at < start + life else after(start + life),
            )
            for n, (start, life, gpus) in enumerate(lives)
            if at >= start + late
        ]
        book = look(book, at, *pods, pools=pools, prices=prices)
    until = 30_000 - SEEN_SECONDS
    found = total(book)
    assert sum(amount.gpu_seconds for amount in found.values()) == 12 * until
    usd = sum((amount.usd for amount in found.values()), Decimal(0))
    assert abs(usd - 12 * hours(until)) <= len(lives) * Decimal("1e-9"), "each is rounded to a nanodollar"


def test_a_short_pods_minimum_billing_is_part_of_the_fixed_cost() -> None:
    book = look(look(Book(), 0), 1, replace(POD, ended=after(1)))
    book = look(book, 3600 + SEEN_SECONDS)
    assert of(book, USED).gpu_seconds == 4 * 60
    assert of(book, UNUSED).gpu_seconds == 8 * 3600 - 4 * 60


def test_a_new_price_and_a_new_number_count_from_when_they_are_seen() -> None:
    book = look(Book(), 0)
    dearer = {"h200": Reserved(8, 2 * USD)}
    book = look(book, 1800 + SEEN_SECONDS, pools=dearer)
    assert of(book, UNUSED).usd == 4 * USD
    book = look(book, 3600 + SEEN_SECONDS, pools=dearer)
    assert of(book, UNUSED).usd == 12 * USD
    more = {"h200": Reserved(16, 2 * USD)}
    book = look(book, 3600 + SEEN_SECONDS, pools=more)
    book = look(book, 5400 + SEEN_SECONDS, pools=more)
    assert of(book, UNUSED).usd == 28 * USD


def test_a_pool_price_that_changes_while_pods_run_changes_both_rows() -> None:
    dearer, prices = {"h200": Reserved(8, 2 * USD)}, {"h200": PoolPrice(2 * USD)}
    book = look(look(Book(), 0, POD), 3600, POD)
    book = look(book, 3600, POD, pools=dearer, prices=prices)
    book = look(book, 7200, POD, pools=dearer, prices=prices)
    assert of(book, USED).usd == 4 * USD + 8 * USD
    assert of(book, UNUSED).usd == 4 * hours(3600 - SEEN_SECONDS) + 8 * hours(3600)


def test_while_the_operator_was_down_the_reservation_was_paid_all_the_same() -> None:
    book = look(look(Book(), 0, POD), 600, POD)
    # Its absence is seen a day later: it is charged until then, and only the rest was idle.
    book = look(book, 86_400)
    book = look(book, 86_400 + SEEN_SECONDS)
    assert of(book, USED).gpu_seconds == 4 * 86_400
    assert of(book, UNUSED).gpu_seconds == 4 * 86_400


def test_a_pool_that_is_gone_ends_where_that_is_seen_and_begins_anew_later() -> None:
    book = look(look(Book(), 0), 3600 + SEEN_SECONDS, pools={})
    assert (of(book, UNUSED).usd, book.idle) == (8 * USD, {})
    again = look(look(book, 7200), 7200 + 3600 + SEEN_SECONDS)
    assert of(again, UNUSED).usd == 16 * USD


def test_a_clock_that_went_back_charges_nothing() -> None:
    book = look(look(Book(), 0), 3600)
    assert of(look(book, 900), UNUSED) == of(book, UNUSED)


def test_idle_gpus_are_no_teams_spending() -> None:
    book = look(look(Book(), 0, POD), 3600, POD)
    budgets = (Budget("gpu", "Month", Decimal(1000), "GPU"), Budget("all", "Month", Decimal(1000), "Total"))
    stated = statement(book, Policy("p", frozenset({"chat"}), budgets), after(3600))
    assert [status.spent for status in stated] == [4 * USD, 4 * USD]
