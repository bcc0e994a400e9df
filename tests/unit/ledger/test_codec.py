"""The codec: what is written is read back; what is damaged is said to be, never taken for empty."""

from __future__ import annotations

import base64
import gzip
import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spillway.ledger.book import (
    Amount,
    Book,
    Counter,
    Counts,
    Key,
    Learned,
    PodMark,
    Price,
    Process,
    ProviderModel,
    Span,
    Watermark,
)
from spillway.ledger.codec import CorruptLedger, decode, encode

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)

names = st.text(min_size=1, max_size=8)
money = st.decimals(allow_nan=False, allow_infinity=False, places=9)
whole = st.integers(0, 2**53)
keys = st.builds(Key, names, names, st.sampled_from(["external", "gpu"]), names, names)
offers = st.builds(ProviderModel, names, names)
counters = st.builds(Counter, names, names, names, names, st.sampled_from(["metered", "unmetered", "refused"]))
fractions = st.floats(0, 1e15)
books = st.builds(
    Book,
    spans=st.dictionaries(
        st.builds(Span, whole, st.sampled_from([1, 96])),
        st.dictionaries(keys, st.builds(Amount, money, whole, money), max_size=3),
        max_size=4,
    ),
    minutes=st.dictionaries(whole, st.dictionaries(keys, money, max_size=2), max_size=3),
    hour=st.dictionaries(whole, st.dictionaries(names, money, max_size=2), max_size=3),
    gateways=st.dictionaries(
        st.builds(Process, names, names),
        st.builds(
            Watermark,
            whole.map(lambda number: NOON + timedelta(microseconds=number)),
            st.dictionaries(counters, st.builds(Counts, *[whole] * 6), max_size=3),
        ),
        max_size=3,
    ),
    leases=st.dictionaries(st.builds(Process, names, names), whole, max_size=2),
    pods=st.dictionaries(
        names, st.builds(PodMark, keys, whole, money, whole, whole, whole, whole, st.booleans()), max_size=3
    ),
    learned=st.dictionaries(offers, st.builds(Learned, *[fractions] * 5), max_size=2),
    prices=st.dictionaries(offers, st.builds(Price, money, money, money), max_size=2),
)


@given(books)
def test_round_trip(book: Book) -> None:
    text = encode(book)
    assert decode(text) == book
    assert encode(decode(text)) == text


def test_money_is_text() -> None:
    key = Key("chat", "glm-5", "external", "zai", "glm-5")
    exact = Decimal("0.1234567890123456789")
    text = encode(Book(spans={Span(1, 1): {key: Amount(exact, 1, exact)}}))
    assert '"0.1234567890123456789"' in text
    assert decode(text).spans[Span(1, 1)][key].usd == exact


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        "[]",
        "null",
        "{",
        '{"version": 2}',
        '{"version": "1"}',
        '{"version": 1}',
        "[" * 100_000,
    ],
)
def test_what_is_not_a_ledger_is_corrupt(text: str) -> None:
    with pytest.raises(CorruptLedger):
        decode(text)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("keys", [["chat", "glm-5", "electricity", "zai", "glm-5"]]),
        ("keys", [["chat"]]),
        ("keys", None),
        ("spans", [[1, 1, [[0, 0.5, 1, "0"]]]]),
        ("spans", [[1, 1, [[0, "NaN", 1, "0"]]]]),
        ("spans", [[1, 1, [[7, "1", 1, "0"]]]]),
        ("spans", [[1, 1, [[-1, "1", 1, "0"]]]]),
        ("spans", [[1, 1, [[0, "one dollar", 1, "0"]]]]),
        ("spans", [[1.5, 1, []]]),
        ("gateways", [["gw-0", "p1", "2026-11-23T12:00:00", []]]),
        ("gateways", [["gw-0", "p1", "yesterday", []]]),
        ("pods", [["uid", 0, 4, "4.20", 0, 1, 1, 1, "closed"]]),
        ("prices", [["zai", "glm-5", "1"]]),
    ],
)
def test_damaged_content_is_corrupt(field: str, value: object) -> None:
    key = Key("chat", "glm-5", "external", "zai", "glm-5")
    document = json.loads(encode(Book(spans={Span(1, 1): {key: Amount(Decimal(1))}})))
    assert decode(json.dumps(document)).spans
    with pytest.raises(CorruptLedger, match="damaged"):
        decode(json.dumps(document | {field: value}))


def test_a_truncated_ledger_is_corrupt() -> None:
    key = Key("chat", "glm-5", "external", "zai", "glm-5")
    text = encode(Book(spans={Span(1, 1): {key: Amount(Decimal(1))}}))
    for length in range(len(text)):
        with pytest.raises(CorruptLedger):
            decode(text[:length])


def test_packed_bytes_of_something_else_are_not_a_ledger() -> None:
    with pytest.raises(CorruptLedger):
        decode(base64.b64encode(gzip.compress(b"{}")).decode())
