from __future__ import annotations

from datetime import UTC, datetime, timedelta

from spillway.api import Condition, ConditionType, Reason, find_condition, set_condition, without_condition

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)


def ready(conditions: tuple[Condition, ...], status: str, minutes: int, message: str = "") -> tuple[Condition, ...]:
    now = NOON + timedelta(minutes=minutes)
    return set_condition(conditions, ConditionType.READY, status, Reason.STARTING, message, minutes, now)  # type: ignore[arg-type]


def test_a_new_condition_is_added_at_the_end() -> None:
    foreign = Condition(type="example.com/Audited", status="True", last_transition_time=NOON, reason="Ok", message="")
    assert [condition.type for condition in ready((foreign,), "False", 1)] == ["example.com/Audited", "Ready"]


def test_transition_time_moves_only_when_the_status_flips() -> None:
    first = ready((), "False", 0)
    second = ready(first, "False", 5, "still starting")
    third = ready(second, "True", 7)
    assert second[0].last_transition_time == NOON
    assert second[0].message == "still starting"
    assert second[0].observed_generation == 5
    assert third[0].last_transition_time == NOON + timedelta(minutes=7)


def test_other_conditions_keep_their_place_and_content() -> None:
    before = set_condition(ready((), "False", 0), "Paused", "True", Reason.PAUSED_BY_ANNOTATION, "", 0, NOON)
    after = ready(before, "True", 9)
    assert [condition.type for condition in after] == ["Ready", "Paused"]
    assert after[1] is before[1]


def test_find_and_remove() -> None:
    conditions = ready((), "True", 0)
    assert find_condition(conditions, "Ready") is conditions[0]
    assert find_condition(conditions, "Paused") is None
    assert without_condition(conditions, "Ready") == ()
