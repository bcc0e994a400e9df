"""The ledger object on a real API server."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from uuid import uuid4

import pytest
from kubernetes.aio import config
from kubernetes.aio.client import ApiException, CoreV1Api, V1Namespace, V1ObjectMeta

from spillway.ledger.book import Book, ProviderModel, total
from spillway.ledger.codec import CorruptLedger
from spillway.ledger.external import EgressSample, charge_reading
from spillway.ledger.price import Price
from spillway.ledger.store import (
    NAME,
    OBJECT_BYTES,
    PACKED_KEY,
    PLAIN_KEY,
    LedgerConflict,
    LedgerGone,
    LedgerStore,
    LedgerTooLarge,
)
from tests.integration.conftest import Kube
from tests.unit.ledger.ledgers import busy_book

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
PRICES = {ProviderModel("zai", "glm-5"): Price(Decimal("1.00"), Decimal("0.20"), Decimal("3.20"))}
SAMPLE = EgressSample("chat", "glm-5", "zai", "glm-5", "metered", 1, 1000, 100, 0, 4000, 2000)


@dataclass(frozen=True)
class Place:
    """An empty namespace of its own for each test."""

    api: CoreV1Api
    namespace: str

    def store(self, limit_bytes: int = OBJECT_BYTES) -> LedgerStore:
        return LedgerStore(self.api, self.namespace, limit_bytes=limit_bytes)


@pytest.fixture
async def place(kube: Kube) -> AsyncIterator[Place]:
    client = await config.new_client_from_config(str(kube.kubeconfig))  # type: ignore[no-untyped-call]
    async with client:
        api = CoreV1Api(client)
        namespace = f"ledger-{uuid4().hex[:8]}"
        await api.create_namespace(V1Namespace(metadata=V1ObjectMeta(name=namespace)))
        yield Place(api, namespace)


def charged(book: Book, requests: int) -> Book:
    sample = replace(SAMPLE, requests=requests, prompt_tokens=1000 * requests, completion_tokens=100 * requests)
    return charge_reading(book, "gw-0", "p1", [sample], PRICES, NOON + timedelta(seconds=requests)).book


def spent(book: Book) -> Decimal:
    return sum((amount.usd for amount in total(book).values()), Decimal(0))


async def test_the_next_leader_reads_what_the_last_one_wrote(place: Place) -> None:
    first = place.store()
    assert await first.load() is None
    book = charged(Book(), 1)
    assert await first.write(book, NOON) == book
    book = charged(book, 2)
    await first.write(book, NOON)
    assert await place.store().load() == book
    stored = await place.api.read_namespaced_config_map(NAME, place.namespace)
    assert stored.data is not None and PLAIN_KEY in stored.data


async def test_of_two_writers_the_second_is_refused_and_its_readings_are_charged_once(place: Place) -> None:
    stale, leader = place.store(), place.store()
    await stale.load()
    await leader.load()
    await leader.write(charged(Book(), 3), NOON)
    with pytest.raises(LedgerConflict, match="load it again"):
        await stale.write(charged(Book(), 2), NOON)
    again = await stale.load()
    assert again is not None
    await leader.write(charged(again, 4), NOON)
    with pytest.raises(LedgerConflict, match="load it again"):
        await stale.write(charged(again, 5), NOON)
    # What LedgerConflict asks for: load, charge the same readings against the stored watermarks, write.
    newest = await stale.load()
    assert newest is not None
    await stale.write(charged(newest, 5), NOON)
    final = await place.store().load()
    assert final is not None
    assert spent(final) == 5 * Decimal("0.00132")


async def test_a_large_book_is_compressed_and_read_back(place: Place) -> None:
    store = place.store()
    written = await store.write(busy_book(20, NOON), NOON)
    assert await place.store().load() == written
    assert spent(written) == spent(busy_book(20, NOON))
    stored = await place.api.read_namespaced_config_map(NAME, place.namespace)
    assert stored.data is None
    assert stored.binary_data is not None and PACKED_KEY in stored.binary_data
    # A book that is small again leaves no compressed copy behind.
    small = charged(Book(), 1)
    await store.write(small, NOON)
    stored = await place.api.read_namespaced_config_map(NAME, place.namespace)
    assert stored.binary_data is None
    assert await place.store().load() == small


async def test_a_book_that_would_not_fit_is_folded_further_and_else_not_written(place: Place) -> None:
    book = busy_book(5, NOON)
    fine = await place.store().write(book, NOON)
    store = place.store(limit_bytes=45_000)
    await store.load()
    hourly = await store.write(book, NOON)
    assert len(hourly.spans) < len(fine.spans)
    assert spent(hourly) == spent(fine)
    tiny = place.store(limit_bytes=1_000)
    await tiny.load()
    with pytest.raises(LedgerTooLarge, match="nothing was written"):
        await tiny.write(book, NOON)
    assert await place.store().load() == hourly


async def test_a_deleted_object_is_written_anew_from_the_book_in_hand(place: Place) -> None:
    store = place.store()
    book = charged(Book(), 1)
    await store.write(book, NOON)
    await place.api.delete_namespaced_config_map(NAME, place.namespace)
    with pytest.raises(LedgerGone):
        await store.write(book, NOON)
    await store.write(book, NOON)
    assert await place.store().load() == book


async def test_a_damaged_object_is_an_error_and_stays_as_it_is(place: Place) -> None:
    await place.store().write(charged(Book(), 1), NOON)
    patch = {"data": {PLAIN_KEY: '{"version":1,"keys":'}}
    await place.api.patch_namespaced_config_map(NAME, place.namespace, patch)
    with pytest.raises(CorruptLedger, match=f"{place.namespace}/{NAME}"):
        await place.store().load()


async def test_errors_of_the_api_server_are_not_swallowed(place: Place) -> None:
    nowhere = LedgerStore(place.api, "no-such-namespace")
    assert await nowhere.load() is None
    with pytest.raises(ApiException) as caught:
        await nowhere.write(Book(), NOON)
    assert caught.value.status == 404
