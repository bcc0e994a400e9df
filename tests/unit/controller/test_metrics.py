"""What a scrape of the leader shows of the ledger."""

from __future__ import annotations

from decimal import Decimal

from spillway.controller.metrics import Metrics
from spillway.ledger import Amount, Key

ZAI = Key("chat", "glm-5", "external", "zai", "glm-5")
B200 = Key("chat", "glm-5", "gpu", "b200", "")


def labels(key: Key) -> dict[str, str]:
    return dict(zip(("namespace", "deployment", "source", "supplier", "model"), key[:5], strict=True))


def test_spend_is_a_counter_by_who_was_paid() -> None:
    metrics = Metrics()
    sums = {ZAI: Amount(Decimal("1.25"), 400_000, Decimal("0.25")), B200: Amount(Decimal(16), gpu_seconds=3600)}
    assert metrics.registry.get_sample_value("spillway_spend_usd_total", labels(ZAI)) is None
    metrics.spent_by(lambda: sums)
    value = metrics.registry.get_sample_value
    assert value("spillway_spend_usd_total", labels(ZAI)) == 1.25
    assert value("spillway_spend_usd_total", labels(B200)) == 16
    assert value("spillway_spend_estimated_usd_total", labels(ZAI)) == 0.25
    assert value("spillway_spend_tokens_total", labels(ZAI)) == 400_000
    assert value("spillway_spend_tokens_total", labels(B200)) is None, "GPUs are not paid by the token"
    assert value("spillway_spend_gpu_seconds_total", labels(B200)) == 3600
    assert value("spillway_spend_gpu_seconds_total", labels(ZAI)) is None


def test_a_credit_leaves_the_counters_as_they_are() -> None:
    metrics = Metrics()
    sums = {ZAI: Amount(Decimal("4.5"), 400_000, Decimal("3.25")), B200: Amount(Decimal(16))}
    sums |= {
        ZAI._replace(adjustment="inv-1"): Amount(Decimal(-3), 0, Decimal(-3)),
        ZAI._replace(adjustment="inv-2"): Amount(Decimal("0.25"), 0, Decimal("0.25")),
        ZAI._replace(model="other", adjustment="inv-3"): Amount(Decimal(1), 0, Decimal(1)),
    }
    metrics.spent_by(lambda: sums)
    value = metrics.registry.get_sample_value
    assert value("spillway_spend_usd_total", labels(ZAI)) == 4.5
    assert value("spillway_spend_estimated_usd_total", labels(ZAI)) == 3.25
    assert value("spillway_spend_adjusted_usd", labels(ZAI)) == -2.75
    assert value("spillway_spend_adjusted_usd", labels(B200)) == 0, "so that both can be added"
    assert value("spillway_spend_usd_total", labels(ZAI._replace(model="other"))) == 0


def test_a_disabled_provider_has_a_series_until_it_is_none() -> None:
    metrics = Metrics()
    zai = {"provider": "zai", "reason": "QuotaSpent"}
    metrics.disabled({"zai": "QuotaSpent"})
    assert metrics.registry.get_sample_value("spillway_provider_disabled", zai) == 1
    metrics.disabled({})
    assert metrics.registry.get_sample_value("spillway_provider_disabled", zai) is None
