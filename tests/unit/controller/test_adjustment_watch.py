"""What people ask for, read entry by entry, and what is told of it."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from spillway.controller.adjustment_watch import AdjustmentWatch
from spillway.ledger import Book, Settled, Settlement
from tests.unit.ledger.ledgers import ENTRY

NOON = datetime(2026, 11, 26, 12, tzinfo=UTC)


class Events:
    def __init__(self) -> None:
        self.said: list[tuple[str, str, str]] = []

    async def record(self, regarding: Any, reason: str, message: str, kind: str = "Normal") -> None:
        assert (regarding["kind"], regarding["metadata"]["name"]) == ("ConfigMap", "spillway-adjustments")
        self.said.append((kind, reason, message))


def config_map(**entries: str) -> dict[str, Any]:
    return {"metadata": {"name": "spillway-adjustments", "uid": "u"}, "data": entries}


def watch() -> tuple[AdjustmentWatch, Events]:
    events = Events()
    return AdjustmentWatch(None, "spillway-system", events), events  # type: ignore[arg-type]


async def test_an_entry_that_is_wrong_is_told_once_and_hinders_no_other() -> None:
    found, events = watch()
    for _ in range(2):
        await found.take(config_map(good=json.dumps(ENTRY), bad=json.dumps(ENTRY | {"usd": "much"})))
        assert set(found.requests) == {"good"}
    assert events.said == [
        (
            "Warning",
            "AdjustmentRefused",
            "bad: usd is 'much': give an amount in USD such as -1.77, with at most 9 decimals",
        )
    ]
    await found.take(config_map(bad=json.dumps(ENTRY)))
    assert set(found.requests) == {"bad"}
    await found.take(None)
    assert found.requests == {}


async def test_what_came_of_it_is_told() -> None:
    found, events = watch()
    await found.take(config_map(one=json.dumps(ENTRY), two=json.dumps(ENTRY)))
    applied = Settled(found.requests["one"], NOON, Decimal("-1.77"))
    refused = Settled(found.requests["two"], NOON, Decimal(0), "all of it metered")
    await found.tell(Settlement(Book(), {"one": applied, "two": refused}, {}))
    for _ in range(2):
        await found.tell(Settlement(Book(), {}, {"one": "was applied with other content"}))
    assert events.said == [
        (
            "Normal",
            "AdjustmentApplied",
            "one: -1.77 USD for chat/glm-5 at zai (glm-5) on 2026-11-26, asked for by ada: invoice 4711",
        ),
        ("Warning", "AdjustmentRefused", "two: all of it metered"),
        ("Warning", "AdjustmentRefused", "one: was applied with other content"),
    ]
