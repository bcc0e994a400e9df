"""Pages: closed time of a ledger that is too large for one object.

What is open (watermarks, caps, the last hours) stays in the ledger object, in one write. Time that is over changes
seldom (it is folded, or somebody adjusts it), so it lies in pages, each named by the digest of what it holds. A page
never changes: another one takes its place, and counts from when the ledger object names it. So the write of that one
object still decides all: whoever dies before it has left pages behind that nobody names.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from .book import QUARTER_SECONDS, Amount, Book, Key, Span
from .codec import CorruptLedger, PageRef, decode, encode

OPEN_SECONDS: Final = 3600
"""What ended longer ago is closed: charges go to the present, but for the few that were late."""
PAGE_AMOUNTS: Final = 10_000
"""About 120 kB compressed, and a tenth of a second to write: the page of the present day is written each quarter."""
FINE_AMOUNTS: Final = 300_000
"""With more, quarter-hours older than a day fold into hours: each amount takes some 450 bytes of the operator."""
ALL_QUARTERS: Final = 2**22
"""A power of two that no time reaches: the year 2089."""

Bucket = Mapping[Key, Amount]


class MissingPage(CorruptLedger):
    """The ledger names a page that is not where it should be: replaced since the ledger was read, or lost."""


@dataclass(frozen=True, slots=True)
class Page:
    """Some closed time, and as it is stored."""

    name: str
    spans: Mapping[Span, Bucket]
    packed: bytes

    @classmethod
    def of(cls, spans: Mapping[Span, Bucket]) -> Page:
        packed = gzip.compress(encode(Book(spans=spans)).encode(), mtime=0)
        return cls(hashlib.sha256(packed).hexdigest()[:32], spans, packed)

    @property
    def text(self) -> str:
        """As binaryData has it."""
        return base64.b64encode(self.packed).decode()

    def holds(self, spans: Mapping[Span, Bucket]) -> bool:
        """Whether these are its buckets, as objects: functions of the ledger leave what they do not touch."""
        return spans.keys() == self.spans.keys() and all(self.spans[span] is bucket for span, bucket in spans.items())


def turned(spans: Mapping[Span, Bucket], now: datetime, known: Iterable[Page]) -> tuple[list[Page], dict[Span, Bucket]]:
    """The pages of what is closed, of `known` those that still hold it, and the buckets that are open."""
    end = int((now - timedelta(seconds=OPEN_SECONDS)).timestamp()) // QUARTER_SECONDS
    closed = {span: bucket for span, bucket in spans.items() if span.start + span.quarters <= end}
    by_spans = {frozenset(page.spans): page for page in known}
    pages = []
    for own in groups(closed):
        page = by_spans.get(frozenset(own))
        pages.append(page if page is not None and page.holds(own) else Page.of(own))
    return pages, {span: bucket for span, bucket in spans.items() if span not in closed}


def groups(spans: Mapping[Span, Bucket]) -> Iterator[dict[Span, Bucket]]:
    """Groups of at most `PAGE_AMOUNTS`, or of one bucket: halves of halves of time, so that what is added to one group
    does not move the limits of the others."""
    yield from _halves(spans, sorted(spans), 0, ALL_QUARTERS)


def _halves(
    spans: Mapping[Span, Bucket], chosen: Sequence[Span], start: int, quarters: int
) -> Iterator[dict[Span, Bucket]]:
    if not chosen:
        return
    if len(chosen) == 1 or sum(len(spans[span]) for span in chosen) <= PAGE_AMOUNTS:
        yield {span: spans[span] for span in chosen}
    elif quarters == 1:  # of one moment, but of different length
        yield from ({span: spans[span]} for span in chosen)
    else:
        half = quarters // 2
        later = next((n for n, span in enumerate(chosen) if span.start >= start + half), len(chosen))
        yield from _halves(spans, chosen[:later], start, half)
        yield from _halves(spans, chosen[later:], start + half, half)


def unpacked(ref: PageRef, stored: Mapping[str, str | bytes], where: str) -> Page:
    """The page as an object's binaryData has it. Raises `MissingPage`, or `CorruptLedger` where it is damaged."""
    text = stored.get(ref.name)
    if text is None:
        raise MissingPage(f"ConfigMap {where} lacks page {ref.name} of the ledger")
    try:
        packed = base64.b64decode(text, validate=True)
        if hashlib.sha256(packed).hexdigest()[:32] != ref.name:
            raise CorruptLedger("it is not what was written")
        return Page(ref.name, decode(gzip.decompress(packed).decode()).spans, packed)
    except (ValueError, EOFError, OSError, zlib.error, CorruptLedger) as error:
        raise CorruptLedger(f"ConfigMap {where}, page {ref.name}: {error}") from error


def joined(spans: Mapping[Span, Bucket], pages: Iterable[Page]) -> dict[Span, Bucket]:
    """All time of the ledger. Raises `CorruptLedger` where two hold the same."""
    whole = dict(spans)
    for page in pages:
        if twice := whole.keys() & page.spans.keys():
            raise CorruptLedger(f"page {page.name} has time that is written elsewhere: {min(twice).begins.isoformat()}")
        whole |= page.spans
    return whole
