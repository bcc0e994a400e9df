"""What bytes turn out to mean: lines through what readings saw."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spillway.ledger.learned import HALF_LIFE_REQUESTS, Learned, Line


def seen(tokens_of: float, beside: float, sizes: tuple[int, int], noise: float, together: int = 1) -> Line:
    """300 requests of so many bytes, `tokens_of` a byte of what is more than `beside`, some of them in one reading."""
    dice, line = random.Random(7), Line()
    for _ in range(300 // together):
        own = [dice.randint(*sizes) for _ in range(together)]
        tokens = sum((size - beside) * tokens_of + dice.gauss(0, noise) for size in own)
        line += Line.of(together, sum(own), tokens)
    return line


@pytest.mark.parametrize("together", [1, 2, 10])
@pytest.mark.parametrize(("tokens_of", "beside"), [(0.25, 300), (0.005, 0), (0.2, -100)])
def test_what_is_beside_the_tokens_is_told_from_them(tokens_of: float, beside: float, together: int) -> None:
    fit = seen(tokens_of, beside, (400, 8000), 0.0, together).fit()
    assert fit is not None
    for size in (500, 3000, 12_000):
        assert fit.tokens(1, size) == pytest.approx((size - beside) * tokens_of, rel=0.02, abs=8)
        assert fit.tokens(7, 7 * size) == pytest.approx(7 * fit.tokens(1, size))


def test_where_all_are_alike_tokens_are_in_proportion_to_bytes() -> None:
    fit = seen(0.25, 300, (4000, 4000), 0.0).fit()
    assert fit is not None and fit.intercept == pytest.approx(0.0, abs=1e-6)
    assert fit.tokens(1, 8000) == pytest.approx(1850)


@pytest.mark.parametrize("together", [1, 4])
def test_how_far_it_is_off_is_that_of_one_request(together: int) -> None:
    fit = seen(0.25, 300, (400, 8000), 40.0, together).fit()
    assert fit is not None and math.sqrt(fit.variance) == pytest.approx(40, rel=0.2)


def test_the_first_reading_is_believed_no_more_than_any_text() -> None:
    once = Line.of(10, 40_000, 10_000)
    fit, mean = once.fit(), once.mean()
    assert fit == (0.0, 0.25, 250.0**2, 250.0**2 / 10)
    assert mean == (1000.0, 0.0, 1000.0**2, 1000.0**2 / 10)
    assert Line().fit() is None and Line().mean() is None and Line.of(0, 0, 0) == Line()


def test_lengths_have_their_own_spread() -> None:
    dice, line = random.Random(1), Line()
    for _ in range(2000):
        line += Line.of(1, 0, dice.expovariate(1 / 200))
    mean = line.mean()
    assert mean is not None and mean.tokens(3, 0) == pytest.approx(600, rel=0.1)
    assert math.sqrt(mean.variance) == pytest.approx(200, rel=0.1)


def test_older_ones_fade() -> None:
    line = Line.of(1000, 1_000_000, 1_000_000)
    for _ in range(10):
        line = line.faded(HALF_LIFE_REQUESTS) + Line.of(500, 500_000, 100_000)
    fit = line.fit()
    assert fit is not None and fit.tokens(1, 1000) == pytest.approx(200, rel=0.01)


def test_kinds_of_answers_are_told_apart() -> None:
    learned = Learned()
    for answer, size in (("json", 1100), ("stream", 50_000)):
        learned = learned.after(
            answer, requests=1, prompt_tokens=900, completion_tokens=200, request_bytes=4000, response_bytes=size
        )
    found = {answer: line.fit() for answer, line in learned.answers.items()}
    assert [round(fit.tokens(1, 11_000)) for fit in found.values() if fit] == [2000, 44]
    assert (learned.prompt.n, learned.completion.n) == pytest.approx((2, 2), abs=0.01)
    assert learned.tokens_per_request == pytest.approx(1100)
    assert Learned().tokens_per_request is None


amounts = st.floats(0, 1e12)


@given(st.lists(st.tuples(st.integers(0, 10**6), amounts, amounts), max_size=6), amounts)
def test_nothing_that_can_be_read_makes_it_odd(readings: list[tuple[int, float, float]], size: float) -> None:
    line = Line()
    for requests, x, y in readings:
        line = line.faded(requests) + Line.of(requests, x, y)
    for fit in (line.fit(), line.mean()):
        if fit is not None:
            assert fit.slope >= 0 and fit.variance >= 0 and math.isfinite(fit.tokens(3, size))
            assert math.isfinite(fit.variance)
