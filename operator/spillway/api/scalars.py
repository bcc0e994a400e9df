"""Scalar types of the kinds: money, durations, shares, parameters and timestamps, each a string in YAML and a number in
Python."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer, WithJsonSchema

from spillway.api.markers import Keywords, Rules, cel

_MONEY_PATTERN = r"[0-9]{1,12}(\.[0-9]{1,9})?"
_PARAMETERS_PATTERN = r"^[0-9]{1,5}(\.[0-9]{1,3})?B$"
_SHARE_PATTERN = r"^(0(\.[0-9]{1,6})?|1(\.0{1,6})?)$"
_FACTOR_PATTERN = r"^[0-9]{1,3}(\.[0-9]{1,3})?$"
_NANODOLLAR = Decimal("0.000000001")
_DURATION_PART = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h|d)")
_DURATION_PATTERN = r"^([0-9]+(\.[0-9]+)?(ms|s|m|h|d))+$"
_DAYLESS_PATTERN = r"^([0-9]+(\.[0-9]+)?(ms|s|m|h))+$"
_UNIT_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def parse_duration(text: str) -> float:
    """Seconds of a duration such as ``10s``, ``15m``, ``6m10s`` or ``1h30m``, to the millisecond.

    Raises ValueError for anything else, a bare number included: its unit would be a guess.
    """
    if not re.fullmatch(_DURATION_PATTERN, text):
        raise ValueError(f"{text!r} is not a duration: write a number with a unit, such as 10s, 15m or 6m10s")
    return round(sum(float(number) * _UNIT_SECONDS[unit] for number, unit in _DURATION_PART.findall(text)), 3)


def format_duration(seconds: float) -> str:
    """The shortest exact spelling in hours, minutes, seconds and milliseconds: ``370.0`` -> ``6m10s``."""
    milliseconds = round(seconds * 1000)
    parts = []
    for unit, size in (("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)):
        count, milliseconds = divmod(milliseconds, size)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts) or "0s"


def format_money(usd: Decimal) -> str:
    """A decimal string with at least cents and at most nano-dollars: ``Decimal("50.4")`` -> ``50.40``."""
    whole, _, fraction = format(usd.quantize(_NANODOLLAR, ROUND_HALF_EVEN), "f").partition(".")
    text = f"{whole}.{fraction.rstrip('0'):0<2}"
    return text.removeprefix("-") if Decimal(text) == 0 else text


def format_parameters(count: float) -> str:
    """Parameters of a model in billions, to the million: ``744e9`` -> ``744B``."""
    return f"{count / 1e9:.3f}".rstrip("0").rstrip(".") + "B"


def format_share(share: float) -> str:
    """A share to the millionth: ``0.5`` -> ``0.5``."""
    return f"{share:.6f}".rstrip("0").rstrip(".")


def format_factor(factor: float) -> str:
    """A factor to the thousandth: ``1.2`` -> ``1.2``."""
    return f"{factor:.3f}".rstrip("0").rstrip(".")


def format_timestamp(moment: datetime) -> str:
    """RFC 3339 in UTC with whole seconds, as Kubernetes writes its own."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _duration_seconds(value: Any) -> Any:
    return parse_duration(value) if isinstance(value, str) else value


def _seconds_without_days(value: Any) -> Any:
    if isinstance(value, str) and not re.fullmatch(_DAYLESS_PATTERN, value):
        raise ValueError(f"{value!r} is not a duration in h, m, s and ms: write one such as 60ms, 15s or 2h")
    return _duration_seconds(value)


def _parameter_count(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    if not re.fullmatch(_PARAMETERS_PATTERN, value):
        raise ValueError(f"{value!r} is not a number of parameters: write billions with a B, such as 744B or 0.5B")
    return round(float(value.removesuffix("B")) * 1e9)


def _share(value: Any) -> Any:
    if isinstance(value, str) and not re.fullmatch(_SHARE_PATTERN, value):
        raise ValueError(f'{value!r} is not a share: write a decimal string from 0 to 1 such as "0.5"')
    return float(value) if isinstance(value, str) else value


def _factor(value: Any) -> Any:
    if isinstance(value, str) and not re.fullmatch(_FACTOR_PATTERN, value):
        raise ValueError(f'{value!r} is not a factor: write a decimal string such as "1.2"')
    return float(value) if isinstance(value, str) else value


def _decimal(value: Any) -> Any:
    if isinstance(value, str) and not re.fullmatch(rf"-?{_MONEY_PATTERN}", value):
        raise ValueError(f'{value!r} is not an amount: write US dollars as a decimal string such as "4.20"')
    if isinstance(value, float):
        raise ValueError(f'{value!r} is a float: write US dollars as a string in quotes such as "4.20"')
    return value


def _whole_seconds(moment: datetime) -> datetime:
    if moment.tzinfo is None:
        raise ValueError(f"{moment.isoformat()} has no time zone: write RFC 3339 such as 2026-11-23T10:00:00Z")
    try:
        return moment.astimezone(UTC).replace(microsecond=0)
    except OverflowError as error:
        raise ValueError(f"{moment.isoformat()} is out of range in UTC: write a year from 1 to 9999") from error


Seconds = Annotated[
    float,
    BeforeValidator(_duration_seconds),
    Field(ge=0),
    PlainSerializer(format_duration, return_type=str),
    WithJsonSchema({"type": "string", "maxLength": 32, "pattern": _DURATION_PATTERN}),
]
"""A duration: ``15m`` in YAML, seconds as a float in Python."""

SecondsWithoutDays = Annotated[
    float,
    BeforeValidator(_seconds_without_days),
    Field(ge=0),
    PlainSerializer(format_duration, return_type=str),
    WithJsonSchema({"type": "string", "maxLength": 32, "pattern": _DAYLESS_PATTERN}),
]
"""A duration that CEL's duration() can read, which knows no days."""

Latency = Annotated[
    SecondsWithoutDays,
    Field(gt=0, le=600),
    Rules(
        cel(
            "duration(self) > duration('0s') && duration(self) <= duration('10m')",
            "must be more than 0s and at most 10m",
        )
    ),
]
"""A duration of at most ten minutes."""

Money = Annotated[
    Decimal,
    BeforeValidator(_decimal),
    Field(ge=0),
    PlainSerializer(format_money, return_type=str),
    WithJsonSchema({"type": "string", "maxLength": 22, "pattern": f"^{_MONEY_PATTERN}$"}),
]
"""US dollars, not negative: a decimal string in YAML, a Decimal in Python."""

PositiveMoney = Annotated[Money, Field(gt=0), Rules(cel("double(self) > 0.0", "must be more than 0 US dollars"))]
"""US dollars, more than 0."""

SignedMoney = Annotated[
    Decimal,
    BeforeValidator(_decimal),
    PlainSerializer(format_money, return_type=str),
    WithJsonSchema({"type": "string", "maxLength": 23, "pattern": f"^-?{_MONEY_PATTERN}$"}),
]
"""US dollars of either sign."""

Parameters = Annotated[
    float,
    BeforeValidator(_parameter_count),
    Field(gt=0),
    PlainSerializer(format_parameters, return_type=str),
    WithJsonSchema({"type": "string", "maxLength": 10, "pattern": _PARAMETERS_PATTERN}),
    Rules(cel("double(self.replace('B', '')) > 0.0", "must be more than 0 parameters")),
]
"""Parameters of a model: ``744B`` in YAML, ``744e9`` in Python."""

Share = Annotated[
    float,
    BeforeValidator(_share),
    Field(ge=0, le=1),
    PlainSerializer(format_share, return_type=str),
    WithJsonSchema({"type": "string", "maxLength": 8, "pattern": _SHARE_PATTERN}),
]
"""A share from 0 to 1: a decimal string in YAML, a float in Python."""

Factor = Annotated[
    float,
    BeforeValidator(_factor),
    Field(gt=0),
    PlainSerializer(format_factor, return_type=str),
    WithJsonSchema({"type": "string", "maxLength": 8, "pattern": _FACTOR_PATTERN}),
    Rules(cel("double(self) > 0.0", "must be more than 0")),
]
"""A factor above 0: a decimal string in YAML, a float in Python."""

Count = Annotated[int, Field(ge=0), Keywords(format="int32")]
"""A number of things that were counted."""

Timestamp = Annotated[
    datetime,
    AfterValidator(_whole_seconds),
    PlainSerializer(format_timestamp, return_type=str),
    WithJsonSchema({"type": "string", "format": "date-time", "maxLength": 64}),
]
"""A moment with a time zone, in whole seconds."""
