"""The one ledger object: a ConfigMap that holds spend and watermarks in one write, guarded by its resourceVersion."""

from __future__ import annotations

import asyncio
import base64
import gzip
import zlib
from datetime import datetime, timedelta
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from kubernetes.aio.client import ApiException, V1ConfigMap, V1ObjectMeta

from .book import Book, fold
from .codec import CorruptLedger, decode, encode

if TYPE_CHECKING:
    from kubernetes.aio.client import CoreV1Api

NAME: Final = "spillway-ledger"
PLAIN_KEY: Final = "ledger.json"
PACKED_KEY: Final = "ledger.json.gz"
PLAIN_BYTES: Final = 64 * 1024
"""Up to this size the object stays readable with kubectl; beyond it is compressed."""
OBJECT_BYTES: Final = 1_000_000
"""The API server takes 1 MiB (1,048,576 bytes) of data in a ConfigMap."""
FLOWING_SECONDS: Final = 10
IDLE_SECONDS: Final = 60


class LedgerConflict(Exception):
    """Somebody else wrote, created or deleted the object since it was read.

    Never merge: charges are differences against watermarks. Load the book again and charge the readings again; the
    stored watermarks make that safe. If this happens more than once, there are two leaders.
    """


class LedgerGone(LedgerConflict):
    """Somebody deleted the object. Loading would give nothing: write the book in hand again, which creates it anew."""


class LedgerTooLarge(Exception):
    """The book does not fit into one object although it has been folded."""


def due(now: datetime, last_written: datetime | None, flowing: bool) -> bool:
    """Whether a changed book should be written now: 10 s after the last write while external money flows, else 60 s."""
    if last_written is None:
        return True
    return now - last_written >= timedelta(seconds=FLOWING_SECONDS if flowing else IDLE_SECONDS)


def pack(book: Book, limit_bytes: int = OBJECT_BYTES) -> dict[str, str] | bytes | None:
    """The book as readable data, as compressed bytes, or None where it fits neither way."""
    text = encode(book)
    raw = text.encode()
    if len(raw) <= min(PLAIN_BYTES, limit_bytes):
        return {PLAIN_KEY: text}
    packed = gzip.compress(raw, mtime=0)
    return packed if len(packed) <= limit_bytes else None


def unpack(data: dict[str, str] | None, binary_data: dict[str, str | bytes] | None) -> Book:
    """The book in a ConfigMap's data. Raises `CorruptLedger` where there is none or it is damaged."""
    if data and PLAIN_KEY in data:
        return decode(data[PLAIN_KEY])
    if binary_data and PACKED_KEY in binary_data:
        try:
            text = gzip.decompress(base64.b64decode(binary_data[PACKED_KEY], validate=True)).decode()
        except (ValueError, EOFError, OSError, zlib.error) as error:
            raise CorruptLedger(f"{PACKED_KEY} cannot be unpacked: {error}") from error
        return decode(text)
    raise CorruptLedger(f"the object has neither {PLAIN_KEY} nor {PACKED_KEY}")


class LedgerStore:
    """Loads and writes the ledger object. Only the leader writes; every write must follow the version last seen."""

    def __init__(self, api: CoreV1Api, namespace: str, name: str = NAME, limit_bytes: int = OBJECT_BYTES) -> None:
        self._api = api
        self._namespace = namespace
        self._name = name
        self._limit_bytes = limit_bytes
        self._version: str | None = None

    async def load(self) -> Book | None:
        """The stored book, or None where no object exists (a first start: the caller says so aloud).

        Raises `CorruptLedger` where the object cannot be read, and the API's own errors.
        """
        try:
            stored = await self._api.read_namespaced_config_map(self._name, self._namespace)
        except ApiException as error:
            if error.status != HTTPStatus.NOT_FOUND:
                raise
            self._version = None
            return None
        self._version = _version(stored)
        try:
            return unpack(stored.data, stored.binary_data)
        except CorruptLedger as error:
            raise CorruptLedger(f"ConfigMap {self._namespace}/{self._name}: {error}") from error

    async def write(self, book: Book, now: datetime) -> Book:
        """Store the book and return it as stored: old buckets folded, further if it would not fit.

        Raises `LedgerConflict` where the object is not the one last loaded or written, and `LedgerTooLarge`.
        """
        # In a thread: a large ledger takes a second, and who holds the lease must say so meanwhile.
        book, content = await asyncio.to_thread(self._fitting, book, now)
        body = V1ConfigMap(
            metadata=V1ObjectMeta(
                name=self._name,
                namespace=self._namespace,
                resource_version=self._version,
                labels={"app.kubernetes.io/part-of": "spillway", "app.kubernetes.io/managed-by": "spillway"},
            ),
            data=content if isinstance(content, dict) else None,
            binary_data={PACKED_KEY: base64.b64encode(content).decode()} if isinstance(content, bytes) else None,
        )
        try:
            if self._version is None:
                stored = await self._api.create_namespaced_config_map(self._namespace, body, field_manager="spillway")
            else:
                stored = await self._api.replace_namespaced_config_map(
                    self._name, self._namespace, body, field_manager="spillway"
                )
        except ApiException as error:
            where = f"ConfigMap {self._namespace}/{self._name}"
            if error.status == HTTPStatus.NOT_FOUND and self._version is not None:
                self._version = None
                raise LedgerGone(f"{where} was deleted by somebody; write the book again") from error
            if error.status == HTTPStatus.CONFLICT:
                raise LedgerConflict(f"{where} was written by somebody else; load it again") from error
            raise
        self._version = _version(stored)
        return book

    def _fitting(self, book: Book, now: datetime) -> tuple[Book, dict[str, str] | bytes]:
        for quarters in (1, 4):
            folded = fold(book, now, quarters)
            content = pack(folded, self._limit_bytes)
            if content is not None:
                return folded, content
        raise LedgerTooLarge(
            f"the ledger does not fit into {self._limit_bytes} bytes: {len(book.spans)} time buckets, "
            f"{len(book.pods)} pods, {len(book.gateways)} gateway processes; nothing was written"
        )


def _version(stored: V1ConfigMap) -> str:
    if stored.metadata is None or stored.metadata.resource_version is None:
        raise ValueError("the API server returned a ConfigMap without a resourceVersion")
    return stored.metadata.resource_version
