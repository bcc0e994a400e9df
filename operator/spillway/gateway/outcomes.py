"""How attempts at a provider that end alike are labelled in metering.py.

`outcome[/answer[/usage/flags]][:number]`: `usage` is "metered" where there was one that cannot be, `flags` are Envoy's
of how the answer ended, and the number is a price tier's or, where nothing was told, that of bytes at most.
"""

from __future__ import annotations

from typing import NamedTuple

_BROKE_OFF = frozenset({"UC", "UR", "UPE"})
"""Envoy's flags of an answer that its sender cut."""
_NOTHING = ("", "-")


class Label(NamedTuple):
    """What the ledger knows the attempts by, as in `ledger.external.EgressSample`."""

    outcome: str
    answer: str = ""
    tier: int = 0
    most_bytes: int = 0


def read(text: str) -> Label:
    """Raises ValueError for a number that is none. How an answer without usage that counts ended makes an outcome."""
    label, _, number = text.partition(":")
    outcome, answer, usage, flags = (*label.split("/", 3), "", "", "")[:4]
    if outcome == "unmetered":
        if flags not in _NOTHING:
            outcome = "broken" if _BROKE_OFF.intersection(flags.split(",")) else "left"
        elif usage == "metered":
            outcome = "malformed"
    answer = "" if answer in _NOTHING else answer
    count = 0 if number in _NOTHING else int(number)
    if outcome in ("metered", "doubtful"):
        return Label(outcome, answer, tier=count)
    return Label(outcome, answer, most_bytes=count)
