"""External dollars: counters of gateway processes become charges, once and exactly."""

from __future__ import annotations

import math
from datetime import timedelta
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spillway.ledger.book import Book, Pair, Process, total
from spillway.ledger.codec import decode, encode
from spillway.ledger.external import (
    EgressSample,
    allow,
    charge_reading,
    charge_vanished,
    lend,
    retire,
    unread_usd,
    vanished,
)
from spillway.ledger.price import Price, Rates, Tier, cost_usd
from tests.unit.ledger.samples import FLAT, KEY, NOON, PRICES, ZAI, sample, spent

LONG = Tier(200_000, Rates(Decimal(2), Decimal("0.40"), Decimal("2.5"), Decimal(5)))
TIERED = Price(
    Decimal(1), Decimal("0.20"), Decimal(3), Decimal("1.25"), (Tier(32_000, Rates(*map(Decimal, "1137"))), LONG)
)
PAIR = Pair("chat", "glm-5", "zai", "glm-5")


def test_a_new_process_is_charged_from_zero_and_then_by_difference() -> None:
    first = charge_reading(
        Book(), "gw-0", "p1", [sample(requests=1, prompt_tokens=1000, completion_tokens=100)], PRICES, NOON
    )
    assert total(first.book)[KEY].usd == Decimal("0.00132")
    assert total(first.book)[KEY].tokens == 1100
    again = charge_reading(
        first.book, "gw-0", "p1", [sample(requests=1, prompt_tokens=1000, completion_tokens=100)], PRICES, NOON
    )
    assert total(again.book) == total(first.book)
    more = charge_reading(
        again.book, "gw-0", "p1", [sample(requests=2, prompt_tokens=1500, completion_tokens=100)], PRICES, NOON
    )
    assert total(more.book)[KEY].usd == Decimal("0.00182")
    restarted = charge_reading(more.book, "gw-0", "p2", [sample(requests=1, prompt_tokens=500)], PRICES, NOON)
    assert total(restarted.book)[KEY].usd == Decimal("0.00232")
    assert not restarted.problems


def test_cached_tokens_cost_their_own_price() -> None:
    assert cost_usd(FLAT, 1_000_000, 1_000_000, 400_000) == Decimal("0.6") + Decimal("0.08") + Decimal("3.2")


def charge(one: EgressSample, price: Price, book: Book = Book()) -> Book:  # noqa: B008 (a value)
    return charge_reading(book, "gw-0", "p1", [one], {ZAI: price}, NOON).book


@pytest.mark.parametrize(
    ("one", "per_million"),
    [
        (sample(requests=1, prompt_tokens=1000, completion_tokens=100), "1300"),
        (sample(requests=1, prompt_tokens=1000, cached_tokens=200, cache_write_tokens=400), "940"),
        (sample(requests=1, prompt_tokens=201_000, completion_tokens=10, tier=200_000), "402050"),
        (
            sample(requests=1, prompt_tokens=201_000, cached_tokens=1000, cache_write_tokens=2000, tier=200_000),
            "401400",
        ),
        # The tier was taken out of the price while a gateway still counted in it: the dearest, column by column.
        (sample(requests=1, prompt_tokens=70_000, completion_tokens=10, tier=64_000), "140070"),
    ],
)
def test_tiers_and_cache_writes_cost_their_own_price(one: EgressSample, per_million: str) -> None:
    assert spent(charge(one, TIERED)) == Decimal(per_million).scaleb(-6)


def test_tiers_have_watermarks_of_their_own() -> None:
    book = charge(sample(requests=1, prompt_tokens=1000, cache_write_tokens=100), TIERED)
    book = charge(sample(requests=1, prompt_tokens=201_000, tier=200_000), TIERED, book)
    again = charge(sample(requests=1, prompt_tokens=1000, cache_write_tokens=100), TIERED, decode(encode(book)))
    assert spent(again) == spent(book) == Decimal("0.001025") + Decimal("0.402")


@pytest.mark.parametrize(
    ("one", "per_million"),
    [
        # Cut after a first event that stated usage: the prompt as stated, the answer not below its bytes.
        (sample("doubtful", 1, 1000, 1, request_bytes=4000, response_bytes=20_000), "4250"),
        (sample("doubtful", 1, 1000, 5000, request_bytes=4000, response_bytes=20_000), "16250"),
        # No discount is believed, and cached tokens beyond the prompt are counted apart from it.
        (sample("doubtful", 1, 1000, 256, 900, 4000, 0, cache_write_tokens=300), "2268"),
        (sample("doubtful", 1, 210_000, 256, request_bytes=4000, tier=200_000), "526280"),
    ],
)
def test_what_is_doubtful_is_charged_at_no_discount(one: EgressSample, per_million: str) -> None:
    amount = total(charge(one, TIERED))[KEY]
    assert amount.usd == amount.estimated_usd == Decimal(per_million).scaleb(-6)


@pytest.mark.parametrize(
    ("one", "prompt_tokens", "input_usd", "output_usd"),
    [
        # Without usage nobody knows the tier: the dearest that so many bytes can come to.
        (sample("unmetered", 1, request_bytes=4000), 1000, 1.25, 3),
        (sample("unmetered", 1, request_bytes=40_000), 10_000, 3, 7),
        (sample("unanswered", 1, request_bytes=400_000), 100_000, 3, 7),
        (sample("unanswered", 2, request_bytes=40_000, most_bytes=30_000), 10_000, 1.25, 3),
    ],
)
def test_estimates_by_tier(one: EgressSample, prompt_tokens: int, input_usd: float, output_usd: float) -> None:
    """And three deviations: a quarter of a prompt, and all of an answer of which nothing is known."""
    amount, n = total(charge(one, TIERED))[KEY], one.requests
    expected = prompt_tokens * input_usd + 256 * n * output_usd
    off = math.hypot(prompt_tokens / n / 4 * input_usd, 256 * output_usd) * math.sqrt(n)
    assert amount.usd == amount.estimated_usd
    assert float(amount.usd) == pytest.approx((expected + 3 * off) * 1e-6, abs=2e-9)


def test_doubtful_usage_teaches_nothing() -> None:
    assert not charge(sample("doubtful", 1, 10**6, 1, request_bytes=10), TIERED).learned


@given(
    st.integers(0, 300_000),
    st.integers(0, 5000),
    st.integers(0, 400_000),
    st.integers(0, 400_000),
    st.sampled_from((0, 32_000, 200_000, 64_000)),
)
def test_no_rate_is_above_the_dearest(prompt: int, completion: int, cached: int, written: int, tier: int) -> None:
    dearest = TIERED.dearest()
    most = (prompt * max(dearest[:3]) + completion * dearest.output).scaleb(-6)
    assert cost_usd(TIERED.of_tier(tier), prompt, completion, cached, written) <= most


def test_a_price_change_counts_from_the_reading_that_sees_it() -> None:
    one = charge_reading(Book(), "gw-0", "p1", [sample(requests=1, prompt_tokens=1_000_000)], PRICES, NOON).book
    dearer = {ZAI: Price(Decimal(5), Decimal(5), Decimal(5))}
    two = charge_reading(one, "gw-0", "p1", [sample(requests=2, prompt_tokens=2_000_000)], dearer, NOON).book
    assert spent(two) == Decimal(6)


def test_refused_answers_cost_nothing() -> None:
    book = charge_reading(Book(), "gw-0", "p1", [sample("refused", requests=9, request_bytes=10**6)], PRICES, NOON).book
    assert spent(book) == 0


def test_a_fallen_counter_is_a_problem_in_words_and_never_negative() -> None:
    one = charge_reading(Book(), "gw-0", "p1", [sample(requests=10, prompt_tokens=1000)], PRICES, NOON).book
    fallen = charge_reading(one, "gw-0", "p1", [sample(requests=9, prompt_tokens=2000)], PRICES, NOON)
    assert spent(fallen.book) == spent(one)
    assert "requests 10 → 9" in fallen.problems[0]
    recovered = charge_reading(fallen.book, "gw-0", "p1", [sample(requests=11, prompt_tokens=2000)], PRICES, NOON)
    assert spent(recovered.book) == Decimal("0.002")


def test_a_model_without_a_price_is_charged_once_there_is_one() -> None:
    unknown = charge_reading(Book(), "gw-0", "p1", [sample(requests=1, prompt_tokens=1000)], {}, NOON)
    assert spent(unknown.book) == 0
    assert "has no price" in unknown.problems[0]
    known = charge_reading(unknown.book, "gw-0", "p1", [sample(requests=1, prompt_tokens=1000)], PRICES, NOON)
    assert spent(known.book) == Decimal("0.001")
    # The ExternalProvider is deleted while its last requests still end: its last price stands.
    gone = charge_reading(known.book, "gw-0", "p1", [sample(requests=2, prompt_tokens=2000)], {}, NOON)
    assert spent(gone.book) == Decimal("0.002")
    assert not gone.problems


def test_unmetered_answers_are_estimated_by_what_was_learned_and_marked() -> None:
    metered = sample(
        requests=10,
        prompt_tokens=10_000,
        completion_tokens=2_000,
        request_bytes=50_000,
        response_bytes=100_000,
        answer="stream",
    )
    cut = sample("broken", answer="stream", requests=1, request_bytes=5_000, response_bytes=20_000)
    charged = charge_reading(Book(), "gw-0", "p1", [cut, metered], PRICES, NOON).book
    amount = total(charged)[KEY]
    estimate = cost_usd(FLAT, 1_000, 400)  # 0.2 tokens a byte in, 0.02 out
    off = math.hypot(250 * 1.0, 50 * 3.2) * math.sqrt(1.1) * 1e-6  # one reading of ten requests was seen
    assert float(amount.estimated_usd) == pytest.approx(float(estimate) + 3 * off, rel=0.05)
    assert amount.usd - amount.estimated_usd == cost_usd(FLAT, 10_000, 2_000)


def test_what_is_learned_fades() -> None:
    old = sample(requests=5000, prompt_tokens=5_000_000, request_bytes=5_000_000)
    new = sample(requests=10_000, prompt_tokens=6_000_000, request_bytes=10_000_000)
    book = charge_reading(Book(), "gw-0", "p1", [old], PRICES, NOON).book
    book = charge_reading(book, "gw-0", "p1", [new], PRICES, NOON).book
    line = book.learned[ZAI].prompt
    assert line.y / line.x == pytest.approx(0.2, abs=0.01)


def test_a_gateway_that_vanished_unread_is_charged_its_limit() -> None:
    book = charge_reading(Book(), "gw-0", "p1", [sample(requests=1, prompt_tokens=1000)], PRICES, NOON).book
    assert vanished(book, [Process("gw-0", "p1")]) == ()
    assert vanished(book, [Process("gw-0", "p2")]) == (Process("gw-0", "p1"),)
    gone = NOON + timedelta(seconds=10)
    burn = {PAIR: Decimal("3.60")}
    assert unread_usd(book, Process("gw-0", "p1"), {}, burn, gone) == {PAIR: Decimal("0.01")}
    charged = charge_vanished(book, "gw-0", "p1", {PAIR: Decimal("0.50")}, burn, gone)
    assert spent(charged.book) - spent(book) == Decimal("0.51")
    assert total(charged.book)[KEY].estimated_usd == Decimal("0.51")
    assert not charged.book.gateways
    twice = charge_vanished(charged.book, "gw-0", "p1", {PAIR: Decimal("0.50")}, burn, gone)
    assert spent(twice.book) == spent(charged.book)
    assert twice.problems


def test_a_gateway_that_was_read_to_its_end_costs_nothing_more() -> None:
    book = charge_reading(Book(), "gw-0", "p1", [sample(requests=1, prompt_tokens=1000)], PRICES, NOON).book
    retired = retire(book, "gw-0", "p1")
    assert vanished(retired, []) == ()
    assert spent(retired) == spent(book)


@st.composite
def histories(draw: st.DrawFn) -> tuple[list[tuple[str, str, EgressSample]], int]:
    """Readings of two pods whose processes restart, in any order between processes, and the tokens they truly used."""
    streams: list[list[tuple[str, str, EgressSample]]] = []
    tokens = 0
    for pod in ("gw-0", "gw-1"):
        for process in range(draw(st.integers(1, 3))):
            prompt = requests = 0
            stream = []
            for step in draw(st.lists(st.integers(0, 10**9), max_size=5)):
                prompt, requests = prompt + step, requests + 1
                stream.append((pod, f"p{process}", sample(requests=requests, prompt_tokens=prompt)))
            tokens += prompt
            streams.append(stream)
    merged = []
    while any(streams):
        stream = draw(st.sampled_from([stream for stream in streams if stream]))
        merged.append(stream.pop(0))
    return merged, tokens


@given(histories(), st.sets(st.integers(0, 40)), st.sets(st.integers(0, 40)))
def test_order_repetition_and_operator_restarts_never_change_the_sum(
    history: tuple[list[tuple[str, str, EgressSample]], int], crashes: set[int], repeats: set[int]
) -> None:
    readings, tokens = history
    book, stored = Book(), encode(Book())
    unstored: list[tuple[str, str, EgressSample]] = []
    for index, (pod, process, read) in enumerate(readings):
        for _ in range(2 if index in repeats else 1):
            book = charge_reading(book, pod, process, [read], PRICES, NOON + timedelta(seconds=index)).book
        unstored.append((pod, process, read))
        if index in crashes:
            # The operator dies before it writes. The gateways live on, so their newest counters are read again.
            book = decode(stored)
            newest = {(pod, process): read for pod, process, read in unstored}
            for (pod_, process_), read_ in newest.items():
                book = charge_reading(book, pod_, process_, [read_], PRICES, NOON + timedelta(seconds=index)).book
        elif index % 3 == 0:
            stored, unstored = encode(book), []
    assert Fraction(spent(book)) == Fraction(tokens, 10**6)


@given(st.lists(st.integers(0, 10**9), min_size=1, max_size=30), st.integers(1, 10**6), st.integers(0, 10**6))
def test_money_is_exact(steps: list[int], price: int, output: int) -> None:
    prices = {ZAI: Price(Decimal(price).scaleb(-4), Decimal(0), Decimal(output).scaleb(-4))}
    book, tokens = Book(), 0
    for number, step in enumerate(steps, 1):
        tokens += step
        read = sample(requests=number, prompt_tokens=tokens, completion_tokens=tokens)
        book = charge_reading(book, "gw-0", "p1", [read], prices, NOON + timedelta(minutes=7 * number)).book
    assert Fraction(spent(book)) == Fraction(tokens * (price + output), 10**10)
    assert total(book)[KEY].tokens == 2 * tokens


OWNER = Process("gw-0", "p1")


@pytest.mark.parametrize(
    ("before", "caps", "read", "kept"),
    [
        ({}, {PAIR: 5}, True, {PAIR: 8}),  # in powers of two
        ({PAIR: 8}, {PAIR: 6}, True, {PAIR: 8}),
        ({PAIR: 8}, {PAIR: 1}, True, {PAIR: 1}),
        ({PAIR: 8}, {PAIR: 1}, False, {PAIR: 8}),  # it may have used what it had since it was read
        ({PAIR: 8}, {}, False, {PAIR: 8}),
        ({PAIR: 8}, {}, True, {}),
        ({}, {PAIR: 0}, False, {}),
    ],
)
def test_what_a_process_may_have_in_flight_is_kept(
    before: dict[Pair, int], caps: dict[Pair, int], read: bool, kept: dict[Pair, int]
) -> None:
    book = allow(Book(caps={OWNER: before}), OWNER, caps, read=read)
    assert book.caps == {OWNER: kept}
    assert decode(encode(book)) == book
    assert allow(book, OWNER, caps, read=read) is book
    assert retire(book, *OWNER).caps == {}


def test_how_long_a_process_may_spend_without_word_is_kept() -> None:
    assert lend(Book(), OWNER, 15).leases == {}, "the shortest is always counted"
    hour = lend(Book(), OWNER, 3600)
    assert hour.leases == {OWNER: 3600}
    assert lend(hour, OWNER, 3600) is hour
    assert decode(encode(hour)) == hour
    assert lend(hour, OWNER, 15) == retire(hour, *OWNER) == Book()


def test_nothing_allowed_is_known_too() -> None:
    assert allow(Book(), OWNER, {}, read=True).caps == {OWNER: {}}
