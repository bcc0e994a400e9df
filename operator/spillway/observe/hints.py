"""Known events (`spec.hints`) as times: those that go on, and the next of each."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError

from spillway.api import Hint
from spillway.decide.snapshot import HintWindow


def hint_windows(hints: Iterable[Hint], now: float) -> tuple[HintWindow, ...]:
    """Of each hint the last begin whose end is still to come, and the next begin. `now`: Unix seconds. A schedule that
    never comes (31 February) has none."""
    minute = int(now // 60)
    found = []
    for hint in hints:
        for begin in _begins(hint.schedule, hint.time_zone, minute):
            if begin + hint.duration_seconds > now:
                found.append(HintWindow(begin, begin + hint.duration_seconds, hint.min_replicas))
    return tuple(found)


@lru_cache(maxsize=4096)
def _begins(schedule: str, time_zone: str, minute: int) -> tuple[float, ...]:
    """The last begin up to the end of that minute, and the next after it. Cron's daylight saving rules: what the
    clock leaps over comes when it lands, what it passes twice comes once."""
    try:
        moment = datetime.fromtimestamp(minute * 60, ZoneInfo(time_zone))
        last = next(CronSim(schedule, moment + timedelta(minutes=1), reverse=True), None)
        following = next(CronSim(schedule, moment), None)
    except (CronSimError, ZoneInfoNotFoundError):
        return ()
    return tuple(at.astimezone(UTC).timestamp() for at in (last, following) if at is not None)
