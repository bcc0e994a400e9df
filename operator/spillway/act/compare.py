"""Does the live object already say what we would write? Fields that others or the API server added do not count."""

from __future__ import annotations

from typing import Any


def says(live: Any, wanted: Any) -> bool:
    """Whether `live` holds everything in `wanted`: maps may hold more, lists must match item by item."""
    if isinstance(wanted, dict):
        return isinstance(live, dict) and all(key in live and says(live[key], value) for key, value in wanted.items())
    if isinstance(wanted, list):
        return isinstance(live, list) and len(live) == len(wanted) and all(map(says, live, wanted))
    # An empty string or map is dropped by the API server's own round trip.
    return bool(live == wanted)


def merge_patch(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """RFC 7386: what turns `old` into `new`; lists are replaced whole, vanished keys become null."""
    patch: dict[str, Any] = dict.fromkeys(old.keys() - new.keys())
    for key, value in new.items():
        if isinstance(value, dict) and isinstance(old.get(key), dict):
            if inner := merge_patch(old[key], value):
                patch[key] = inner
        elif key not in old or old[key] != value:
            patch[key] = value
    return patch
