"""Pages: what is written again is what changed, and nothing is lost or counted twice."""

from __future__ import annotations

import base64
import gzip
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spillway.ledger.book import Amount, Book, Entry, Key, Span, add, fold, total
from spillway.ledger.codec import CorruptLedger, PageRef, decode, decode_paged, encode
from spillway.ledger.pages import PAGE_AMOUNTS, MissingPage, Page, groups, joined, turned, unpacked
from spillway.ledger.stored import (
    NAME,
    OBJECT_BYTES,
    PLAIN_KEY,
    LedgerTooLarge,
    Room,
    Stored,
    laid_out,
    pack,
    read,
)

from .ledgers import busy_book

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
ZAI = Key("chat", "glm-5", "external", "zai", "glm-5")
B200 = Key("chat", "glm-5", "gpu", "blackwell-b200", "glm-5")


@cache
def bucket(amounts: int) -> dict[Key, Amount]:
    return {ZAI._replace(deployment=f"model-{n}"): Amount(Decimal(1)) for n in range(amounts)}


def later(book: Book, at: datetime, usd: str = "0.5") -> Book:
    return add(book, [Entry(int(at.timestamp()), ZAI, Amount(Decimal(usd), 1))], int(NOON.timestamp()))


spans = st.dictionaries(
    st.builds(Span, st.integers(0, 2_000), st.sampled_from([1, 4, 96, 2976])),
    st.sampled_from([1, 30, 4_000, PAGE_AMOUNTS, PAGE_AMOUNTS + 1]).map(bucket),
    max_size=12,
)


@given(spans)
def test_every_bucket_is_in_one_group_and_none_is_too_large(found: dict[Span, dict[Key, Amount]]) -> None:
    laid = list(groups(found))
    assert sorted(span for group in laid for span in group) == sorted(found)
    for group in laid:
        assert all(group[span] is found[span] for span in group)
        assert len(group) == 1 or sum(len(of) for of in group.values()) <= PAGE_AMOUNTS


def test_what_is_added_to_one_time_moves_no_other() -> None:
    found = {Span(n, 1): bucket(3_000) for n in range(1_000, 1_032)}
    before = list(groups(found))
    after = list(groups(found | {Span(1_005, 1): bucket(9_000)}))
    assert len(before) == 16  # two quarter-hours of 3,000 each: four are too many
    assert [group for group in before if Span(1_005, 1) not in group and Span(1_004, 1) not in group] == [
        group for group in after if not group.keys() & {Span(1_004, 1), Span(1_005, 1)}
    ]


def test_the_present_is_open_and_what_ended_an_hour_ago_is_closed() -> None:
    book = busy_book(2, NOON, days=1)
    pages, opened = turned(book.spans, NOON, ())
    assert {span.begins for span in opened} == {NOON - timedelta(minutes=15 * n) for n in range(5)}
    assert joined(opened, pages) == book.spans


def test_a_page_is_made_anew_only_where_a_bucket_changed() -> None:
    book = fold(busy_book(40, NOON, days=40), NOON)
    pages, _ = turned(book.spans, NOON, ())
    assert len(pages) > 4
    again, _ = turned(later(book, NOON).spans, NOON, pages)
    assert [a is b for a, b in zip(again, pages, strict=True)] == [True] * len(pages)
    yesterday = later(book, NOON - timedelta(days=1))
    changed, _ = turned(yesterday.spans, NOON, pages)
    assert len([page for page in changed if page not in pages]) == 1
    # A quarter of an hour later one more quarter is closed, and one is folded: that is one page each.
    then = NOON + timedelta(minutes=15)
    following, _ = turned(fold(later(book, NOON), then).spans, then, pages)
    assert len([page for page in following if page not in pages]) <= 2


def test_of_very_many_amounts_those_older_than_a_day_are_kept_by_the_hour(monkeypatch: pytest.MonkeyPatch) -> None:
    book = fold(busy_book(3, NOON, days=40), NOON)
    fine = laid_out(book, NOON, {}, [Room()])
    assert fine.book is book
    monkeypatch.setattr("spillway.ledger.stored.FINE_AMOUNTS", 3_000)
    coarse = laid_out(book, NOON, {}, [Room()])
    assert coarse.book == fold(book, NOON, quarters=4) != book
    assert total(coarse.book) == total(book)


def test_pages_of_a_write_that_came_to_nothing_take_no_room_again() -> None:
    book = fold(busy_book(20, NOON, days=40), NOON)
    first = laid_out(book, NOON, {}, [Room()])
    full = Room(OBJECT_BYTES, {ref.name for ref in first.pages})
    assert laid_out(book, NOON, {}, [full]).pages.keys() == first.pages.keys()
    with pytest.raises(LedgerTooLarge, match="does not fit into 1 objects"):
        laid_out(book, NOON, {}, [Room(OBJECT_BYTES)])


def test_a_page_is_read_as_it_was_written() -> None:
    found = {Span(1, 1): {ZAI: Amount(Decimal("0.1234567890123456789"), 5)}, Span(2, 4): {B200: Amount(gpu_seconds=7)}}
    page = Page.of(found)
    ref = PageRef(3, page.name)
    assert unpacked(ref, {page.name: page.text}, "x") == page
    with pytest.raises(MissingPage, match=f"ConfigMap system/x lacks page {page.name}"):
        unpacked(ref, {}, "system/x")


def damaged(text: str) -> list[str]:
    packed = base64.b64decode(text)
    other = gzip.compress(encode(Book()).encode(), mtime=0)
    return ["", "%%%", text[:-8], base64.b64encode(packed[:-1] + b"x").decode(), base64.b64encode(other).decode()]


def test_a_damaged_page_is_corrupt_not_empty() -> None:
    page = Page.of({Span(1, 1): {ZAI: Amount(Decimal(1))}})
    for text in damaged(page.text):
        with pytest.raises(CorruptLedger, match=page.name):
            unpacked(PageRef(0, page.name), {page.name: text}, "x")


def test_time_in_two_places_is_corrupt() -> None:
    pages = [Page.of({Span(1, 1): {ZAI: Amount(Decimal(usd))}}) for usd in (1, 2)]
    with pytest.raises(CorruptLedger, match="written elsewhere"):
        joined({}, pages)
    with pytest.raises(CorruptLedger, match="written elsewhere"):
        joined(pages[0].spans, pages[1:])


def test_operators_that_know_no_pages_refuse_a_ledger_with_pages() -> None:
    text = encode(Book(), [PageRef(1, "b"), PageRef(0, "a")])
    assert decode_paged(text) == (Book(), (PageRef(0, "a"), PageRef(1, "b")))
    document = json.loads(text)
    assert document["version"] == 2  # they read version 1 only
    with pytest.raises(CorruptLedger, match="lies in pages"):
        decode(text)
    for bad in ([[0]], [["0", "a"]], [[0, 1]], None, 7):
        with pytest.raises(CorruptLedger, match="damaged"):
            decode_paged(json.dumps(document | {"pages": bad}))
    del document["pages"]
    with pytest.raises(CorruptLedger, match="damaged"):
        decode_paged(json.dumps(document))


class Objects:
    """ConfigMaps by name, as they are at each look."""

    def __init__(self, *looks: dict[str, Stored]) -> None:
        self.looks = list(looks)
        self.asked: list[str] = []

    async def get(self, name: str) -> Stored | None:
        self.asked.append(name)
        if name == NAME and self.asked.count(NAME) > 1 and len(self.looks) > 1:
            self.looks.pop(0)
        return self.looks[0].get(name)


def stored(book: Book) -> dict[str, Stored]:
    """The ledger in pages, all of them in the first two places."""
    pages, opened = turned(book.spans, NOON, ())
    refs = {PageRef(n % 2, page.name): page for n, page in enumerate(pages)}
    content = pack(replace(book, spans=opened), pages=list(refs))
    assert content is not None and len(refs) > 1
    places = [Stored({}, {r.name: p.text for r, p in refs.items() if r.place == n}) for n in range(2)]
    return {NAME: Stored.holding(content), f"{NAME}-0": places[0], f"{NAME}-1": places[1]}


async def test_a_reader_puts_the_ledger_together() -> None:
    book = fold(busy_book(20, NOON, days=40), NOON)
    objects = Objects(stored(book))
    found = await read(objects.get, "system")
    assert found is not None
    assert found.book == book
    assert total(found.book) == total(book)
    assert len(objects.asked) == 3
    assert await read(Objects({}).get, "system") is None


async def test_a_reader_begins_anew_where_pages_were_replaced_meanwhile() -> None:
    first = fold(busy_book(20, NOON, days=40), NOON)
    second = later(first, NOON - timedelta(days=2))
    old, new = stored(first), stored(second)
    between = new | {NAME: old[NAME]}  # the old object was read, then its pages were swept away
    found = await read(Objects(between, new).get, "system")
    assert found is not None
    assert found.book == second
    lost = Objects(between)
    with pytest.raises(MissingPage, match=f"ConfigMap system/{NAME}-. lacks page"):
        await read(lost.get, "system")
    assert lost.asked.count(NAME) == 3


@pytest.mark.parametrize("place", [-1, 16])
async def test_a_page_in_no_place_is_corrupt(place: int) -> None:
    objects = Objects({NAME: Stored({PLAIN_KEY: encode(Book(), [PageRef(place, "a")])}, {})})
    with pytest.raises(CorruptLedger, match=f"system/{NAME}: page a is said to lie in {NAME}-{place}"):
        await read(objects.get, "system")
