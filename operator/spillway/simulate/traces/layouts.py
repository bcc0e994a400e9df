"""The layouts of trace files and how a file's first line tells them apart.

* ours: `t,n,tin,tout`: seconds, and sums over the ten seconds from t on;
* Azure LLM inference 2023 and 2024 (AzurePublicDataset): `TIMESTAMP,ContextTokens,GeneratedTokens`, one request a row;
  2023 writes `2023-11-16 18:17:03.9799600`, 2024 adds a UTC offset;
* BurstGPT (HPMLL/BurstGPT): `Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type`, seconds; later
  releases add `Session ID` and `Elapsed time`. Failed requests (no response tokens) stay: they arrived;
* Mooncake (kvcache-ai/Mooncake): JSON lines with `timestamp` (ms), `input_length`, `output_length`; `hash_ids` are
  not used, the simulator knows no prefix cache.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from math import isfinite

BINNED_COLUMNS = ("t", "n", "tin", "tout")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class BadValue(ValueError):
    """Why one value cannot be taken; whoever knows the file and the line turns it into BadTrace."""


def number(value: object) -> float:
    """A finite number that is not negative, from text or JSON."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise BadValue("is no number; write a plain decimal number")
    try:
        # Python reads 1_000 as a number; nobody who wrote a CSV means that
        taken = float("_" if isinstance(value, str) and "_" in value else value)
    except (ValueError, OverflowError):
        raise BadValue("is no number; write a plain decimal number") from None
    if not isfinite(taken):
        raise BadValue("is not finite; leave out or repair what was not measured")
    if taken < 0:
        raise BadValue("is negative; requests, tokens and times count up from zero")
    return taken


def moment(value: object) -> float:
    """Unix seconds of an ISO 8601 time; without an offset it is UTC."""
    try:
        read = datetime.fromisoformat(value.strip() if isinstance(value, str) else "")
        return ((read if read.tzinfo else read.replace(tzinfo=UTC)) - _EPOCH).total_seconds()
    except (ValueError, OverflowError):
        raise BadValue("is no time; write it like 2023-11-16 18:17:03.979960") from None


def milliseconds(value: object) -> float:
    """Seconds of a number of milliseconds."""
    return number(value) / 1000


@dataclass(frozen=True, slots=True)
class Layout:
    """A file with one request a row: the names of its columns and how its time reads in seconds."""

    name: str
    time: str
    input: str
    output: str
    seconds: Callable[[object], float]

    @property
    def columns(self) -> tuple[str, str, str]:
        return self.time, self.input, self.output


AZURE = Layout("Azure LLM inference", "TIMESTAMP", "ContextTokens", "GeneratedTokens", moment)
BURSTGPT = Layout("BurstGPT", "Timestamp", "Request tokens", "Response tokens", number)
MOONCAKE = Layout("Mooncake", "timestamp", "input_length", "output_length", milliseconds)
CSV_LAYOUTS = (AZURE, BURSTGPT)


def positions(header: list[str], columns: tuple[str, ...]) -> tuple[int, ...] | None:
    """Where `columns` stand in `header`, whatever the case and whatever else it has; None if one is not there."""
    names = [name.strip().casefold() for name in header]
    wanted = [name.casefold() for name in columns]
    return tuple(names.index(name) for name in wanted) if set(wanted) <= set(names) else None
