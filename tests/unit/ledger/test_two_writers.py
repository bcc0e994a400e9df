"""Two leaders at once, requests that are lost, late or answered to nobody, leaders that are killed: whatever was once
stored stays, once, and can be read after every single write."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from hashlib import sha256
from http import HTTPStatus
from typing import Any, Final, cast

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from kubernetes.aio.client import ApiException, CoreV1Api, V1ConfigMap, V1ObjectMeta

from spillway.ledger.book import Amount, Book, Entry, Key, add, total
from spillway.ledger.store import LedgerConflict, LedgerGone, LedgerStore
from spillway.ledger.stored import NAME, LedgerTooLarge, Stored, read

NOON: Final = datetime(2026, 11, 23, 12, tzinfo=UTC)
LIMIT_BYTES: Final = 2_000  # of an object: a few pages, or some dozen amounts
PAGE_AMOUNTS: Final = 6
PLACES: Final = tuple(f"{NAME}-{n}" for n in range(8))
ONE: Final = Amount(Decimal(1))
REFUSED: Final = 1  # request of a write that is refused, once the pages were looked at
LOADED: Final = 4  # requests of a leader that loads: the ledger and three objects of pages
LOOKED: Final = len(PLACES)
TURNS: Final = 12  # of the event loop, until everybody waits for an answer again


def key(ref: str) -> Key:
    """Of one dollar: long and different from others, so that few of them fill an object."""
    return Key("chat", sha256(ref.encode()).hexdigest(), "external", "zai", "glm-5")


@dataclass
class Request:
    """A call that the API server has not carried out yet."""

    who: int
    carry_out: Callable[[], V1ConfigMap]
    answer: asyncio.Future[V1ConfigMap]


@dataclass
class Server:
    """An API server whose calls are carried out one at a time, when the test says so."""

    objects: dict[str, V1ConfigMap] = field(default_factory=dict)
    pending: list[Request] = field(default_factory=list)
    late: list[Callable[[], V1ConfigMap]] = field(default_factory=list)  # whose caller has given up
    version: int = 0

    def put(self, name: str, body: V1ConfigMap) -> V1ConfigMap:
        """As the real one does it: what is stored already is not stored again, and its version stays."""
        asked, old = body.metadata.resource_version if body.metadata else None, self.objects.get(name)
        if asked is not None and old is None:
            raise ApiException(status=HTTPStatus.NOT_FOUND)
        if old is not None:
            assert old.metadata is not None and body.metadata is not None
            if asked != old.metadata.resource_version:
                raise ApiException(status=HTTPStatus.CONFLICT)
            if (old.data, old.binary_data, old.metadata.annotations) == (
                body.data,
                body.binary_data,
                body.metadata.annotations,
            ):
                return old
        self.version += 1
        assert body.metadata is not None
        metadata = V1ObjectMeta(resource_version=str(self.version), annotations=body.metadata.annotations)
        self.objects[name] = V1ConfigMap(metadata=metadata, data=body.data, binary_data=body.binary_data)
        return self.objects[name]

    def get(self, name: str) -> V1ConfigMap:
        if name not in self.objects:
            raise ApiException(status=HTTPStatus.NOT_FOUND)
        return self.objects[name]

    async def stored(self, name: str) -> Stored | None:
        found = self.objects.get(name)
        return Stored(found.data or {}, found.binary_data or {}) if found else None

    async def book(self) -> Book:
        found = await read(self.stored, "system")
        return found.book if found else Book()


@dataclass
class Client:
    """What one leader calls."""

    server: Server
    who: int

    async def _call(self, carry_out: Callable[[], V1ConfigMap]) -> V1ConfigMap:
        request = Request(self.who, carry_out, asyncio.get_running_loop().create_future())
        self.server.pending.append(request)
        return await request.answer

    async def read_namespaced_config_map(self, name: str, namespace: str) -> V1ConfigMap:
        return await self._call(lambda: self.server.get(name))

    async def create_namespaced_config_map(self, namespace: str, body: V1ConfigMap, **_: Any) -> V1ConfigMap:
        assert body.metadata is not None and body.metadata.name is not None
        name = body.metadata.name
        return await self._call(lambda: self.server.put(name, body))

    async def replace_namespaced_config_map(
        self, name: str, namespace: str, body: V1ConfigMap, **_: Any
    ) -> V1ConfigMap:
        return await self._call(lambda: self.server.put(name, body))


class Leader:
    """Keeps a book, as the treasury does it."""

    def __init__(self, server: Server, who: int) -> None:
        self.store = LedgerStore(cast(CoreV1Api, Client(server, who)), "system", LIMIT_BYTES)
        self.book: Book | None = None
        self.turn: asyncio.Task[None] | None = None

    async def spend(self, moments: Mapping[str, datetime], now: datetime) -> None:
        """A dollar each, unless the book has it already, and a write."""
        try:
            if self.book is None:
                self.book = await self.store.load() or Book()
            had = total(self.book)
            entries = [Entry(int(at.timestamp()), key(ref), ONE) for ref, at in moments.items() if key(ref) not in had]
            self.book = add(self.book, entries, int(now.timestamp()))
            try:
                self.book = await self.store.write(self.book, now)
            except LedgerGone:
                self.book = await self.store.write(self.book, now)
            except LedgerConflict:
                self.book = await self.store.load() or Book()
        except (ApiException, OSError, LedgerTooLarge):
            pass  # another time: the book stays in hand


class World:
    """Leaders and the server, and what has been stored up to now."""

    def __init__(self) -> None:
        self.server = Server()
        self.leaders = [Leader(self.server, who) for who in range(2)]
        self.now = NOON
        self.known: dict[Key, Amount] = {}
        self.metered: dict[str, datetime] = {}
        self.spent = 0
        self.seen = 0  # version of what was looked at

    async def begin(self) -> None:
        """A ledger in pages."""
        self.start(0, *range(60, 2400, 45))
        await self.finish(0)
        assert len(self.server.objects) > 2, "there are pages"

    def start(self, who: int, *minutes_ago: int, meter: bool = False, deaf: bool = False) -> None:
        """What a meter tells is charged by every leader, what is not by this one only (a gateway that vanished)."""
        leader = self.leaders[who]
        if leader.turn is None or leader.turn.done():
            self._end(leader)
            spent = {f"{self.spent + n}": self.now - timedelta(minutes=m) for n, m in enumerate(minutes_ago, 1)}
            self.spent += len(spent)
            self.metered |= spent if meter else {}
            leader.turn = asyncio.create_task(leader.spend(spent if deaf else self.metered | spent, self.now))

    async def kill(self, who: int) -> None:
        """What it has asked for may still be carried out."""
        leader = self.leaders[who]
        if leader.turn is not None:
            leader.turn.cancel()
        for request in [r for r in self.server.pending if r.who == who]:
            self.server.pending.remove(request)
            self.server.late.append(request.carry_out)
        await self.settle()
        self.leaders[who] = Leader(self.server, who)

    async def carry_out(self, request: Request) -> None:
        self.server.pending.remove(request)
        try:
            answer = request.carry_out()
        except ApiException as error:
            request.answer.set_exception(error)
        else:
            request.answer.set_result(answer)
        await self.look()
        await self.settle()

    async def next(self, who: int, then: str = "answered") -> None:
        """The oldest request of that leader is carried out, or its caller gives up."""
        request = next((r for r in self.server.pending if r.who == who), None)
        if request is None:
            return
        if then == "answered":
            await self.carry_out(request)
            return
        self.server.pending.remove(request)
        if then == "late":
            self.server.late.append(request.carry_out)
        request.answer.set_exception(TimeoutError())
        await self.settle()

    async def arrive(self) -> None:
        """The oldest request that nobody waits for is carried out."""
        if self.server.late:
            try:
                self.server.late.pop(0)()
            except ApiException:
                return
            await self.look()

    async def finish(self, who: int) -> None:
        await self.settle()
        while any(r.who == who for r in self.server.pending):
            await self.next(who)

    async def settle(self) -> None:
        for _ in range(TURNS):
            await asyncio.sleep(0)

    async def look(self) -> None:
        """What was stored is stored, once."""
        if self.seen == self.server.version:
            return
        self.seen = self.server.version
        found = total(await self.server.book())
        assert set(found.values()) <= {ONE}
        assert not self.known.keys() - found.keys()
        self.known = found

    async def end(self) -> None:
        """Everything arrives, and who leads next can go on."""
        for who in range(2):
            await self.finish(who)
        while self.server.late:
            await self.arrive()
        for leader in self.leaders:
            self._end(leader)
        await self.kill(0)
        self.start(0, 0)
        await self.finish(0)
        self._end(self.leaders[0])
        assert not {key(ref) for ref in (*self.metered, f"{self.spent}")} - self.known.keys()

    def _end(self, leader: Leader) -> None:
        if leader.turn is not None and leader.turn.done() and not leader.turn.cancelled():
            leader.turn.result()


@contextmanager
def small() -> Iterator[None]:
    """Pages of few amounts in few places, and no threads: every run of the same steps is the same."""

    async def here(function: Callable[..., Any], *args: Any) -> Any:
        return function(*args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("asyncio.to_thread", here)
        patch.setattr("spillway.ledger.pages.PAGE_AMOUNTS", PAGE_AMOUNTS)
        patch.setattr("spillway.ledger.store.PLACES", PLACES)
        patch.setattr("spillway.ledger.stored.PLACES", PLACES)
        yield


who = st.integers(0, 1)
steps = st.one_of(
    st.tuples(st.sampled_from(["start", "meter"]), who, st.sampled_from([0, 70, 150, 400, 900, 2300, 3000])),
    st.tuples(st.just("go on"), who, st.tuples(st.integers(0, 14), st.sampled_from(["answered", "late", "lost"]))),
    st.tuples(st.just("finish"), who, st.none()),
    st.tuples(st.just("kill"), who, st.none()),
    st.tuples(st.just("arrive"), st.none(), st.none()),
    st.tuples(st.just("pass"), st.none(), st.sampled_from([-120, 1, 15, 60, 1500])),
)


async def play(world: World, story: list[tuple[str, Any, Any]]) -> None:
    for what, leader, detail in story:
        match what:
            case "start" | "meter":
                world.start(leader, detail, meter=what == "meter")
                await world.settle()
            case "quiet":
                world.start(leader, detail, deaf=True)
                await world.settle()
            case "go on":
                requests, then = detail
                for _ in range(requests):
                    await world.next(leader)
                await world.next(leader, then)
            case "finish":
                await world.finish(leader)
            case "kill":
                await world.kill(leader)
            case "arrive":
                await world.arrive()
            case "pass":
                world.now += timedelta(minutes=detail)


TORN: Final = [
    ("start", 1, 0),
    ("finish", 1, None),
    ("start", 0, 0),  # refused: it loads, and of what it loads it gets the ledger but not its pages
    ("go on", 0, (LOOKED + REFUSED + 1, "lost")),
    ("start", 0, 0),
    ("finish", 0, None),
    ("start", 0, 0),
    ("finish", 0, None),
]
LEFT: Final = [
    ("meter", 1, 2300),
    ("go on", 1, (LOADED + LOOKED + 1, "lost")),  # it has written a page, but no ledger that names it
    ("kill", 1, None),
    ("kill", 0, None),
    ("quiet", 0, 0),
    ("go on", 0, (LOADED + LOOKED + 1, "late")),  # is about to sweep that page away
    ("meter", 1, 0),  # wants the same page
    ("finish", 1, None),
    ("arrive", None, None),
    ("arrive", None, None),
]


@given(st.lists(steps, max_size=30))
@example(TORN)
@example(LEFT)
@settings(max_examples=250, deadline=None)
def test_what_was_stored_stays_and_counts_once(story: list[tuple[str, Any, Any]]) -> None:
    async def run() -> None:
        world = World()
        await world.begin()
        await play(world, story)
        await world.end()

    with small():
        asyncio.run(run())
