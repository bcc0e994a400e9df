"""Adjustments: what a person wants an estimate to be instead, and what came of it.

A request is an entry of the ConfigMap `spillway-adjustments`: its key is the id, its value YAML or JSON. Which ones
are applied, and when, `settle` decides.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal, InvalidOperation
from typing import Any, Final

import yaml

from .zones import UnknownTimeZone, zone_of

CONFIG_MAP: Final = "spillway-adjustments"
ID: Final = re.compile(r"[-._a-zA-Z0-9]{1,63}")
NAMES: Final = ("namespace", "deployment", "provider", "model")
FIELDS: Final = ("day", "timeZone", *NAMES, "usd", "to", "reason", "by")
LONGEST: Final = {"reason": 256}
LONGEST_NAME: Final = 253
MOST_USD: Final = Decimal(10**9)
DECIMALS: Final = 9
DAY_OR_MONTH: Final = re.compile(r"2[0-9]{3}-[0-9]{2}(-[0-9]{2})?")
SHOWN: Final = 80
"""Characters of a wrong value that a message repeats."""


class BadAdjustment(ValueError):
    """The request cannot be understood; names the field, its value and what to give."""


@dataclass(frozen=True, slots=True)
class Adjustment:
    """USD to add to what a deployment spent at a provider's model on a day (`usd`, signed), or what the sum of that day
    really is (`to`): one of the two. `day` is 2026-11-26, or 2026-11 for a whole month, as `bill --by day` shows it in
    the time zone."""

    day: str
    namespace: str
    deployment: str
    provider: str
    model: str
    reason: str
    by: str
    usd: Decimal | None = None
    to: Decimal | None = None
    time_zone: str = "UTC"

    @property
    def whose(self) -> str:
        return f"{self.namespace}/{self.deployment} at {self.provider} ({self.model})"

    def document(self) -> dict[str, str]:
        """As `parse` reads it."""
        amount = {"usd": self.usd, "to": self.to}
        return {
            "day": self.day,
            "timeZone": self.time_zone,
            **{name: getattr(self, name) for name in NAMES},
            **{name: f"{value:f}" for name, value in amount.items() if value is not None},
            "reason": self.reason,
            "by": self.by,
        }


@dataclass(frozen=True, slots=True)
class Settled:
    """What came of a request: the USD that were added, or why none were (`refusal`, in words for the user)."""

    adjustment: Adjustment
    at: datetime
    usd: Decimal
    refusal: str = ""


def parse(id: str, text: str) -> Adjustment:
    """The request in an entry of the ConfigMap. Raises BadAdjustment."""
    if not ID.fullmatch(id):
        raise BadAdjustment(f"the id is {id!r}: give up to 63 letters, digits, dots, dashes and underscores")
    try:
        # Every scalar stays text: YAML would make a float of an amount.
        found = yaml.load(text, Loader=yaml.BaseLoader)
    except (yaml.YAMLError, RecursionError) as error:
        raise BadAdjustment(f"it is neither YAML nor JSON: {' '.join(str(error).split())[:SHOWN]}") from error
    if not isinstance(found, dict):
        raise BadAdjustment(f"it is no mapping: give the fields {', '.join(FIELDS)}")
    unknown = [str(name) for name in found if name not in FIELDS]
    if unknown:
        raise BadAdjustment(f"{unknown[0][:SHOWN]} is no field of an adjustment: give {', '.join(FIELDS)}")
    return made({str(name): value for name, value in found.items()})


def made(fields: Mapping[str, Any], option: str = "") -> Adjustment:
    """The request with these fields, checked by itself; `option` goes before a field's name in messages. Raises
    BadAdjustment."""
    texts = {name: _text(fields, name, option) for name in ("day", *NAMES, "reason", "by")}
    if not DAY_OR_MONTH.fullmatch(texts["day"]) or not _exists(texts["day"]):
        raise BadAdjustment(
            f"{option}day is {texts['day']!r}: give a day such as 2026-11-26, or a month such as 2026-11"
        )
    time_zone = _text(fields, "timeZone", option) if fields.get("timeZone") else "UTC"
    try:
        zone_of(time_zone)
    except UnknownTimeZone as error:
        raise BadAdjustment(str(error)) from error
    usd, to = (_usd(fields, name, option) for name in ("usd", "to"))
    if (usd is None) == (to is None):
        raise BadAdjustment(
            f"give one of {option}usd (what to add, such as -1.77) and {option}to (what the sum really is)"
        )
    if usd is not None and usd == 0:
        raise BadAdjustment(f"{option}usd is {_shown(fields['usd'])}: give an amount other than 0")
    if to is not None and to < 0:
        raise BadAdjustment(f"{option}to is {_shown(fields['to'])}: nobody spends less than 0")
    return Adjustment(**texts, usd=usd, to=to, time_zone=time_zone)


def _shown(value: Any) -> str:
    """A wrong value as a message has it: what is no text may be of any size once it is written out."""
    if not isinstance(value, str):
        return "no text"
    return repr(value) if len(value) <= SHOWN else f"{value[:SHOWN]!r}…"


def _exists(day: str) -> bool:
    try:
        datetime.fromisoformat(day if len(day) > len("2026-11") else f"{day}-01")
    except ValueError:
        return False
    return True


def _text(fields: Mapping[str, Any], name: str, option: str) -> str:
    value, longest = fields.get(name), LONGEST.get(name, LONGEST_NAME)
    if value is None or not isinstance(value, str) or not value.strip():
        raise BadAdjustment(f"{option}{name} is {'missing' if value is None else _shown(value)}: give a text")
    if not value.isprintable():
        raise BadAdjustment(f"{option}{name} is {_shown(value)}: give one line, without control characters")
    if len(value) > longest:
        raise BadAdjustment(f"{option}{name} has {len(value)} characters: at most {longest} are kept")
    return value.strip()


def _usd(fields: Mapping[str, Any], name: str, option: str) -> Decimal | None:
    text = fields.get(name)
    if text is None:
        return None
    words = f"{option}{name} is {_shown(text)}: give an amount in USD such as -1.77, with at most {DECIMALS} decimals"
    try:
        amount = Decimal(text if isinstance(text, str) else "")
    except InvalidOperation:
        raise BadAdjustment(words) from None
    if not amount.is_finite() or abs(amount) > MOST_USD or amount != amount.quantize(Decimal(1).scaleb(-DECIMALS)):
        raise BadAdjustment(words)
    return amount
