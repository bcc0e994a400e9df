"""What requests come to whose usage nobody told."""

from __future__ import annotations

import math
import random
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spillway.ledger.book import Counter, Counts
from spillway.ledger.estimate import (
    SURE,
    USAGE_BYTES,
    Doubt,
    Estimate,
    estimate,
    longest_prompt,
    margin_usd,
    rates_of,
)
from spillway.ledger.learned import Fit, Learned, Line
from spillway.ledger.price import Price, Rates, Tier


def learned() -> Learned:
    """Prompts of 100 to 4,000 tokens of 4 bytes, answers of 10 to 400: 5 bytes a token in JSON and 250 in a stream,
    beside 200 and 700."""
    to_json, to_stream, json, stream = (Line() for _ in range(4))
    for n in range(200):
        asked, tokens = 100 + n * 39 % 3900, 10 + n * 7 % 390
        to_json += Line.of(1, 4 * asked + 100, asked)
        to_stream += Line.of(1, 4 * asked + 400, asked)
        json += Line.of(1, 5 * tokens + 200, tokens)
        stream += Line.of(1, 250 * tokens + 700, tokens)
    return Learned({"json": to_json, "stream": to_stream}, {"json": json, "stream": stream})


KNOWN = learned()
MEAN = KNOWN.completion.y / KNOWN.completion.n


def counter(outcome: str, answer: str = "", most_bytes: int = 0) -> Counter:
    return Counter("chat", "glm-5", "zai", "glm-5", outcome, answer=answer, most_bytes=most_bytes)


@pytest.mark.parametrize(
    ("outcome", "answer", "bytes_each", "completion"),
    [
        # Whole, but for the usage that others have.
        ("unmetered", "json", 5 * 300 + 200 - USAGE_BYTES["json"], 300),
        ("unmetered", "stream", 250 * 300 + 700 - USAGE_BYTES["stream"], 300),
        ("unmetered", "stream", 250 * 20 + 700 - USAGE_BYTES["stream"], 20),
        ("malformed", "json", 5 * 300 + 200, 300),
        ("malformed", "stream", 250 * 300 + 700, 300),
        # Of a stream what came, and nothing taken off for the end that it lacks.
        ("broken", "stream", 250 * 30, 30),
        ("broken", "json", 87, MEAN),  # what the gateway said in its place
        ("unanswered", "json", 0, MEAN),
        # The provider may go on for somebody who has left.
        ("left", "stream", 250 * 30, MEAN),
        ("left", "stream", 250 * 390, 390),
        ("left", "json", 0, MEAN),
        ("left", "", 0, MEAN),
        ("unmetered", "", 250, MEAN),  # of a gateway that does not tell the kind
        ("unmetered", "json", 0, MEAN),
    ],
)
@pytest.mark.parametrize("requests", [1, 5])
def test_completion(outcome: str, answer: str, bytes_each: int, completion: float, requests: int) -> None:
    beside = {"json": 100, "stream": 400}.get(answer, 250)
    counts = Counts(requests, request_bytes=requests * (2000 + beside), response_bytes=requests * bytes_each)
    found = estimate(KNOWN, counter(outcome, answer), counts)
    assert found.prompt == pytest.approx(500 * requests, rel=0.01)
    assert found.completion == pytest.approx(completion * requests, rel=0.01, abs=2)
    exact = outcome in ("unmetered", "malformed", "broken") and answer and bytes_each > 100
    assert not exact or math.sqrt(found.completion_fit.variance) < (5 if answer == "json" else 0.21 * MEAN)
    assert math.sqrt(found.prompt_fit.variance) < (15 if answer else 50)


@pytest.mark.parametrize(
    ("outcome", "answer", "size", "tokens"),
    [
        ("unanswered", "", 0, (1000, 256)),
        ("unmetered", "stream", 20_000, (1000, 1012.5)),
        ("unmetered", "json", 20_000, (1000, 4020)),
        ("unmetered", "", 20_000, (1000, 1000)),
        ("broken", "stream", 100, (1000, 256)),
    ],
)
def test_before_anything_is_learned(outcome: str, answer: str, size: int, tokens: tuple[float, float]) -> None:
    found = estimate(None, counter(outcome, answer), Counts(1, request_bytes=4000, response_bytes=size))
    assert (found.prompt, found.completion) == tokens
    assert found.prompt_fit.variance == 250**2
    assert found.completion_fit.variance == pytest.approx(
        (256 if tokens[1] == 256 else 0.25 * tokens[1]) ** 2, rel=0.03
    )


def test_a_kind_of_which_nothing_was_seen_is_not_below_the_others_mean() -> None:
    known = Learned(KNOWN.prompts, {"json": KNOWN.answers["json"]})
    found = estimate(known, counter("unmetered", "stream"), Counts(1, request_bytes=400, response_bytes=100))
    assert found.completion == pytest.approx(MEAN)


def test_long_json_answers_are_not_estimated_by_short_ones_alone() -> None:
    """400 answers of 80 to 120 tokens, whose bytes vary as much as their lengths: their line is too flat."""
    dice, line = random.Random(2), Line()
    for _ in range(400):
        tokens = dice.randint(80, 120)
        line += Line.of(1, 400 + 5 * tokens * dice.uniform(0.85, 1.15), tokens)
    known = Learned(KNOWN.prompts, {"json": line})
    found = estimate(known, counter("unmetered", "json"), Counts(50, response_bytes=50 * (300 + 5 * 2000)))
    assert found.completion == pytest.approx(100_000, rel=0.05)


def test_a_line_of_no_requests_tells_nothing() -> None:
    known = Learned(KNOWN.prompts, {**KNOWN.answers, "stream": Line()})
    found = estimate(known, counter("unmetered", "stream"), Counts(1, response_bytes=100))
    assert found.completion == pytest.approx(205, rel=0.1), "the mean of the others"


def test_no_prompt_is_taken_for_longer_than_its_bytes_or_what_was_seen() -> None:
    assert longest_prompt(None, "json", 4900) == 4900
    assert 1200 <= longest_prompt(KNOWN, "json", 4900) < 1240
    assert longest_prompt(KNOWN, "", 10) <= 10


TIERED = Price(Decimal(1), Decimal(1), Decimal(3), None, (Tier(1200, Rates(*map(Decimal, "2225"))),))


@pytest.mark.parametrize(
    ("most_bytes", "requests", "request_bytes", "dearer"),
    [
        (4096, 9, 36_000, False),  # 1,000 tokens each at most
        (4928, 9, 40_000, True),  # one of them may have more than 1,200
        (0, 1, 4096, False),
        (0, 2, 8192, True),  # nobody knows how they share these bytes
    ],
)
def test_the_tier_is_that_of_the_largest(most_bytes: int, requests: int, request_bytes: int, dearer: bool) -> None:
    counts = Counts(requests, request_bytes=request_bytes)
    found = rates_of(TIERED, KNOWN, counter("unanswered", "json", most_bytes), counts)
    assert found == (TIERED.tiers[0].rates if dearer else TIERED.base)
    assert rates_of(TIERED, None, counter("unanswered", most_bytes=1300), counts) == TIERED.tiers[0].rates


doubts = st.builds(Doubt, st.floats(0, 1e3), st.floats(0, 30))


@given(st.lists(doubts, min_size=1, max_size=9))
def test_margins_add_up_to_that_of_the_sum(steps: list[Doubt]) -> None:
    before, margins = Doubt(), Decimal(0)
    for more in steps:
        margins += margin_usd(before, more)
        before += more
    assert float(margins) == pytest.approx(SURE * sum(steps, Doubt()).deviation, abs=1e-7)


def test_what_one_is_off_by_is_less_of_many_and_what_the_line_is_off_by_is_not() -> None:
    rates = Rates(*map(Decimal, "1113"))
    fit = Fit(0.0, 0.25, 100.0**2, 5.0**2)
    one, many = (Estimate(n, 1000.0 * n, 0.0, fit, Fit(0.0, 0.0, 0.0)).doubt(rates) for n in (1, 10_000))
    assert one.deviation == pytest.approx(1e-4, rel=0.01)
    assert many.deviation == pytest.approx(math.hypot(1e-4 * 100, 5e-6 * 10_000))
