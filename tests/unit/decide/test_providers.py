"""Which provider first: what a request really costs there counts, not the price of a token."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spillway.decide import Memory, plan
from spillway.decide.memory import DeploymentMemory
from spillway.decide.providers import BOUNDS, LAST_SECONDS, learn, ranked
from spillway.decide.snapshot import Demand, Deployment, ProviderOption, Snapshot

from .world import deployment

DEMAND = Demand(5.0, 1000, 200, local_output_tokens=200.0)
DEAR = ProviderOption("dear", "m", 2.0, 6.0, affordable_in_flight=9)
CHEAP = ProviderOption("cheap", "m", 1.0, 3.0, affordable_in_flight=9)
CLOSE = ProviderOption("close", "m", 0.98, 3.0, affordable_in_flight=9)


def first(
    *providers: ProviderOption, memory: DeploymentMemory | None = None, now: float = 0.0, **changes: object
) -> list[str]:
    one = deployment(providers=providers, demand=DEMAND, **changes)
    return [o.provider for o in ranked(now, one, memory or DeploymentMemory()).providers]


def test_the_cheapest_is_tried_first() -> None:
    assert first(DEAR, CHEAP) == ["cheap", "dear"]


def test_as_listed_if_the_user_wants_it() -> None:
    assert first(DEAR, CHEAP, cheapest_first=False) == ["dear", "cheap"]


def test_about_the_same_price_keeps_the_users_order() -> None:
    assert first(CHEAP, CLOSE) == ["cheap", "close"]
    assert first(CLOSE, CHEAP) == ["close", "cheap"]


def test_what_was_first_stays_first_until_another_is_clearly_cheaper() -> None:
    memory = DeploymentMemory(provider_order=("close/m", "cheap/m"))
    assert first(CHEAP, CLOSE, memory=memory) == ["close", "cheap"]


def test_of_equal_price_the_list_counts_also_when_it_is_changed_later() -> None:
    same = replace(CHEAP, provider="same")
    memory = DeploymentMemory(provider_order=("cheap/m", "same/m"))
    assert first(same, CHEAP, memory=memory) == ["same", "cheap"]


@given(st.lists(st.floats(0.5, 2.0), min_size=1, max_size=6), st.lists(st.floats(-0.04, 0.04), max_size=20))
def test_noise_of_the_prices_moves_nobody_to_and_fro(prices: list[float], noise: list[float]) -> None:
    """Whatever changes place does so once in each direction that the noise goes beyond; equal inputs stay."""
    options = [replace(CHEAP, provider=f"p{n}", usd_per_million_output=3 * price) for n, price in enumerate(prices)]
    memory = DeploymentMemory()
    for _ in range(3):
        order = ranked(0.0, deployment(providers=tuple(options), demand=DEMAND), memory).providers
        memory = replace(memory, provider_order=tuple(o.name for o in order))
    assert memory.provider_order == tuple(
        o.name for o in ranked(0.0, deployment(providers=tuple(options), demand=DEMAND), memory).providers
    )
    tokens = [replace(DEMAND, output_tokens_per_request=200.0 * (1 + n)) for n in noise]
    two = (DEAR, CHEAP)
    for demand in tokens:
        assert [o.provider for o in ranked(0.0, deployment(providers=two, demand=demand), memory).providers] == [
            "cheap",
            "dear",
        ]


def test_a_wordy_model_costs_more_than_its_tokens() -> None:
    assert first(replace(CHEAP, verbosity=4.0), DEAR) == ["dear", "cheap"]


def answered(memory: DeploymentMemory, tokens: float, seconds: float, stated: float = 1.0) -> DeploymentMemory:
    option = replace(CHEAP, answers_per_second=1.0, output_tokens_per_answer=tokens, verbosity=stated)
    one = deployment(providers=(option, DEAR), demand=DEMAND)
    for _ in range(round(seconds / 10)):
        memory = learn(0.0, one, memory, 10.0)
    return memory


def test_overflow_shows_how_wordy_a_model_is() -> None:
    memory = answered(DeploymentMemory(), 800.0, 3600)
    one = ranked(0.0, deployment(providers=(DEAR, CHEAP), demand=DEMAND), memory)
    assert [o.provider for o in one.providers] == ["dear", "cheap"]
    assert one.providers[1].verbosity == pytest.approx(3.84, abs=0.02)  # (200 * 1 + 3600 * 4) / 3800


def test_a_few_answers_hardly_count() -> None:
    memory = answered(DeploymentMemory(), 800.0, 10)
    assert first(DEAR, CHEAP, memory=memory) == ["cheap", "dear"]


@given(st.floats(0.01, 1e7), st.floats(10, 1e6), st.floats(0.1, 10))
def test_what_is_learned_is_bounded_by_what_is_stated(tokens: float, seconds: float, stated: float) -> None:
    memory = DeploymentMemory()
    option = replace(CHEAP, answers_per_second=100.0, output_tokens_per_answer=tokens, verbosity=stated)
    one = deployment(providers=(option,), demand=DEMAND)
    memory = learn(0.0, one, memory, seconds)
    found = ranked(0.0, one, memory).providers[0].verbosity
    assert BOUNDS[0] * stated - 0.01 <= found <= BOUNDS[1] * stated + 0.01


def test_one_that_fails_is_tried_last_for_a_while() -> None:
    one = deployment(providers=(replace(CHEAP, failing=True), DEAR), demand=DEMAND)
    memory = learn(100.0, one, DeploymentMemory(), 10.0)
    assert first(CHEAP, DEAR, memory=memory, now=101.0) == ["dear", "cheap"]
    assert first(CHEAP, DEAR, memory=memory, now=101.0, cheapest_first=False) == ["dear", "cheap"]
    assert first(CHEAP, DEAR, memory=memory, now=100.0 + LAST_SECONDS) == ["cheap", "dear"]


def test_the_plan_has_that_order_and_keeps_it() -> None:
    one: Deployment = deployment(providers=(DEAR, CHEAP), demand=DEMAND)
    outcome, memory = plan(Snapshot(1000.0, (one,), ()), Memory())
    assert [p.provider for p in outcome.deployments[0].spill.providers] == ["cheap", "dear"]
    assert memory.deployments[one.key].provider_order == ("cheap/m", "dear/m")


@given(st.permutations([DEAR, CHEAP, replace(DEAR, provider="dearest", usd_per_million_output=20.0)]))
def test_clear_differences_leave_nothing_to_the_list(options: list[ProviderOption]) -> None:
    assert first(*options) == ["cheap", "dear", "dearest"]


def test_it_is_done_after_one_pass_whatever_the_start() -> None:
    options = [replace(CHEAP, provider=f"p{n}", usd_per_million_output=1.0 + n) for n in range(4)]
    for order in permutations(options):
        assert first(*order) == ["p0", "p1", "p2", "p3"]
