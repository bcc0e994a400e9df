"""`status.cost`: dollars of now beside what else it could cost."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

import pytest

from spillway.act.cost import cost
from spillway.decide.snapshot import Demand, Deployment
from tests.unit.decide.world import BLACKWELL, REQUESTS_PER_UNIT, ZAI, deployment

from .test_status import planned

# A request of 1,155 and 211 tokens: $0.0018302 at ZAI; a full replica of Blackwell takes 7.8 of them a second.
OUTSIDE = (1155 * 1.0 + 211 * 3.2) / 1e6
BUSY = Demand(0.5 * REQUESTS_PER_UNIT, 1155, 211, spilled_per_second=0.0)


def seen(demand: Demand | None, **changes: object) -> Deployment:
    return deployment(demand=demand, **changes)


def test_half_a_replica_of_work_on_one_replica() -> None:
    told = cost(seen(BUSY), planned(), BLACKWELL.usd_per_hour, 0.0)
    assert (told.gpu_per_hour, told.external_per_hour) == (Decimal("16.80"), Decimal("0.00"))
    tokens = 0.5 * REQUESTS_PER_UNIT * (1155 + 211) * 3600
    assert told.per_million_tokens == Decimal(str(round(16.8 / tokens * 1e6, 2)))
    assert told.all_external_per_hour == Decimal(str(round(0.5 * REQUESTS_PER_UNIT * OUTSIDE * 3600, 2)))
    full = REQUESTS_PER_UNIT * OUTSIDE * 3600
    assert told.break_even_utilisation == pytest.approx(16.8 / full, abs=0.005)


def test_the_cheapest_provider_counts() -> None:
    dear = replace(ZAI, provider="dear", usd_per_million_input=100.0)
    assert cost(seen(BUSY, providers=(dear, ZAI)), planned(), 1, 0) == cost(seen(BUSY), planned(), 1, 0)


def test_refused_requests_have_no_tokens() -> None:
    refused = replace(BUSY, refused_per_second=BUSY.requests_per_second / 2)
    one, other = (cost(seen(d), planned(), 16.8, 0.0).per_million_tokens for d in (BUSY, refused))
    assert one is not None and other is not None
    assert float(other) == pytest.approx(2 * float(one), abs=0.02)


@pytest.mark.parametrize("demand", [None, Demand(0, 1155, 211)])
def test_without_requests_nobody_knows(demand: Demand | None) -> None:
    told = cost(seen(demand), planned(), 16.8, 0.0)
    assert (told.per_million_tokens, told.all_external_per_hour, told.break_even_utilisation) == (None, None, None)


def test_without_a_provider_there_is_no_comparison() -> None:
    told = cost(seen(BUSY, providers=()), planned(), 16.8, 0.0)
    assert told.per_million_tokens is not None
    assert (told.all_external_per_hour, told.break_even_utilisation) == (None, None)


def test_where_replicas_never_cost_less_there_is_no_break_even() -> None:
    cheap = replace(ZAI, usd_per_million_input=0.01, usd_per_million_output=0.02)
    assert cost(seen(BUSY, providers=(cheap,)), planned(), 16.8, 0.0).break_even_utilisation is None


def test_all_refused_is_no_division_by_zero() -> None:
    nobody = replace(BUSY, refused_per_second=2 * BUSY.requests_per_second)
    assert cost(seen(nobody), planned(), 16.8, 0.0).per_million_tokens is None
