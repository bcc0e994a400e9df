"""Keeps the ledger on the API server. Only the leader writes; every write must follow the version last seen."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from http import HTTPStatus
from typing import TYPE_CHECKING, Final
from uuid import uuid4

from aiohttp import ClientError
from kubernetes.aio.client import ApiException, V1ConfigMap, V1ObjectMeta

from .book import Book, fold
from .codec import PageRef
from .pages import Page
from .stored import NAME, OBJECT_BYTES, PLACES, Content, Layout, Room, Stored, laid_out, pack, read

if TYPE_CHECKING:
    from kubernetes.aio.client import CoreV1Api

log = logging.getLogger(__name__)

WRITTEN: Final = "spillway.dev/written"
"""Annotation of an object of pages: another value at each write."""
FLOWING_SECONDS: Final = 10
IDLE_SECONDS: Final = 60


class LedgerConflict(Exception):
    """Somebody else wrote, created or deleted the object since it was read.

    Never merge: charges are differences against watermarks. Load the book again and charge the readings again; the
    stored watermarks make that safe. If this happens more than once, there are two leaders.
    """


class LedgerGone(LedgerConflict):
    """Somebody deleted the object. Loading would give nothing: write the book in hand again, which creates it anew."""


def due(now: datetime, last_written: datetime | None, flowing: bool) -> bool:
    """Whether a changed book should be written now: 10 s after the last write while external money flows, else 60 s."""
    if last_written is None:
        return True
    return now - last_written >= timedelta(seconds=FLOWING_SECONDS if flowing else IDLE_SECONDS)


@dataclass
class _Place:
    """An object of pages as it was last seen. `version` is None where there is none."""

    version: str | None = None
    texts: Mapping[str, str | bytes] = field(default_factory=dict)  # base64, by name

    @property
    def size(self) -> int:
        return sum(len(text) * 3 // 4 for text in self.texts.values())


class LedgerStore:
    """Loads and writes the ledger object, and the pages that it names."""

    def __init__(self, api: CoreV1Api, namespace: str, limit_bytes: int = OBJECT_BYTES) -> None:
        self._api = api
        self._namespace = namespace
        self._limit_bytes = limit_bytes
        self._version: str | None = None
        self._pages: Mapping[PageRef, Page] = {}  # that the stored ledger names
        self._places: list[_Place] | None = None  # None: look first

    async def load(self) -> Book | None:
        """The stored book, or None where no object exists (a first start: the caller says so aloud).

        Raises `CorruptLedger` where the object cannot be read, and the API's own errors.
        """
        versions: dict[str, str | None] = {}

        async def get(name: str) -> Stored | None:
            found = await self._config_map(name)
            versions[name] = _version(found) if found else None
            return Stored(found.data or {}, found.binary_data or {}) if found else None

        found = await read(get, self._namespace)
        # Only now: whoever knows the newest version, but not what it holds, would overwrite it.
        self._version, self._pages, self._places = versions[NAME], found.pages if found else {}, None
        return found.book if found else None

    async def write(self, book: Book, now: datetime) -> Book:
        """Store the book and return it as stored: old buckets folded, further where they are very many.

        Raises `LedgerConflict` where an object is not the one last seen, and `LedgerTooLarge`.
        """
        # In a thread: a large ledger takes a second, and who holds the lease must say so meanwhile.
        folded = await asyncio.to_thread(fold, book, now)
        content = None if self._pages else await asyncio.to_thread(pack, folded, self._limit_bytes)
        if content is not None:
            layout = Layout(folded, content)
        else:
            places = await self._look()
            rooms = [self._room(n, place) for n, place in enumerate(places)]
            layout = await asyncio.to_thread(laid_out, folded, now, self._pages, rooms, self._limit_bytes)
            await self._add(layout.pages, places)
        await self._put_ledger(layout.content)
        new, self._pages = layout.pages.keys() - self._pages.keys(), layout.pages
        await self._sweep()
        if new:
            self._places = None  # looked at again before the next write: what somebody deleted is then written anew
        return layout.book

    def _room(self, n: int, place: _Place) -> Room:
        """Of that object, with the pages in it that somebody took away and that `_add` brings back."""
        lost = (p for ref, p in self._pages.items() if ref.place == n and ref.name not in place.texts)
        return Room(place.size + sum(len(page.packed) for page in lost), place.texts.keys())

    async def _add(self, pages: Mapping[PageRef, Page], places: Sequence[_Place]) -> None:
        """Write the new pages beside whatever is there. A page that nobody names is never relied on: somebody may be
        about to sweep it away, and will not where the object's version has moved."""
        for n, place in enumerate(places):
            own = {ref: page for ref, page in pages.items() if ref.place == n}
            if any(ref not in self._pages or ref.name not in place.texts for ref in own):
                await self._put_place(n, {**place.texts, **{ref.name: page.text for ref, page in own.items()}})

    async def _sweep(self) -> None:
        """Remove the pages that the ledger, as it is stored by now, does not name. If that fails, another time."""
        named = {ref.name for ref in self._pages}
        try:
            for n, place in enumerate(self._places or ()):
                kept = {name: text for name, text in place.texts.items() if name in named}
                if len(kept) < len(place.texts):
                    await self._put_place(n, kept)
        except (ApiException, ClientError, LedgerConflict, OSError, TimeoutError) as error:
            self._places = None
            log.info("old pages of the ledger stay for now", extra={"error": str(error)[:200]})

    async def _look(self) -> list[_Place]:
        if self._places is None:
            found = await asyncio.gather(*(self._config_map(name) for name in PLACES))
            self._places = [_Place(_version(one), one.binary_data or {}) if one else _Place() for one in found]
        return self._places

    async def _config_map(self, name: str) -> V1ConfigMap | None:
        try:
            return await self._api.read_namespaced_config_map(name, self._namespace)
        except ApiException as error:
            if error.status != HTTPStatus.NOT_FOUND:
                raise
            return None

    async def _put_ledger(self, content: Content) -> None:
        try:
            self._version = await self._put(NAME, self._version, Stored.holding(content))
        except LedgerGone:
            # Whoever deleted it may have deleted more, or another leader has moved on: nothing that was stored is
            # relied on.
            self._version, self._pages, self._places = None, {}, None
            raise

    async def _put_place(self, n: int, texts: Mapping[str, str | bytes]) -> None:
        assert self._places is not None, "they were looked at"
        try:
            # An API server keeps the version of what it already holds; the mark moves it, and stops a sweep under way.
            mark = {WRITTEN: uuid4().hex}
            version = await self._put(PLACES[n], self._places[n].version, Stored({}, texts), mark)
        except BaseException:
            self._places = None  # what is there now is not known
            raise
        self._places[n] = _Place(version, texts)

    async def _put(
        self, name: str, version: str | None, holds: Stored, annotations: dict[str, str] | None = None
    ) -> str:
        """Write that object and return its new version. Raises `LedgerConflict`, `LedgerGone`, and the API's own."""
        body = V1ConfigMap(
            metadata=V1ObjectMeta(
                name=name,
                namespace=self._namespace,
                resource_version=version,
                labels={"app.kubernetes.io/part-of": "spillway", "app.kubernetes.io/managed-by": "spillway"},
                annotations=annotations,
            ),
            data=dict(holds.data) or None,
            binary_data=dict(holds.binary) or None,
        )
        try:
            if version is None:
                stored = await self._api.create_namespaced_config_map(self._namespace, body, field_manager="spillway")
            else:
                stored = await self._api.replace_namespaced_config_map(
                    name, self._namespace, body, field_manager="spillway"
                )
        except ApiException as error:
            where = f"ConfigMap {self._namespace}/{name}"
            if error.status == HTTPStatus.NOT_FOUND and version is not None:
                raise LedgerGone(f"{where} was deleted by somebody; write the book again") from error
            if error.status == HTTPStatus.CONFLICT:
                raise LedgerConflict(f"{where} was written by somebody else; load it again") from error
            raise
        return _version(stored)


def _version(stored: V1ConfigMap) -> str:
    if stored.metadata is None or stored.metadata.resource_version is None:
        raise ValueError("the API server returned a ConfigMap without a resourceVersion")
    return stored.metadata.resource_version
