"""A provider's tokens of a minute, and how many requests may be in flight by them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spillway.api import ExternalProvider
from spillway.controller.provider_tokens import PRIOR_TOKENS, WINDOW_SECONDS, TokensLately, limited
from spillway.ledger import Pair, ProviderModel
from spillway.ledger.learned import Learned, Line
from spillway.observe.resolve import valid
from tests.unit.api.examples import example

ONE, TWO = Pair("chat", "glm-5", "zai", "glm-5"), Pair("search", "glm-5", "zai", "glm-5")
ELSEWHERE = Pair("chat", "glm-5", "deepinfra", "glm-5")
MEAN_100 = {ProviderModel("zai", "glm-5"): Learned({"json": Line.of(10, 1, 800)}, {"json": Line.of(10, 1, 200)})}


def providers(**limits: Any) -> dict[str, ExternalProvider]:
    return valid(
        ExternalProvider,
        {
            "zai": example("ExternalProvider", "zai", limits=limits),
            "deepinfra": example("ExternalProvider", "deepinfra", limits={}),
        },
    )


def used(tokens: int) -> TokensLately:
    lately = TokensLately()
    lately.note({"zai": 5000}, 0)
    lately.note({"zai": 5000 + tokens}, 2)
    return lately


@pytest.mark.parametrize(
    ("rounds", "tokens"),
    [
        ([], 0),
        ([(0, 700)], 0),  # of before
        ([(0, 700), (2, 900)], 200),
        ([(0, 0), (2, 900), (40, 1000), (60, 1000)], 1000),
        ([(0, 0), (2, 900), (40, 1000), (62, 1000)], 100),  # of more than a minute ago
        ([(0, 0), (2, 900), (40, 1000), (100, 1000)], 0),
        ([(0, 900), (2, 500)], 0),  # a ledger that was read again
    ],
)
def test_tokens_of_the_last_minute(rounds: list[tuple[float, int]], tokens: int) -> None:
    lately = TokensLately()
    for now, sums in rounds:
        lately.note({"zai": sums}, now)
    assert lately.of("zai") == tokens
    assert WINDOW_SECONDS == 60


@pytest.mark.parametrize(
    ("limit", "tokens", "in_flight", "slots"),
    [
        (1000, 0, {ONE: 0}, {ONE: 10}),
        (1000, 450, {ONE: 3}, {ONE: 5}),
        (1000, 901, {ONE: 3}, {ONE: 0}),
        (1000, 5000, {ONE: 3}, {ONE: 0}),
        (1000, 0, {ONE: 9, TWO: 0}, {ONE: 7, TWO: 2}),
        (1000, 900, {ONE: 9, TWO: 0}, {ONE: 1, TWO: 0}),
        (1000, 0, {ELSEWHERE: 9}, {}),
    ],
)
def test_what_may_be_in_flight(limit: int, tokens: int, in_flight: dict[Pair, int], slots: dict[Pair, int]) -> None:
    found = limited(providers(tokensPerMinute=limit), in_flight, used(tokens), MEAN_100)
    assert {pair: most for pair, (most, _) in found.items()} == slots
    assert all(f"took {tokens:,} tokens" in words for _, words in found.values())


def test_without_a_limit_nothing_is_limited_and_before_an_answer_a_mean_request_is_assumed() -> None:
    assert limited(providers(), {ONE: 1}, used(9), MEAN_100) == {}
    [(most, _)] = limited(providers(tokensPerMinute=5 * int(PRIOR_TOKENS)), {ONE: 1}, used(0), {}).values()
    assert most == 5


@given(
    st.integers(1, 10**6),
    st.integers(0, 10**6),
    st.dictionaries(st.sampled_from((ONE, TWO, ONE._replace(model="b"))), st.integers(0, 300), min_size=1),
)
def test_together_they_stay_within_the_limit(limit: int, tokens: int, in_flight: dict[Pair, int]) -> None:
    found = limited(providers(tokensPerMinute=limit), in_flight, used(tokens), MEAN_100)
    cheapest = 100 if any(pair.model == "glm-5" for pair in in_flight) else PRIOR_TOKENS
    slots = sum(most for most, _ in found.values())
    assert found.keys() == in_flight.keys()
    assert slots * cheapest <= max(0, limit - tokens)
