"""When a provider counts as failing."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path

import pytest

from spillway.api import Reason
from spillway.controller.provider_watch import WHY_WORDS, WINDOW_SECONDS, Errors, ProviderWatch, Told
from spillway.ledger import EgressSample
from spillway.ledger.external import Outcome


def sample(provider: str, outcome: Outcome, requests: int) -> EgressSample:
    return EgressSample("chat", "glm-5", provider, "glm-5", outcome, requests, 0, 0, 0, 0, 0)


def told(process: str, samples: list[EgressSample], errors: Errors | None = None) -> Told:
    return Told(f"pod of {process}", process, tuple(samples), errors or {})


def test_a_provider_that_mostly_refuses_is_failing_and_recovers_with_time() -> None:
    watch = ProviderWatch()
    watch.note([told("gw-1", [sample("zai", "metered", 100), sample("zai", "refused", 3)])], 0)
    assert watch.failing() == {}
    watch.note([told("gw-1", [sample("zai", "metered", 102), sample("zai", "refused", 11)])], 10)
    assert "8 of the last 10 requests" in watch.failing()["zai"]
    assert watch.error_rates() == {"zai": 0.8}
    # It answers again; what failed is older than the window.
    watch.note([told("gw-1", [sample("zai", "metered", 130), sample("zai", "refused", 11)])], 20)
    assert watch.failing() == {}
    watch.note([told("gw-1", [sample("zai", "metered", 131), sample("zai", "refused", 11)])], 30 + WINDOW_SECONDS)
    assert watch.lately()["zai"].failed == 0


def test_a_provider_that_breaks_off_is_failing_although_it_may_bill() -> None:
    watch = ProviderWatch()
    watch.note([told("gw-1", [sample("zai", "unanswered", 0)])], 0)
    watch.note([told("gw-1", [sample("zai", "unanswered", 9)])], 2)
    assert "9 of the last 9 requests" in watch.failing()["zai"]


def test_a_few_failures_or_few_among_many_are_nothing() -> None:
    watch = ProviderWatch()
    watch.note([told("gw-1", [sample("zai", "refused", 0), sample("deepinfra", "refused", 0)])], 0)
    watch.note(
        [
            told("gw-1", [sample("zai", "refused", 4), sample("deepinfra", "refused", 20)]),
            told("gw-2", [sample("deepinfra", "metered", 0)]),
        ],
        2,
    )
    watch.note(
        [
            told("gw-1", [sample("zai", "refused", 4), sample("deepinfra", "refused", 20)]),
            told("gw-2", [sample("deepinfra", "metered", 21)]),
        ],
        4,
    )
    assert watch.failing() == {}


def test_a_gateway_that_starts_anew_does_not_count_backwards() -> None:
    watch = ProviderWatch()
    watch.note([told("gw-1", [sample("zai", "refused", 50)])], 0)
    watch.note([told("gw-2", [sample("zai", "refused", 1)])], 2)
    assert watch.lately()["zai"].failed == 0


def zai(answered: int = 0, bytes_of_unmetered: int = 0, **errors: int) -> Told:
    """A gateway's counters; `rejected` and all other errors were refused, `held` requests were not sent."""
    refused = sum(count for why, count in errors.items() if why != "held")
    samples = [
        sample("zai", "metered", answered),
        sample("zai", "refused", refused),
        EgressSample("chat", "glm-5", "zai", "glm-5", "unmetered", 0, 0, 0, 0, 0, bytes_of_unmetered),
    ]
    return told("gw-1", samples, {("zai", "glm-5", why): count for why, count in errors.items()})


def test_a_round_says_what_is_new_in_it() -> None:
    watch = ProviderWatch()
    assert watch.note([zai(5, quota=2)], 0) == {}
    assert watch.note([], 1) == {}, "a gateway that does not answer says nothing"
    watch.note([zai(5, quota=2)], 2)
    new = watch.note([zai(6, quota=3, rejected=1)], 4)["zai"]
    assert (new.answered, new.failed, new.proven, dict(new.errors)) == (2, 1, 1, {"quota": 1, "rejected": 1})
    assert watch.note([zai(6, quota=3, rejected=1)], 6)["zai"].errors.total() == 0
    assert watch.note([zai(6, 40, quota=3, rejected=1)], 8)["zai"].proven == 40


def test_an_answer_with_usage_that_cannot_be_is_an_answer() -> None:
    watch = ProviderWatch()
    watch.note([told("gw-1", [])], 0)
    new = watch.note([told("gw-1", [sample("zai", "doubtful", 2)])], 2)["zai"]
    assert (new.answered, new.failed, new.proven) == (2, 0, 2)


def test_what_a_gateway_counts_first_is_counted_where_it_was_seen_before_it() -> None:
    watch = ProviderWatch()
    watch.note([Told("pod of gw-1", "")], 0)
    assert watch.note([zai(credentials=2)], 2)["zai"].errors == {"credentials": 2}
    assert watch.lately()["zai"].errors == {"credentials": 2}
    watch.note([zai(credentials=2), told("gw-2", [])], 4)
    second = told("gw-2", [sample("zai", "refused", 1)], {("zai", "glm-5", "credentials"): 1})
    assert watch.note([zai(credentials=2), second], 6)["zai"].errors == {"credentials": 1}, "its first error of all"


def lately(**errors: int) -> ProviderWatch:
    watch = ProviderWatch()
    watch.note([told("gw-1", [])], 0)
    watch.note([zai(**errors)], 2)
    return watch


def test_what_clients_did_wrong_is_no_failure_of_the_provider() -> None:
    watch = lately(answered=1, rejected=90)
    assert (watch.failing(), watch.unwell(), watch.error_rates()) == ({}, {}, {"zai": 0.0})


@pytest.mark.parametrize(
    ("errors", "reason", "words"),
    [
        ({"throttled": 6, "unavailable": 1}, Reason.THROTTLED, "(6: too many requests (429); 1: 5xx"),
        ({"overloaded": 6}, Reason.THROTTLED, "(6: it is overloaded)"),
        ({"unavailable": 6, "throttled": 1}, Reason.PROVIDER_ERRORS, "7 of the last 7 requests"),
        ({"answered": 1, "throttled": 1, "held": 30}, Reason.THROTTLED, "; 30 more were not sent"),
        ({"answered": 900, "unknown_model": 1}, Reason.UNKNOWN_MODEL, "does not know 'glm-5' (1 times): correct"),
    ],
)
def test_what_its_owner_should_look_at(errors: dict[str, int], reason: str, words: str) -> None:
    watch = lately(**errors)
    assert watch.unwell()["zai"][0] == reason
    assert words in watch.unwell()["zai"][1]


def test_every_class_of_the_gateway_has_words_and_a_row_in_the_docs() -> None:
    script = files("spillway.gateway").joinpath("failures.lua").read_text()
    known = set(re.findall(r"""(?:return|and|or|=) "([a-z]+(?:_model)?)"(?=[ ,\n])""", script)) | {"held"}
    assert {"quota", "throttled", "overloaded", "unavailable", "unknown_model"} < known
    assert known == {*WHY_WORDS, "rejected"}
    page = (Path(__file__).parents[3] / "docs/gateway.md").read_text().partition("## Errors of providers")[2]
    rows = re.findall(r"^\| (`.+?`) \|", page.partition("\n## ")[0], re.MULTILINE)
    assert {name for row in rows for name in re.findall(r"`(\w+)`", row)} == known


def test_a_pause_that_it_asked_for_does_not_put_it_last() -> None:
    assert lately(answered=1, throttled=1, held=300).failing() == {}
    assert lately(answered=50, throttled=5, held=49).unwell() == {}
