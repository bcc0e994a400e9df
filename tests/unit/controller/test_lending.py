"""What gateways may go on spending without a word, and what the next leader knows of it."""

from __future__ import annotations

from datetime import UTC, datetime

from spillway.controller.lending import allows_more, cluster_of, leased, lent, no_more_than
from spillway.gateway.runtime import Leased
from spillway.ledger import Book, Pair, Process
from spillway.ledger.book import Watermark
from spillway.observe import money
from spillway.observe.money import Money

PAIR, OTHER = Pair("chat", "glm-5", "zai", "glm-5.1"), Pair("chat", "glm-5", "deep", "glm-5")
ONE, TWO = Process("gw-0", "p0"), Process("gw-1", "p1")
READ = Watermark(datetime(2026, 11, 23, tzinfo=UTC), {})
BOOK = Book(gateways={ONE: READ, TWO: READ}, caps={ONE: {PAIR: 8}, TWO: {PAIR: 4, OTHER: 2}})


def test_what_processes_have_told_counts_by_more_than_the_shortest_lease() -> None:
    known = {
        "p0": {cluster_of(PAIR): Leased(5, 3600), cluster_of(OTHER): Leased(9, 15)},
        "p1": {cluster_of(PAIR): Leased(3, 60)},
    }
    assert leased(BOOK, known, [PAIR, OTHER]) == {PAIR: money.Leased(8, 3600)}
    assert leased(BOOK, {"p0": {}, "p1": {}}, [PAIR, OTHER]) == {}, "told, and nothing held"


def test_of_a_process_that_has_not_told_yet_the_book_counts() -> None:
    assert leased(BOOK, {}, [PAIR, OTHER]) == {}, "with the shortest lease all is counted anyway"
    hour = Book(gateways=BOOK.gateways, caps=BOOK.caps, leases={TWO: 300})
    assert leased(hour, {}, [PAIR, OTHER]) == {PAIR: money.Leased(4, 300), OTHER: money.Leased(2, 300)}
    known = {"p1": {cluster_of(PAIR): Leased(1, 60)}}
    assert leased(hour, known, [PAIR, OTHER]) == {PAIR: money.Leased(1, 60)}


def test_the_book_knows_what_comes_and_what_may_still_be_there() -> None:
    soon = Money(caps={PAIR: 2}, lease_seconds={"chat": 60, "search": 3600})
    assert lent(BOOK, {}, soon).leases == {ONE: 60, TWO: 60}
    known = {"p0": {cluster_of(PAIR): Leased(5, 3600)}, "p1": {}}
    hour = lent(BOOK, known, soon)
    assert hour.leases == {ONE: 3600, TWO: 60}
    shortest = Money(caps={PAIR: 2}, lease_seconds={"chat": 15})
    assert lent(hour, known, shortest).leases == {ONE: 3600}
    assert lent(hour, {"p1": {}}, shortest).leases == {ONE: 3600}, "who has not told us may have what it had"
    assert lent(hour, {"p0": {}, "p1": {}}, shortest).leases == {}


def test_more_than_is_stored() -> None:
    assert not allows_more(BOOK, BOOK)
    assert allows_more(BOOK, None)
    hour = lent(BOOK, {}, Money(caps={PAIR: 2}, lease_seconds={"chat": 3600}))
    assert allows_more(hour, BOOK)
    assert not allows_more(BOOK, hour)
    assert not allows_more(hour, hour)


def test_neither_a_cap_nor_a_lease_grows() -> None:
    before = Money(caps={PAIR: 3}, lease_seconds={"chat": 60})
    view = Money(caps={PAIR: 5, OTHER: 2}, lease_seconds={"chat": 3600, "search": 300})
    kept = no_more_than(view, before)
    assert (kept.caps, kept.lease_seconds) == ({PAIR: 3, OTHER: 0}, {"chat": 60, "search": 15})
    smaller = Money(caps={PAIR: 1}, lease_seconds={"chat": 15})
    assert no_more_than(smaller, before) == smaller
