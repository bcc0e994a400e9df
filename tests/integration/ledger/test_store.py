"""The ledger on a real API server: one object, and pages beside it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import uuid4

import pytest
from kubernetes.aio import config
from kubernetes.aio.client import ApiException, CoreV1Api, V1Namespace, V1ObjectMeta

from spillway.act.kube import Kube as Client
from spillway.cli import bill
from spillway.ledger.book import Book, ProviderModel, total
from spillway.ledger.codec import CorruptLedger
from spillway.ledger.external import EgressSample, charge_reading
from spillway.ledger.price import Price
from spillway.ledger.store import LedgerConflict, LedgerGone, LedgerStore
from spillway.ledger.stored import NAME, OBJECT_BYTES, PACKED_KEY, PLACES, PLAIN_KEY, LedgerTooLarge
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

    async def versions(self) -> dict[str, str]:
        """Of each of the ledger's objects that there is, by name."""
        found: Any = await self.api.list_namespaced_config_map(self.namespace)
        return {o.metadata.name: o.metadata.resource_version for o in found.items if o.metadata.name in (NAME, *PLACES)}

    async def pages(self) -> dict[str, str]:
        """The place of each page that is stored, named by the ledger or not."""
        found: Any = await self.api.list_namespaced_config_map(self.namespace)
        return {page: o.metadata.name for o in found.items if o.metadata.name in PLACES for page in o.binary_data or {}}


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


SMALL = 200_000  # bytes of an object: twenty busy deployments do not fit, a page does


async def test_a_book_that_does_not_fit_keeps_its_closed_time_in_pages(place: Place) -> None:
    store, book = place.store(SMALL), busy_book(20, NOON)
    written = await store.write(book, NOON)
    assert spent(written) == spent(book)
    assert await place.store().load() == written
    assert await bill.read(Client(place.api.api_client), place.namespace) == written, "what people ask"
    before, pages = await place.versions(), await place.pages()
    assert len(before) > 2
    # What is spent now moves none of them.
    more = charged(written, 1)
    assert await store.write(more, NOON) == more
    after = await place.versions()
    assert {name for name in after if after[name] != before[name]} == {NAME}
    # An hour later the closed time has grown: what is replaced is removed once nobody names it.
    later = NOON + timedelta(hours=1)
    folded = await store.write(more, later)
    assert spent(folded) == spent(more)
    assert await place.store().load() == folded
    moved = await place.pages()
    assert moved.keys() - pages.keys()
    assert {page: moved[page] for page in moved.keys() & pages.keys()} == {
        page: pages[page] for page in moved.keys() & pages.keys()
    }, "what stays, stays where it is"
    # The next leader goes on from there, and writes no page that is stored.
    following = place.store(SMALL)
    loaded = await following.load()
    assert loaded is not None
    before = await place.versions()
    await following.write(charged(loaded, 2), later)
    after = await place.versions()
    assert {name for name in after if after[name] != before[name]} == {NAME}


async def test_what_fits_no_way_is_not_written(place: Place) -> None:
    book = busy_book(20, NOON)
    store = place.store(SMALL)
    written = await store.write(book, NOON)
    before = await place.versions()
    tiny = place.store(limit_bytes=1_000)
    await tiny.load()
    with pytest.raises(LedgerTooLarge, match="what is open of the ledger does not fit into 1000 bytes"):
        await tiny.write(book, NOON)
    narrow = place.store(limit_bytes=20_000)
    with pytest.raises(LedgerTooLarge, match="does not fit into 16 objects of 20000 bytes"):
        await narrow.write(busy_book(40, NOON), NOON)
    assert await place.versions() == before
    assert await place.store().load() == written


async def test_a_writer_that_dies_before_the_ledger_names_its_pages_changes_nothing(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = place.store(SMALL)
    written = await store.write(busy_book(20, NOON), NOON)
    later = NOON + timedelta(hours=5)
    with monkeypatch.context() as broken:
        broken.setattr(store, "_put_ledger", dying)
        with pytest.raises(ConnectionError):
            await store.write(charged(written, 1), later)
    successor = place.store(SMALL)
    assert await successor.load() == written
    orphans = await place.pages()
    final = await successor.write(charged(written, 2), later + timedelta(hours=1))
    assert await place.store().load() == final
    assert len(await place.pages()) < len(orphans), "what the dead one left is swept away"


async def dying(content: object) -> None:
    raise ConnectionError("the operator was killed")


async def test_of_two_writers_of_pages_the_second_is_refused_and_the_first_ones_pages_stay(place: Place) -> None:
    stale, leader = place.store(SMALL), place.store(SMALL)
    first = await leader.write(busy_book(20, NOON), NOON)
    assert await stale.load() == first
    later = NOON + timedelta(hours=5)
    await stale._look()  # it saw the pages before the leader replaced them
    second = await leader.write(charged(first, 1), later)
    with pytest.raises(LedgerConflict, match="load it again"):
        await stale.write(charged(first, 2), later + timedelta(hours=1))
    assert await place.store().load() == second
    again = await stale.load()
    assert again == second
    final = await stale.write(charged(second, 2), later + timedelta(hours=1))
    with pytest.raises(LedgerConflict, match="load it again"):
        await leader.write(charged(second, 3), later + timedelta(hours=2))
    assert await place.store().load() == final


async def test_deleted_objects_of_pages_are_written_anew_from_the_book_in_hand(place: Place) -> None:
    store = place.store(SMALL)
    book = await store.write(busy_book(20, NOON), NOON)
    objects = sorted(set((await place.pages()).values()))
    assert len(objects) > 1
    for lost in objects:
        await place.api.delete_namespaced_config_map(lost, place.namespace)
    with pytest.raises(CorruptLedger, match=f"ConfigMap {place.namespace}/{NAME}-. lacks page"):
        await place.store().load()
    later = NOON + timedelta(hours=1)  # few pages are made anew, the others are written as they were
    final = await store.write(book, later)
    assert spent(final) == spent(book)
    assert await place.store().load() == final


async def test_a_ledger_of_which_all_is_deleted_is_written_anew_at_once(place: Place) -> None:
    """Its pages, too: what named them was deleted as well, and none of them is new."""
    store = place.store(SMALL)
    book = await store.write(busy_book(20, NOON), NOON)
    await store.write(charged(book, 1), NOON)  # it has looked at them since
    for name in await place.versions():
        await place.api.delete_namespaced_config_map(name, place.namespace)
    with pytest.raises(LedgerGone):
        await store.write(charged(book, 2), NOON)
    final = await store.write(charged(book, 2), NOON)
    assert await place.store().load() == final


async def test_pages_that_somebody_deleted_are_noticed_within_a_quarter_of_an_hour(place: Place) -> None:
    store = place.store(SMALL)
    book = await store.write(busy_book(20, NOON), NOON)
    for seconds in (1, 2):
        await store.write(charged(book, seconds), NOON + timedelta(seconds=seconds))
    await place.api.delete_namespaced_config_map(PLACES[0], place.namespace)
    for minutes in (15, 16):
        later = NOON + timedelta(minutes=minutes)
        try:
            book = await store.write(charged(book, minutes), later)
        except LedgerGone:
            book = await store.write(charged(book, minutes), later)
    assert await place.store().load() == book


async def test_each_write_of_an_object_of_pages_moves_its_version(place: Place) -> None:
    """Also where nothing in it changes: whoever is about to sweep a page away must see that it is wanted again."""
    store = place.store()
    versions = set()
    for _ in range(2):
        await store._look()
        await store._put_place(0, {"page": "eA=="})
        versions.add((await place.versions())[PLACES[0]])
    assert len(versions) == 2


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
