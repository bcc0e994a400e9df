"""When a provider counts as failing."""

from __future__ import annotations

from spillway.controller.provider_watch import WINDOW_SECONDS, ProviderWatch
from spillway.ledger import EgressSample
from spillway.ledger.external import Outcome


def sample(provider: str, outcome: Outcome, requests: int) -> EgressSample:
    return EgressSample("chat", "glm-5", provider, "glm-5", outcome, requests, 0, 0, 0, 0, 0)


def test_a_provider_that_mostly_refuses_is_failing_and_recovers_with_time() -> None:
    watch = ProviderWatch()
    watch.note([("gw-1", [sample("zai", "metered", 100), sample("zai", "refused", 3)])], 0)
    assert watch.failing() == {}
    watch.note([("gw-1", [sample("zai", "metered", 102), sample("zai", "refused", 11)])], 10)
    assert "8 of the last 10 requests" in watch.failing()["zai"]
    assert watch.error_rates() == {"zai": 0.8}
    # It answers again; what failed is older than the window.
    watch.note([("gw-1", [sample("zai", "metered", 130), sample("zai", "refused", 11)])], 20)
    assert watch.failing() == {}
    watch.note([("gw-1", [sample("zai", "metered", 131), sample("zai", "refused", 11)])], 30 + WINDOW_SECONDS)
    assert watch.lately()["zai"].failed == 0


def test_a_provider_that_breaks_off_is_failing_although_it_may_bill() -> None:
    watch = ProviderWatch()
    watch.note([("gw-1", [sample("zai", "unanswered", 0)])], 0)
    watch.note([("gw-1", [sample("zai", "unanswered", 9)])], 2)
    assert "9 of the last 9 requests" in watch.failing()["zai"]


def test_a_few_failures_or_few_among_many_are_nothing() -> None:
    watch = ProviderWatch()
    watch.note([("gw-1", [sample("zai", "refused", 0), sample("deepinfra", "refused", 0)])], 0)
    watch.note(
        [
            ("gw-1", [sample("zai", "refused", 4), sample("deepinfra", "refused", 20)]),
            ("gw-2", [sample("deepinfra", "metered", 0)]),
        ],
        2,
    )
    watch.note(
        [
            ("gw-1", [sample("zai", "refused", 4), sample("deepinfra", "refused", 20)]),
            ("gw-2", [sample("deepinfra", "metered", 21)]),
        ],
        4,
    )
    assert watch.failing() == {}


def test_a_gateway_that_starts_anew_does_not_count_backwards() -> None:
    watch = ProviderWatch()
    watch.note([("gw-1", [sample("zai", "refused", 50)])], 0)
    watch.note([("gw-2", [sample("zai", "refused", 1)])], 2)
    assert watch.lately()["zai"].failed == 0
