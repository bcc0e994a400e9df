"""When to write, and how the book fits into one object."""

from __future__ import annotations

import base64
from datetime import UTC, datetime, timedelta

import pytest

from spillway.ledger.book import Book, fold
from spillway.ledger.codec import CorruptLedger
from spillway.ledger.store import due
from spillway.ledger.stored import OBJECT_BYTES, PACKED_KEY, PLAIN_KEY, Stored, pack, unpack

from .ledgers import busy_book

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("seconds_ago", "flowing", "write"),
    [(None, False, True), (9.9, True, False), (10, True, True), (10, False, False), (60, False, True)],
)
def test_when_to_write(seconds_ago: float | None, flowing: bool, write: bool) -> None:
    last = None if seconds_ago is None else NOON - timedelta(seconds=seconds_ago)
    assert due(NOON, last, flowing) is write


def test_a_small_book_is_readable_and_a_large_one_is_compressed() -> None:
    small = pack(Book())
    assert isinstance(small, dict)
    assert unpack(Stored(small, {})) == (Book(), ())
    large = fold(busy_book(3, NOON), NOON)
    packed = pack(large)
    assert isinstance(packed, bytes)
    assert unpack(Stored({}, {PACKED_KEY: base64.b64encode(packed).decode()})) == (large, ())


def test_forty_busy_deployments_fit_into_one_object() -> None:
    """The stated capacity of the ledger object: deployments that spend on a provider and a pool around the clock."""
    packed = pack(fold(busy_book(40, NOON, days=40), NOON))
    assert isinstance(packed, bytes)
    assert len(packed) < OBJECT_BYTES


def test_what_fits_no_way_is_none() -> None:
    assert pack(busy_book(1, NOON, days=1), limit_bytes=100) is None


@pytest.mark.parametrize(
    ("data", "binary"),
    [
        ({}, {}),
        ({"other": "x"}, {}),
        ({PLAIN_KEY: ""}, {}),
        ({}, {PACKED_KEY: "%%%"}),
        ({}, {PACKED_KEY: base64.b64encode(b"not gzip").decode()}),
        ({}, {PACKED_KEY: base64.b64encode(b"\x1f\x8b\x08\x00").decode()}),
    ],
)
def test_an_object_without_a_ledger_is_corrupt_not_empty(data: dict[str, str], binary: dict[str, str | bytes]) -> None:
    with pytest.raises(CorruptLedger):
        unpack(Stored(data, binary))
