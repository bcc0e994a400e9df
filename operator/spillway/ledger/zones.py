"""Time zones by name."""

from __future__ import annotations

from zoneinfo import ZoneInfo, ZoneInfoNotFoundError


class UnknownTimeZone(ValueError):
    """Somebody names a time zone that the tz database does not know: the user's error."""


def zone_of(name: str) -> ZoneInfo:
    """Raises UnknownTimeZone, in words for the user."""
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise UnknownTimeZone(
            f"time zone {name!r} is not in the tz database; use a name such as Europe/Berlin"
        ) from error
