"""What may be asked for in an entry of the ConfigMap, and what a mistake is told."""

from __future__ import annotations

import json
from contextlib import suppress
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from spillway.ledger import Amount, Book, Key, settle
from spillway.ledger.adjustment import FIELDS, Adjustment, BadAdjustment, parse
from spillway.ledger.book import Entry, add
from tests.unit.ledger.ledgers import ENTRY

NESTED = ("usd", "by", "reason", "model", "provider", "deployment", "namespace")
LAUGHS = "day: 2026-11-26\nto: &x0 [lol]\n" + "\n".join(
    f"{name}: &x{n + 1} [{', '.join([f'*x{n}'] * 20)}]" for n, name in enumerate(NESTED)
)
"""Written out it would be gigabytes."""


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
        ({"usd": ["-1"]}, "usd is no text: give an amount"),
        ({"usd": [0, [1], 0]}, "usd is no text: give an amount"),
        ({"usd": "1" * 500}, f"usd is '{'1' * 80}'…: give an amount"),
        ({"day": "0001-01-01"}, "day is '0001-01-01': give a day"),
        ({"usd": None}, "give one of usd (what to add, such as -1.77) and to (what the sum really is)"),
        ({"to": "3"}, "give one of usd"),
        ({"usd": None, "to": "-1"}, "to is '-1': nobody spends less than 0"),
        ({"reason": None}, "reason is missing: give a text"),
        ({"reason": " "}, "reason is ' ': give a text"),
        ({"reason": "\x1b[2Jinvoice"}, "reason is '\\x1b[2Jinvoice': give one line, without control characters"),
        ({"reason": "x" * 257}, "reason has 257 characters: at most 256 are kept"),
        ({"by": None}, "by is missing: give a text"),
        ({"model": {"name": "glm-5"}}, "model is no text: give a text"),
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
        ("inv", "[" * 10_000, "it is neither YAML nor JSON"),
        ("inv", LAUGHS, "namespace is no text: give a text"),
    ],
)
def test_what_is_no_entry_is_told(id: str, text: str, words: str) -> None:
    with pytest.raises(BadAdjustment) as told:
        parse(id, text)
    assert words in str(told.value)


ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.floats()
    | st.text()
    | st.sampled_from([*ENTRY.values(), "2026-11", "Europe/Berlin"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@given(st.dictionaries(st.sampled_from(FIELDS), ANYTHING).map(lambda odd: json.dumps(ENTRY | odd)) | st.text())
@example(json.dumps(ENTRY | {"day": "2026-11-26", "timeZone": "America/Metlakatla"}))
@example(json.dumps(ENTRY | {"day": "2000-01", "usd": None, "to": "1E-999999999"}))
def test_nothing_that_anybody_may_write_ends_the_leader(text: str) -> None:
    key = Key("chat", "glm-5", "external", "zai", "glm-5")
    now = datetime(2026, 11, 26, 12, tzinfo=UTC)
    with suppress(BadAdjustment):
        settle(add(Book(), [Entry(int(now.timestamp()), key, Amount(Decimal(1)))], 0), {"inv": parse("inv", text)}, now)
