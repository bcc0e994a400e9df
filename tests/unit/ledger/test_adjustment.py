"""What may be asked for in an entry of the ConfigMap, and what a mistake is told."""

from __future__ import annotations

import json
from decimal import Decimal

import pytest

from spillway.ledger.adjustment import Adjustment, BadAdjustment, parse

ENTRY = {
    "day": "2026-11-26",
    "namespace": "chat",
    "deployment": "glm-5",
    "provider": "zai",
    "model": "glm-5",
    "usd": "-1.77",
    "reason": "invoice 4711",
    "by": "ada",
}


def test_an_entry_is_yaml_or_json() -> None:
    text = """
    # An amount needs no quotes, and stays exact.
    day: 2026-11-26
    namespace: chat
    deployment: glm-5
    provider: zai
    model: glm-5
    usd: -1.770000001
    reason: invoice 4711
    by: ada
    """
    found = parse("inv-4711", text)
    assert found == Adjustment(
        "2026-11-26", "chat", "glm-5", "zai", "glm-5", "invoice 4711", "ada", usd=Decimal("-1.770000001")
    )
    assert parse("inv-4711", json.dumps(found.document())) == found
    month = ENTRY | {"day": "2026-10", "usd": None, "to": "0", "timeZone": "Europe/Berlin"}
    found = parse("2026-10.zai_1", json.dumps({k: v for k, v in month.items() if v is not None}))
    assert (found.day, found.time_zone) == ("2026-10", "Europe/Berlin")
    assert (found.usd, found.to) == (None, Decimal(0))
    assert parse("x", json.dumps(found.document())) == found


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"day": "yesterday"}, "day is 'yesterday': give a day such as 2026-11-26, or a month such as 2026-11"),
        ({"day": "2026-02-30"}, "day is '2026-02-30': give a day"),
        ({"day": "2026-13"}, "day is '2026-13': give a day"),
        ({"day": "2026-1-1"}, "day is '2026-1-1': give a day"),
        ({"timeZone": "Mars/Base"}, "time zone 'Mars/Base' is not in the tz database"),
        ({"usd": "5 dollars"}, "usd is '5 dollars': give an amount in USD such as -1.77"),
        ({"usd": "NaN"}, "usd is 'NaN': give an amount"),
        ({"usd": "1e12"}, "usd is '1e12': give an amount"),
        ({"usd": "0.0000000001"}, "with at most 9 decimals"),
        ({"usd": "0"}, "usd is '0': give an amount other than 0"),
        ({"usd": ["-1"]}, "usd is ['-1']: give an amount"),
        ({"usd": None}, "give one of usd (what to add, such as -1.77) and to (what the sum really is)"),
        ({"to": "3"}, "give one of usd"),
        ({"usd": None, "to": "-1"}, "to is '-1': nobody spends less than 0"),
        ({"reason": None}, "reason is missing: give a text"),
        ({"reason": " "}, "reason is  : give a text"),
        ({"reason": "x" * 257}, "reason has 257 characters: at most 256 are kept"),
        ({"by": None}, "by is missing: give a text"),
        ({"model": {"name": "glm-5"}}, "model is {'name': 'glm-5'}: give a text"),
        ({"deploymnet": "glm-5"}, "deploymnet is no field of an adjustment: give day, timeZone, namespace, deployment"),
    ],
)
def test_a_mistake_names_field_value_and_fix(changed: dict[str, object], words: str) -> None:
    entry = {name: value for name, value in (ENTRY | changed).items() if value is not None}
    with pytest.raises(BadAdjustment) as told:
        parse("inv-4711", json.dumps(entry))
    assert words in str(told.value)


@pytest.mark.parametrize(
    ("id", "text", "words"),
    [
        ("inv/4711", json.dumps(ENTRY), "the id is 'inv/4711': give up to 63 letters"),
        ("x" * 64, json.dumps(ENTRY), "give up to 63 letters"),
        ("inv", "day: [", "it is neither YAML nor JSON"),
        ("inv", "-5 USD", "it is no mapping: give the fields day,"),
        ("inv", "", "it is no mapping"),
    ],
)
def test_what_is_no_entry_is_told(id: str, text: str, words: str) -> None:
    with pytest.raises(BadAdjustment) as told:
        parse(id, text)
    assert words in str(told.value)
