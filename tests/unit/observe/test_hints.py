"""Known events as times, on days with 23 and 25 hours, too."""

from __future__ import annotations

from datetime import datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spillway.api import Hint
from spillway.observe.hints import hint_windows

BERLIN = ZoneInfo("Europe/Berlin")


def hint(schedule: str, duration: str = "2h", zone: str = "Europe/Berlin", replicas: int = 4) -> Hint:
    return Hint.model_validate({"schedule": schedule, "timeZone": zone, "duration": duration, "minReplicas": replicas})


def at(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=BERLIN).timestamp()


@pytest.mark.parametrize(
    ("schedule", "now", "begins"),
    [
        ("0 8 * * 1-5", "2026-11-27T07:59", ["2026-11-27T08:00"]),  # a Friday; the last one is over
        ("0 8 * * 1-5", "2026-11-27T08:00", ["2026-11-27T08:00", "2026-11-30T08:00"]),
        ("0 8 * * 1-5", "2026-11-27T09:59", ["2026-11-27T08:00", "2026-11-30T08:00"]),
        ("0 8 * * 1-5", "2026-11-27T10:00", ["2026-11-30T08:00"]),
        ("30 2 * * *", "2026-03-29T01:00", ["2026-03-29T03:00"]),  # 02:30 does not come that night
        ("30 2 * * *", "2026-10-25T00:00", ["2026-10-25T02:30"]),  # comes twice, counts once
        ("0 0 29 2 *", "2026-11-27T00:00", ["2028-02-29T00:00"]),
        ("0 0 31 2 *", "2026-11-27T00:00", []),  # never
    ],
)
def test_begins(schedule: str, now: str, begins: list[str]) -> None:
    found = hint_windows([hint(schedule)], at(now))
    assert [w.begin for w in found] == [at(b) for b in begins]
    assert all(w.end == w.begin + 7200 and w.min_replicas == 4 for w in found)


@given(st.floats(1.7e9, 2e9), st.sampled_from(["*/7 * * * *", "0 8 * * 1-5", "15 3 1,15 * 0", "*/99 * * * *"]))
def test_what_is_told_is_not_over_and_the_next_is_not_far(now: float, schedule: str) -> None:
    found = hint_windows([hint(schedule, "1h")], now)
    assert all(w.end > now for w in found)
    assert sum(w.begin > now for w in found) <= 1
    assert len(found) >= 1
