"""Cost of single requests, and whether log and ledger agree."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spillway.controller.metrics import Metrics
from spillway.ledger import Book, EgressSample, Price, ProviderModel, charge_reading
from spillway.ledger.detail import MOST_COSTS, MOST_PENDING, Detail, Metered, Sum, cost, requests_charged
from tests.unit.ledger.samples import NOON

PRICE = Price(Decimal(1), Decimal("0.1"), Decimal(4))
ZAI = ProviderModel("zai", "glm-5")
PRICES = {ZAI: PRICE}
TOKENS = st.tuples(st.integers(1, 100_000), st.integers(0, 10_000), st.integers(0, 100_000))
REQUESTS = st.lists(TOKENS, min_size=1, max_size=60)


def request(prompt: int, completion: int = 0, cached: int = 0) -> Metered:
    return Metered("zai", "glm-5", 0, prompt, completion, min(cached, prompt))


def begun() -> Detail:
    detail = Detail()
    detail.round({}, {}, PRICES, 0)
    return detail


def ledger(detail: Detail, requests: list[Metered], times: int = 1, now: int = 100) -> None:
    usd = sum((cost(PRICE, r) for r in requests), Decimal(0)) * times
    detail.round({"zai": len(requests)}, {"zai": usd}, PRICES, now)


@given(REQUESTS)
def test_the_same_requests_do_not_drift(tokens: list[tuple[int, int, int]]) -> None:
    requests, detail = [request(*t) for t in tokens], begun()
    detail.note(requests)
    ledger(detail, requests)
    assert detail.sums()["zai"].drift == 0
    assert detail.sums()["zai"].coverage == 1


@given(REQUESTS)
def test_a_double_charge_is_found(tokens: list[tuple[int, int, int]]) -> None:
    requests, detail = [request(*t) for t in tokens], begun()
    detail.note(requests)
    ledger(detail, requests, times=2)
    assert detail.sums()["zai"].drift == 0.5


@given(st.lists(TOKENS, min_size=100, max_size=120), st.randoms(use_true_random=False))
def test_a_lost_entry_is_no_drift(tokens: list[tuple[int, int, int]], random: object) -> None:
    requests, detail = [request(*t) for t in tokens], begun()
    kept = sorted(requests, key=lambda r: cost(PRICE, r))
    del kept[random.randrange(len(kept) - 1)]  # type: ignore[attr-defined]
    detail.note(kept)
    ledger(detail, requests)
    assert detail.sums()["zai"].drift == 0
    assert detail.sums()["zai"].coverage == pytest.approx(1 - 1 / len(requests))


@pytest.mark.parametrize(
    ("found", "drift"),
    [
        (Sum(), None),
        (Sum(100, Decimal(100), 50, Decimal(50), Decimal(1)), None),  # too few to say anything
        (Sum(50, Decimal(50), 100, Decimal(100), Decimal(1)), None),  # heard of, not yet charged
        (Sum(100, Decimal(100), 99, Decimal(99), Decimal(1)), 0),
        (Sum(100, Decimal(110), 99, Decimal(99), Decimal(1)), 10 / 110),
        (Sum(99, Decimal(99), 100, Decimal(100), Decimal(1)), 0),
        (Sum(100, Decimal(90), 100, Decimal(100), Decimal(1)), 0.1),  # too little is charged
        (Sum(100, Decimal(0), 100, Decimal(0), Decimal(0)), 0),  # a free model
        (Sum(1, Decimal(1), 1, Decimal(2), Decimal(2)), 0.5),  # one request is enough where none is missing
    ],
)
def test_drift(found: Sum, drift: float | None) -> None:
    assert found.drift == (None if drift is None else pytest.approx(drift))


def test_what_was_charged_for_the_time_before_is_not_compared() -> None:
    detail = Detail()
    detail.note([request(10)])
    ledger(detail, [request(10)] * 1000)
    assert detail.sums() == {}


def test_the_last_hour_counts() -> None:
    detail = begun()
    detail.note([request(10)])
    ledger(detail, [request(10)] * 2, now=60)
    assert detail.sums()["zai"].requests == 2
    detail.round({}, {}, PRICES, 60 + 3600)
    assert detail.quantiles() == {}
    detail.round({}, {}, PRICES, 120 + 3600)
    assert detail.sums() == {}


def test_quantiles_and_bounds() -> None:
    detail = begun()
    detail.note(request(n) for n in range(MOST_PENDING + 10))
    detail.round({}, {}, PRICES, 100)
    assert detail.sums()["zai"].entries == MOST_PENDING
    newest = MOST_PENDING - MOST_COSTS
    assert detail.quantiles()[ZAI] == {q: Decimal(newest + int(q * MOST_COSTS)).scaleb(-6) for q in (0.5, 0.95, 0.99)}


def test_what_the_ledger_charges_agrees_and_is_exported() -> None:
    sample = EgressSample("chat", "glm-5", "zai", "glm-5", "metered", 2, 300, 40, 100, 0, 0)
    charged = charge_reading(Book(), "gateway-0", "p1", [sample], PRICES, NOON)
    more = EgressSample("chat", "glm-5", "zai", "glm-5", "metered", 3, 500, 60, 100, 0, 0)
    again = charge_reading(charged.book, "gateway-0", "p1", [more], PRICES, NOON)
    assert requests_charged(Book(), charged.book) == {"zai": 2}
    assert requests_charged(charged.book, again.book) == {"zai": 1}
    detail, metrics = begun(), Metrics()
    detail.note([request(200, 20)])
    usd = [
        sum((a.usd for bucket in b.book.spans.values() for a in bucket.values()), Decimal(0)) for b in (charged, again)
    ]
    detail.round({"zai": 1}, {"zai": usd[1] - usd[0]}, PRICES, 100)
    metrics.detailed_by(detail)
    value = metrics.registry.get_sample_value
    assert value("spillway_ledger_drift_ratio", {"provider": "zai"}) == 0
    assert value("spillway_ledger_detail_coverage_ratio", {"provider": "zai"}) == 1
    labels = {"provider": "zai", "model": "glm-5", "quantile": "0.95"}
    assert value("spillway_request_cost_usd", labels) == pytest.approx(0.00028)
