"""When a provider is disabled, for how long, and what opens it again."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spillway.api import ConditionType, ExternalProvider, Reason
from spillway.controller.provider_guard import FIRST_SECONDS, FORBIDDEN, LONGEST_SECONDS, ProviderGuard
from spillway.controller.provider_watch import Outcomes
from spillway.observe.resolve import valid
from tests.unit.api.examples import example

NOON = 1_795_435_200.0
ANSWER = Outcomes(answered=1, proven=1)


def failed(**errors: int) -> Outcomes:
    return Outcomes(failed=sum(errors.values()), errors=Counter(errors))


QUOTA, KEY, FORBIDS = failed(quota=1), failed(credentials=1), failed(forbidden=1)


def providers(generation: int = 1, **status: Any) -> dict[str, ExternalProvider]:
    obj = example("ExternalProvider", "zai")
    obj["metadata"]["generation"] = generation
    obj["status"] = status
    return valid(ExternalProvider, {"zai": obj})


def most(guard: ProviderGuard) -> int | None:
    """Requests in flight that it leaves; None: it says nothing of the provider."""
    held = guard.disabled.get("zai")
    return held.most if held else None


def round_of(guard: ProviderGuard, new: Outcomes | None = None, at: float = 0.0, generation: int = 1) -> int | None:
    guard.note(providers(generation), {"zai": new} if new else {}, NOON + at)
    return most(guard)


@pytest.mark.parametrize(
    ("rounds", "expected"),
    [
        ([QUOTA], 0),
        ([KEY], 0),
        ([Outcomes(9, 1, 9, Counter(quota=1))], 0),  # what was asked before it was spent is answered still
        ([failed(throttled=50)], None),
        ([failed(unavailable=50, overloaded=9, unknown_model=9)], None),
        ([Outcomes(9, 0, 9, Counter(rejected=9))], None),
        ([FORBIDS] * (FORBIDDEN - 1), None),
        ([FORBIDS] * FORBIDDEN, 0),
        ([failed(forbidden=FORBIDDEN)], 0),
        ([FORBIDS, FORBIDS, ANSWER, FORBIDS, FORBIDS], None),  # it forbids some requests, not the key
        ([FORBIDS, FORBIDS, failed(throttled=1), FORBIDS], None),
        ([Outcomes(3, 5, 3, Counter(forbidden=5))] * 9, None),
    ],
)
def test_what_disables(rounds: list[Outcomes], expected: int | None) -> None:
    guard = ProviderGuard()
    for number, new in enumerate(rounds):
        round_of(guard, new, 2.0 * number)
    assert most(guard) == expected


def test_the_pauses_double_and_an_answer_ends_them() -> None:
    guard, at = ProviderGuard(), 0.0
    round_of(guard, QUOTA, at)
    pauses = []
    for _ in range(9):
        pauses.append(guard.disabled["zai"].seconds)
        assert round_of(guard, at=at + pauses[-1] - 0.1) == 0, "nothing is sent before its time"
        at += pauses[-1]
        assert round_of(guard, at=at) == 1, "then one at a time"
        assert round_of(guard, at=at + 500) == 1, "however long it takes until one comes"
        assert round_of(guard, failed(unavailable=1), at) == 1, "that says nothing of the account"
        round_of(guard, QUOTA, at)
    assert pauses == [30, 60, 120, 240, 480, 960, 1800, 1800, 1800]
    round_of(guard, at=at + 1800)
    assert round_of(guard, ANSWER, at + 1802) is None
    round_of(guard, QUOTA, at + 1804)
    assert guard.disabled["zai"].seconds == 1800, "one answer, and then no more: it goes on where it was"
    round_of(guard, at=at + 3604)
    round_of(guard, ANSWER, at + 3606)
    round_of(guard, QUOTA, at + 3606 + 1800)
    assert guard.disabled["zai"].seconds == FIRST_SECONDS, "it was open for longer than it was shut"


def test_a_client_that_did_not_wait_proves_nothing() -> None:
    guard = ProviderGuard()
    round_of(guard, QUOTA)
    round_of(guard, at=30)
    assert round_of(guard, Outcomes(answered=1), at=32) == 1
    assert round_of(guard, Outcomes(answered=1, proven=800), at=34) is None


def test_a_key_is_tried_every_five_minutes_at_least() -> None:
    guard, at = ProviderGuard(), 0.0
    for _ in range(9):
        round_of(guard, KEY, at)
        at += guard.disabled["zai"].seconds
        round_of(guard, at=at)
    assert guard.disabled["zai"].seconds == LONGEST_SECONDS[Reason.KEY_REFUSED] == 300


def test_a_change_of_the_object_starts_a_trial_at_once() -> None:
    guard = ProviderGuard()
    round_of(guard, KEY)
    assert round_of(guard, at=2) == 0
    assert round_of(guard, at=4, generation=2) == 1
    assert round_of(guard, KEY, at=6, generation=2) == 0
    assert guard.disabled["zai"].seconds == 60
    assert round_of(guard, at=8, generation=2) == 0


def test_words_say_what_to_do_and_when_it_is_tried() -> None:
    guard = ProviderGuard()
    round_of(guard, KEY)
    held = guard.disabled["zai"]
    assert held.reason == Reason.KEY_REFUSED
    assert "ExternalProvider zai refuses the key 'zai'" in held.message
    assert "nothing is sent there until 12:00:30 UTC, then one request" in held.message
    assert "at 'zai' of Secret spillway-provider-keys" in held.message
    round_of(guard, at=30)
    assert "one request at a time is sent there as a trial" in guard.disabled["zai"].message
    round_of(guard, QUOTA, at=32)
    assert guard.disabled["zai"].reason == Reason.QUOTA_SPENT
    assert "no money or no quota left" in guard.disabled["zai"].message
    assert "Top the account up" in guard.disabled["zai"].message


@pytest.mark.parametrize("reason", [Reason.KEY_REFUSED, Reason.QUOTA_SPENT, Reason.PROVIDER_ERRORS])
def test_a_new_leader_begins_with_a_trial_of_those_that_were_disabled(reason: str) -> None:
    healthy = {
        "type": ConditionType.HEALTHY,
        "status": "False",
        "reason": reason,
        "message": "as it was",
        "lastTransitionTime": "2026-11-23T12:00:00Z",
    }
    guard = ProviderGuard()
    guard.note(providers(conditions=[healthy]), {}, NOON)
    assert most(guard) == (None if reason == Reason.PROVIDER_ERRORS else 1)
    guard.note(providers(conditions=[healthy]), {"zai": ANSWER}, NOON + 2)
    assert most(guard) is None
    guard.note(providers(conditions=[healthy]), {}, NOON + 4)
    assert most(guard) is None, "its own status is not news"


def test_a_provider_that_is_gone_is_forgotten() -> None:
    guard = ProviderGuard()
    round_of(guard, QUOTA)
    guard.note({}, {}, NOON + 2)
    assert guard.disabled == {}
    assert round_of(guard, at=4) is None


news = st.builds(
    lambda answered, errors: Outcomes(answered, errors.total(), answered, errors),
    st.integers(0, 3),
    st.dictionaries(st.sampled_from(["quota", "credentials", "forbidden", "throttled"]), st.integers(0, 2)).map(
        lambda d: Counter({k: v for k, v in d.items() if v})
    ),
)


@given(st.lists(st.tuples(st.floats(0, 900), news), max_size=60))
def test_pauses_have_bounds_and_nothing_is_sent_in_them(rounds: list[tuple[float, Outcomes]]) -> None:
    guard, at = ProviderGuard(), 0.0
    for wait, new in rounds:
        at += wait
        before = guard.disabled.get("zai")
        round_of(guard, new, at)
        held = guard.disabled.get("zai")
        if held is not None:
            assert FIRST_SECONDS <= held.seconds <= LONGEST_SECONDS[held.reason]
            assert held.on_trial or held.until > NOON + at or held is before
        if before is not None and not before.on_trial and NOON + at < before.until:
            assert held is before, "what comes in late changes nothing"
        if before is not None and before.on_trial and held is None:
            assert new.proven
