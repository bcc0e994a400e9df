"""How the ledger lies in ConfigMaps: one holds spend and watermarks, which belong to one moment, in one write.

Where the book does not fit into it, closed time lies in pages in objects beside it (see `pages`).
"""

from __future__ import annotations

import asyncio
import base64
import gzip
import zlib
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Final, NamedTuple

from .book import Book, Span, fold
from .codec import CorruptLedger, PageRef, decode_paged, encode
from .pages import FINE_AMOUNTS, Bucket, MissingPage, Page, joined, turned, unpacked

NAME: Final = "spillway-ledger"
PLACES: Final = tuple(f"{NAME}-{n}" for n in range(16))
"""Objects of pages, as manifests/base/rbac-operator.yaml names them."""
PLAIN_KEY: Final = "ledger.json"
PACKED_KEY: Final = "ledger.json.gz"
PLAIN_BYTES: Final = 64 * 1024
"""Up to this size the object stays readable with kubectl; beyond it is compressed."""
OBJECT_BYTES: Final = 1_000_000
"""The API server takes 1 MiB (1,048,576 bytes) of data in a ConfigMap."""
READS: Final = 3
"""Times that a reader begins anew because a page was replaced while it read: that happens once in minutes."""

Content = dict[str, str] | bytes


class Stored(NamedTuple):
    """What a ConfigMap holds: `data`, and `binaryData` in base64."""

    data: Mapping[str, str]
    binary: Mapping[str, str | bytes]

    @classmethod
    def of(cls, config_map: Mapping[str, Any]) -> Stored:
        """Of the object as the API has it in JSON."""
        return cls(config_map.get("data") or {}, config_map.get("binaryData") or {})

    @classmethod
    def holding(cls, content: Content) -> Stored:
        """Of the ledger object with what `pack` made."""
        if isinstance(content, bytes):
            return cls({}, {PACKED_KEY: base64.b64encode(content).decode()})
        return cls(content, {})


class LedgerTooLarge(Exception):
    """The book does not fit although its closed time has been folded and laid into pages."""


@dataclass(frozen=True)
class Room:
    """What an object of pages holds before a write: bytes, and names of pages, whether the ledger names them or not."""

    used_bytes: int = 0
    names: Collection[str] = ()


@dataclass(frozen=True)
class Layout:
    """A book as it is to be stored: what the ledger object holds, and the pages that it names."""

    book: Book
    content: Content
    pages: Mapping[PageRef, Page] = field(default_factory=dict)


@dataclass(frozen=True)
class Found:
    """The stored ledger: the whole book, and its pages by where they lie."""

    book: Book
    pages: Mapping[PageRef, Page] = field(default_factory=dict)


def pack(book: Book, limit_bytes: int = OBJECT_BYTES, pages: Sequence[PageRef] = ()) -> Content | None:
    """The book, but for its pages, as readable data, as compressed bytes, or None where it fits neither way."""
    text = encode(book, pages)
    raw = text.encode()
    if len(raw) <= min(PLAIN_BYTES, limit_bytes):
        return {PLAIN_KEY: text}
    packed = gzip.compress(raw, mtime=0)
    return packed if len(packed) <= limit_bytes else None


def unpack(stored: Stored) -> tuple[Book, tuple[PageRef, ...]]:
    """The book in the ledger object, but for what lies in the pages that it names. Raises `CorruptLedger` where there
    is none or it is damaged."""
    if PLAIN_KEY in stored.data:
        text = stored.data[PLAIN_KEY]
    elif PACKED_KEY in stored.binary:
        try:
            text = gzip.decompress(base64.b64decode(stored.binary[PACKED_KEY], validate=True)).decode()
        except (ValueError, EOFError, OSError, zlib.error) as error:
            raise CorruptLedger(f"{PACKED_KEY} cannot be unpacked: {error}") from error
    else:
        raise CorruptLedger(f"the object has neither {PLAIN_KEY} nor {PACKED_KEY}")
    book, pages = decode_paged(text)
    if unknown := [ref for ref in pages if not 0 <= ref.place < len(PLACES)]:
        raise CorruptLedger(f"page {unknown[0].name} is said to lie in {NAME}-{unknown[0].place}, which cannot be")
    return book, pages


def laid_out(
    book: Book,
    now: datetime,
    stored: Mapping[PageRef, Page],
    rooms: Sequence[Room],
    limit_bytes: int = OBJECT_BYTES,
) -> Layout:
    """The book with its closed time in pages: those that are `stored` stay where they are, and so do those that a write
    left that came to nothing; new ones go to the first place with room. Raises `LedgerTooLarge`."""
    if _amounts(book.spans) > FINE_AMOUNTS:
        book = fold(book, now, quarters=4)
    pages, open_spans = turned(book.spans, now, stored.values())
    refs = {name: PageRef(n, name) for n, room in enumerate(rooms) for name in room.names}
    refs |= {ref.name: ref for ref in stored}
    used, found = [room.used_bytes for room in rooms], dict[PageRef, Page]()
    for page in pages:
        ref = refs.get(page.name)
        if ref is None:
            roomy = next((n for n, held in enumerate(used) if held + len(page.packed) <= limit_bytes), None)
            if roomy is None:
                raise LedgerTooLarge(
                    f"the ledger does not fit into {len(used)} objects of {limit_bytes} bytes: "
                    f"{_amounts(book.spans)} amounts; nothing was written"
                )
            used[roomy] += len(page.packed)
            ref = PageRef(roomy, page.name)
        found[ref] = page
    content = pack(replace(book, spans=open_spans), limit_bytes, list(found))
    if content is None:
        raise LedgerTooLarge(
            f"what is open of the ledger does not fit into {limit_bytes} bytes: "
            f"{_amounts(open_spans)} amounts, {len(book.pods)} pods, "
            f"{len(book.gateways)} gateway processes; nothing was written"
        )
    return Layout(book, content, found)


def _amounts(spans: Mapping[Span, Bucket]) -> int:
    return sum(len(bucket) for bucket in spans.values())


async def read(get: Callable[[str], Awaitable[Stored | None]], namespace: str) -> Found | None:
    """The stored ledger by way of `get`, which gives what a ConfigMap of that name holds, or None where there is none.

    None where there is no ledger object. Raises `CorruptLedger` with words that name the `namespace`, and what `get`
    raises.
    """
    for left in reversed(range(READS)):
        root = await get(NAME)
        if root is None:
            return None
        try:
            book, refs = unpack(root)
        except CorruptLedger as error:
            raise CorruptLedger(f"ConfigMap {namespace}/{NAME}: {error}") from error
        places = {n: await get(PLACES[n]) for n in sorted({ref.place for ref in refs})}
        try:
            return await asyncio.to_thread(_found, book, refs, places, namespace)
        except MissingPage:
            if not left:
                raise
    raise AssertionError("the last turn returns or raises")


def _found(book: Book, refs: Sequence[PageRef], places: Mapping[int, Stored | None], namespace: str) -> Found:
    pages = {}
    for ref in refs:
        stored = places[ref.place]
        pages[ref] = unpacked(ref, stored.binary if stored else {}, f"{namespace}/{PLACES[ref.place]}")
    return Found(replace(book, spans=joined(book.spans, pages.values())), pages)
