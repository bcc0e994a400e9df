"""The codec: what is written is read back; what is damaged is said to be, never taken for empty."""

from __future__ import annotations

import base64
import gzip
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spillway.ledger.adjustment import ID, Adjustment, Settled
from spillway.ledger.book import (
    IDLE,
    Amount,
    Book,
    Counter,
    Counts,
    IdleMark,
    Key,
    PodMark,
    Process,
    ProviderModel,
    Span,
    Watermark,
)
from spillway.ledger.codec import CorruptLedger, decode, encode
from spillway.ledger.external import UNTOLD
from spillway.ledger.learned import Learned, Line
from spillway.ledger.price import Price, Rates, Tier

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)

names = st.text(min_size=1, max_size=8)
money = st.decimals(allow_nan=False, allow_infinity=False, places=9)
whole = st.integers(0, 2**53)
external = st.builds(Key, names, names, st.just("external"), names, names, st.just(""))
gpu = st.builds(Key, names, names, st.just("gpu"), names, names, st.just(""))
ids = st.from_regex(ID, fullmatch=True)
keys = st.one_of(external, gpu, st.builds(lambda key, ref: key._replace(adjustment=ref), external, ids))
requests = st.builds(
    Adjustment,
    st.just("2026-11-23"),
    *[names] * 6,
    usd=st.none() | money,
    to=st.none() | money,
    time_zone=names,
)
offers = st.builds(ProviderModel, names, names)
answers = st.sampled_from(["", "json", "stream"])
told = st.tuples(st.sampled_from(["metered", "doubtful", "refused"]), st.sampled_from([0, 32_000]), answers, st.just(0))
untold = st.tuples(st.sampled_from(UNTOLD), st.just(0), answers, st.sampled_from([0, 4608]))
counters = st.builds(lambda pair, rest: Counter(*pair, *rest), st.tuples(*[names] * 4), told | untold)
rates = st.builds(Rates, money, money, money, money)
tiers = st.lists(st.builds(Tier, whole, rates), max_size=2).map(tuple)
fractions = st.floats(0, 1e15)
lines = st.builds(Line, *[fractions] * 7)
books = st.builds(
    Book,
    spans=st.dictionaries(
        st.builds(Span, whole, st.sampled_from([1, 96])),
        st.builds(
            lambda sold, rented: sold | rented,
            st.dictionaries(keys.filter(lambda k: k.source == "external"), st.builds(Amount, money, whole, money)),
            st.dictionaries(gpu, st.builds(lambda usd, seconds: Amount(usd, gpu_seconds=seconds), money, whole)),
        ),
        max_size=4,
    ),
    minutes=st.dictionaries(whole, st.dictionaries(keys, money, max_size=2), max_size=3),
    hour=st.dictionaries(whole, st.dictionaries(names, money, max_size=2), max_size=3),
    gateways=st.dictionaries(
        st.builds(Process, names, names),
        st.builds(
            Watermark,
            whole.map(lambda number: NOON + timedelta(microseconds=number)),
            st.dictionaries(counters, st.builds(Counts, *[whole] * 7), max_size=3),
        ),
        max_size=3,
    ),
    leases=st.dictionaries(st.builds(Process, names, names), whole, max_size=2),
    pods=st.dictionaries(
        names, st.builds(PodMark, keys, whole, money, whole, whole, whole, whole, st.booleans()), max_size=3
    ),
    learned=st.dictionaries(
        offers,
        st.builds(Learned, *[st.dictionaries(answers, lines, min_size=1)] * 2),
        max_size=2,
    ),
    prices=st.dictionaries(offers, st.builds(Price, money, money, money, st.none() | money, tiers), max_size=2),
    adjustments=st.dictionaries(
        ids,
        st.builds(Settled, requests, whole.map(lambda number: NOON + timedelta(microseconds=number)), money, names),
        max_size=2,
    ),
    idle=st.dictionaries(names, st.builds(IdleMark, whole, money, whole, whole), max_size=2),
)


@given(books)
def test_round_trip(book: Book) -> None:
    text = encode(book)
    assert decode(text) == book
    assert encode(decode(text)) == text


def test_who_does_not_know_tiers_and_cache_writes_reads_the_rest() -> None:
    """An operator of before reads the columns that it knows, and passes over what it does not."""
    counter = Counter("chat", "glm-5", "zai", "glm-5", "metered", 32_000)
    price = Price(Decimal(1), Decimal(1), Decimal(3), Decimal(2), (Tier(32_000, Rates(*[Decimal(4)] * 4)),))
    mark = Watermark(NOON, {counter: Counts(1, 2, 3, 4, 5, 6, 7)})
    book = Book(gateways={Process("gw-0", "p1"): mark}, prices={ProviderModel("zai", "glm-5"): price})
    document = json.loads(encode(book))
    assert document["counters"] == [["chat", "glm-5", "zai", "glm-5", "metered:32000"]]
    assert document["gateways"][0][3] == [[0, 1, 2, 3, 4, 5, 6]]
    assert document["prices"] == [["zai", "glm-5", "1", "1", "3"]]
    for unknown in ("cacheWrites", "cacheWritePrices", "priceTiers"):
        del document[unknown]
    assert decode(json.dumps(document)).prices == {
        ProviderModel("zai", "glm-5"): Price(Decimal(1), Decimal(1), Decimal(3))
    }


def test_who_does_not_know_lines_reads_their_sums() -> None:
    zai = ProviderModel("zai", "glm-5")
    counter = Counter("chat", "glm-5", "zai", "glm-5", "unmetered", answer="stream", most_bytes=4608)
    learned = Learned({"json": Line.of(2, 8000, 2000)}, {"json": Line.of(1, 900, 100), "stream": Line.of(1, 9000, 40)})
    book = Book(gateways={Process("gw-0", "p1"): Watermark(NOON, {counter: Counts(1)})}, learned={zai: learned})
    document = json.loads(encode(book))
    assert document["counters"] == [["chat", "glm-5", "zai", "glm-5", "unmetered/stream:4608"]]
    assert document["learned"] == [["zai", "glm-5", 2, 2000, 140, 8000, 9900]]
    del document["lines"]
    assert decode(json.dumps(document)).learned == {
        zai: Learned({"": Line.of(2, 8000, 2000)}, {"": Line.of(2, 9900, 140)})
    }


def test_money_is_text() -> None:
    key = Key("chat", "glm-5", "external", "zai", "glm-5")
    exact = Decimal("0.1234567890123456789")
    text = encode(Book(spans={Span(1, 1): {key: Amount(exact, 1, exact)}}))
    assert '"0.1234567890123456789"' in text
    assert decode(text).spans[Span(1, 1)][key].usd == exact


def test_operators_of_before_read_what_is_new_and_keep_what_was_applied() -> None:
    """They know five names of a key and three numbers of an amount, pass over what they do not know, and drop it."""
    key = Key("chat", "glm-5", "external", "zai", "glm-5")
    idle = Key(IDLE, IDLE, "gpu", "h200", "")
    book = Book(
        spans={
            Span(1, 1): {
                key: Amount(Decimal(5), 7, Decimal(4)),
                key._replace(adjustment="inv-1"): Amount(Decimal(-3), 0, Decimal(-3)),
                idle: Amount(Decimal(2), gpu_seconds=1800),
            }
        },
        adjustments={
            "inv-1": Settled(Adjustment("2026-11-23", "a", "b", "c", "d", "e", "f", Decimal(-3)), NOON, Decimal(-3))
        },
        idle={"h200": IdleMark(8, Decimal(4), 900)},
    )
    document = json.loads(encode(book))
    assert document["keys"] == [
        ["(idle)", "(idle)", "gpu", "h200", ""],
        ["chat", "glm-5", "external", "zai", "glm-5"],
        ["chat", "glm-5", "external", "zai", "glm-5 (adjustment inv-1)"],
    ]
    assert document["spans"] == [[1, 1, [[0, "2", 1800, "0"], [1, "5", 7, "4"], [2, "-3", 0, "-3"]]]]
    del document["adjustments"], document["idle"]
    assert decode(json.dumps(document)) == replace(book, adjustments={}, idle={})


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        "[]",
        "null",
        "{",
        '{"version": 2}',
        '{"version": 3}',
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
        ("keys", [["chat", "glm-5", "external", "zai", "glm-5", "inv-1"]]),
        ("adjustments", [["inv-1", {"day": "2026-11-23"}, "2026-11-23T12:00:00+00:00", "-3"]]),
        ("adjustments", [["inv-1"]]),
        ("idle", [["h200", 8, 4.2, 900, 0]]),
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
        ("counters", [["chat", "glm-5", "zai", "glm-5", "metered:x"]]),
        ("priceTiers", [["zai", "glm-5", 32_000, "1"]]),
        ("priceTiers", [["zai", "glm-5", "32000", "1", "1", "1", "1"]]),
        ("cacheWritePrices", [["zai", "glm-5", 1]]),
        ("cacheWrites", [["gw-0", "p1", [[0, 1]]]]),
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
